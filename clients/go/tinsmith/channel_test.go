package tinsmith_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	orchestratorv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/orchestrator/v1"
	"github.com/tinsmith-dev/tinsmith/clients/go/tinsmith"
)

// shaky is unavailable for the first calls; then it echoes the display name.
// It notes how long callers would wait and by which ids they call.
type shaky struct {
	orchestratorv1.UnimplementedOrchestratorServiceServer
	failures int32
	calls    atomic.Int32
	timeLeft time.Duration
	ids      []string
	keys     []string
}

func (s *shaky) StartRun(ctx context.Context, request *orchestratorv1.StartRunRequest) (*orchestratorv1.StartRunResponse, error) {
	s.ids = append(s.ids, request.RequestId)
	if s.calls.Add(1) <= s.failures {
		return nil, status.Error(codes.Unavailable, "restarting")
	}
	s.keys = metadata.ValueFromIncomingContext(ctx, "authorization")
	deadline, _ := ctx.Deadline()
	s.timeLeft = time.Until(deadline)
	return &orchestratorv1.StartRunResponse{Run: &orchestratorv1.Run{DisplayName: request.DisplayName}}, nil
}

func TestUnavailableServiceIsTriedFourTimes(t *testing.T) {
	for failures, want := range map[int32]codes.Code{3: codes.OK, 4: codes.Unavailable} {
		servicer := &shaky{failures: failures}
		address, _ := serve(t, "127.0.0.1:0", servicer)
		_, err := connect(t, address).Orchestrator.StartRun(t.Context(), &orchestratorv1.StartRunRequest{})
		if status.Code(err) != want || servicer.calls.Load() != 4 {
			t.Errorf("%d failures: %v after %d calls", failures, err, servicer.calls.Load())
		}
	}
}

func TestTheApiKeyGoesWithEveryCallWhereThereIsOne(t *testing.T) {
	servicer := &shaky{}
	address, _ := serve(t, "127.0.0.1:0", servicer)
	for key, want := range map[string][]string{"secret": {"Bearer secret"}, "": nil} {
		t.Setenv("TINSMITH_API_KEY", key)
		if _, err := connect(t, address).Orchestrator.StartRun(t.Context(), &orchestratorv1.StartRunRequest{}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(servicer.keys, want) {
			t.Errorf("key %q arrived as %q", key, servicer.keys)
		}
	}
}

func TestRetriesOfOneCallShareARequestIdAndOtherCallsDoNot(t *testing.T) {
	servicer := &shaky{failures: 2}
	address, _ := serve(t, "127.0.0.1:0", servicer)
	suite := connect(t, address)
	request := &orchestratorv1.StartRunRequest{DisplayName: "mine"}
	for range 2 {
		answer, err := suite.Orchestrator.StartRun(t.Context(), request)
		if err != nil || answer.Run.DisplayName != "mine" {
			t.Fatal(answer, err)
		}
	}
	if ids := servicer.ids; len(ids) != 4 || ids[0] == "" || ids[0] != ids[2] || ids[0] == ids[3] || request.RequestId != "" {
		t.Errorf("called as %q, then %q", ids, request.RequestId)
	}
	request.RequestId = "given"
	if _, err := suite.Orchestrator.StartRun(t.Context(), request); err != nil || servicer.ids[4] != "given" {
		t.Errorf("called as %q, %v", servicer.ids[4], err)
	}
}

func TestUnaryCallWithoutDeadlineGetsTheDefault(t *testing.T) {
	servicer := &shaky{}
	address, _ := serve(t, "127.0.0.1:0", servicer)
	if _, err := connect(t, address).Orchestrator.StartRun(t.Context(), &orchestratorv1.StartRunRequest{}); err != nil {
		t.Fatal(err)
	}
	if servicer.timeLeft > tinsmith.DefaultTimeout || servicer.timeLeft < tinsmith.DefaultTimeout-time.Minute {
		t.Errorf("the server saw %v", servicer.timeLeft)
	}
}

func TestMessagesAboveGrpcsFourMegabytesPassBothWays(t *testing.T) {
	address, _ := serve(t, "127.0.0.1:0", &shaky{})
	name := strings.Repeat("x", 16<<20)
	answer, err := connect(t, address).Orchestrator.StartRun(t.Context(), &orchestratorv1.StartRunRequest{DisplayName: name})
	if err != nil || answer.Run.DisplayName != name {
		t.Errorf("16 MiB did not come back: %v", err)
	}
}

func TestWaitForReadyWaitsUntilTheDeadline(t *testing.T) {
	addresses := tinsmith.Addresses{Orchestrator: "127.0.0.1:1"}
	suite, err := tinsmith.Connect(tinsmith.Options{Addresses: addresses, WaitForReady: true})
	if err != nil {
		t.Fatal(err)
	}
	defer suite.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	_, err = suite.Orchestrator.ListRecipes(ctx, &orchestratorv1.ListRecipesRequest{})
	var failure *tinsmith.Error
	if !errors.As(err, &failure) || failure.Code != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}
