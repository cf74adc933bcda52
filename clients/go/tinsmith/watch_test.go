package tinsmith_test

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	orchestratorv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/orchestrator/v1"
	"github.com/tinsmith-dev/tinsmith/clients/go/tinsmith"
)

const lastEvent = 6

// journal streams events 1 to 6 one by one. While it has breaks left it stops after the third that it sends.
type journal struct {
	orchestratorv1.UnimplementedOrchestratorServiceServer
	mutex  sync.Mutex
	breaks []func() error
	asked  []int64
}

func (j *journal) WatchRun(request *orchestratorv1.WatchRunRequest, stream orchestratorv1.OrchestratorService_WatchRunServer) error {
	j.mutex.Lock()
	j.asked = append(j.asked, request.AfterSeq)
	var breakDown func() error
	if len(j.breaks) > 0 {
		breakDown, j.breaks = j.breaks[0], j.breaks[1:]
	}
	j.mutex.Unlock()
	for seq := request.AfterSeq + 1; seq <= lastEvent; seq++ {
		if breakDown != nil && seq == request.AfterSeq+4 {
			return breakDown()
		}
		event := &orchestratorv1.RunEvent{Seq: seq}
		if err := stream.Send(&orchestratorv1.WatchRunResponse{Events: []*orchestratorv1.RunEvent{event}, SeenSeq: seq}); err != nil {
			return err
		}
	}
	return nil
}

func collect(t *testing.T, suite *tinsmith.Suite, afterSeq int64) (seen []int64, failure error) {
	t.Helper()
	for event, err := range suite.WatchRun(t.Context(), "run", afterSeq) {
		if err != nil {
			return seen, err
		}
		seen = append(seen, event.Seq)
	}
	return seen, nil
}

func TestBrokenWatchGoesOnBehindTheLastEvent(t *testing.T) {
	servicer := &journal{breaks: []func() error{func() error { return status.Error(codes.Unavailable, "gone") }}}
	address, _ := serve(t, "127.0.0.1:0", servicer)
	seen, err := collect(t, connect(t, address), 0)
	if err != nil || !slices.Equal(seen, []int64{1, 2, 3, 4, 5, 6}) {
		t.Errorf("saw %v, then %v", seen, err)
	}
	if !slices.Equal(servicer.asked, []int64{0, 3}) {
		t.Errorf("asked for events behind %v", servicer.asked)
	}
}

func TestWatchSurvivesARestartOfTheServer(t *testing.T) {
	servicer := &journal{}
	address, server := serve(t, "127.0.0.1:0", servicer)
	servicer.breaks = []func() error{func() error {
		go func() {
			server.Stop()
			serve(t, address, servicer)
		}()
		select {}
	}}
	seen, err := collect(t, connect(t, address), 1)
	if err != nil || !slices.Equal(seen, []int64{2, 3, 4, 5, 6}) {
		t.Errorf("saw %v, then %v", seen, err)
	}
}

func TestOtherFailuresEndTheWatch(t *testing.T) {
	servicer := &journal{breaks: []func() error{func() error { return status.Error(codes.DataLoss, "corrupt") }}}
	address, _ := serve(t, "127.0.0.1:0", servicer)
	seen, err := collect(t, connect(t, address), 0)
	var failure *tinsmith.Error
	if !errors.As(err, &failure) || failure.Code != codes.DataLoss || len(seen) != 3 {
		t.Errorf("saw %v, then %v", seen, err)
	}
}

func TestLeavingTheLoopEndsTheCall(t *testing.T) {
	left := make(chan struct{})
	servicer := &waiting{left: left}
	address, _ := serve(t, "127.0.0.1:0", servicer)
	for range connect(t, address).WatchRun(t.Context(), "run", 0) {
		break
	}
	<-left
}

// waiting sends one event and then waits for the caller to leave.
type waiting struct {
	orchestratorv1.UnimplementedOrchestratorServiceServer
	left chan struct{}
}

func (w *waiting) WatchRun(_ *orchestratorv1.WatchRunRequest, stream orchestratorv1.OrchestratorService_WatchRunServer) error {
	if err := stream.Send(&orchestratorv1.WatchRunResponse{Events: []*orchestratorv1.RunEvent{{Seq: 1}}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	close(w.left)
	return nil
}
