package tinsmith_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	orchestratorv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/orchestrator/v1"
	"github.com/tinsmith-dev/tinsmith/clients/go/tinsmith"
)

// refusing refuses every run, unary and streamed, with all the details that a service can send.
type refusing struct {
	orchestratorv1.UnimplementedOrchestratorServiceServer
}

func (refusing) StartRun(context.Context, *orchestratorv1.StartRunRequest) (*orchestratorv1.StartRunResponse, error) {
	refusal, _ := status.New(codes.InvalidArgument, "stepz is no field of math_rl: did you mean steps?").WithDetails(
		&errdetails.ErrorInfo{Reason: "BAD_CONFIG", Domain: "tinsmith", Metadata: map[string]string{"recipe": "math_rl"}},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "stepz", Description: "unknown"}}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)},
	)
	return nil, refusal.Err()
}

func (refusing) WatchRun(*orchestratorv1.WatchRunRequest, orchestratorv1.OrchestratorService_WatchRunServer) error {
	missing, _ := status.New(codes.NotFound, "no such run").WithDetails(&errdetails.ErrorInfo{Reason: "RUN_NOT_FOUND"})
	return missing.Err()
}

func TestFailedCallCarriesReasonMetadataViolationsAndRetryDelay(t *testing.T) {
	address, _ := serve(t, "127.0.0.1:0", refusing{})
	_, err := connect(t, address).Orchestrator.StartRun(t.Context(), &orchestratorv1.StartRunRequest{})
	var failure *tinsmith.Error
	if !errors.As(err, &failure) {
		t.Fatalf("%T is no *tinsmith.Error", err)
	}
	if failure.Code != codes.InvalidArgument || failure.Reason != "BAD_CONFIG" {
		t.Errorf("code %v, reason %q", failure.Code, failure.Reason)
	}
	if !maps.Equal(failure.Metadata, map[string]string{"recipe": "math_rl"}) {
		t.Errorf("metadata %v", failure.Metadata)
	}
	if !slices.Equal(failure.Violations, []tinsmith.FieldViolation{{Field: "stepz", Description: "unknown"}}) {
		t.Errorf("violations %v", failure.Violations)
	}
	if failure.RetryAfter == nil || *failure.RetryAfter != 1500*time.Millisecond {
		t.Errorf("retry after %v", failure.RetryAfter)
	}
	if failure.Error() != "stepz is no field of math_rl: did you mean steps? [BAD_CONFIG]" {
		t.Errorf("message %q", failure.Error())
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("status.Code says %v", status.Code(err))
	}
}

func TestFailureWithoutDetailsKeepsItsCode(t *testing.T) {
	address, _ := serve(t, "127.0.0.1:0", refusing{})
	_, err := connect(t, address).Orchestrator.ListRecipes(t.Context(), &orchestratorv1.ListRecipesRequest{})
	var failure *tinsmith.Error
	if !errors.As(err, &failure) || failure.Code != codes.Unimplemented || failure.Reason != "" || failure.RetryAfter != nil {
		t.Errorf("got %#v", err)
	}
}

func TestStreamsFailWithTheSameType(t *testing.T) {
	address, _ := serve(t, "127.0.0.1:0", refusing{})
	for _, err := range connect(t, address).WatchRun(t.Context(), "run", 0) {
		var failure *tinsmith.Error
		if !errors.As(err, &failure) || failure.Reason != "RUN_NOT_FOUND" {
			t.Errorf("got %#v", err)
		}
	}
}
