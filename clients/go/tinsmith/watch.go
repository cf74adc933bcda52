package tinsmith

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc/codes"

	orchestratorv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/orchestrator/v1"
)

const (
	watchPatience = time.Minute
	watchPause    = 500 * time.Millisecond
)

// WatchRun yields the events of a run behind afterSeq, each once and in order, until the run has ended.
//
// A broken stream is resumed where it broke. The last pair holds an *Error when the orchestrator stays away for a minute,
// or for any other failure; leaving the loop, or ending ctx, ends the call.
func (s *Suite) WatchRun(ctx context.Context, runID string, afterSeq int64) iter.Seq2[*orchestratorv1.RunEvent, error] {
	return func(yield func(*orchestratorv1.RunEvent, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		watch := runWatch{suite: s, runID: runID, seen: afterSeq, lastSign: time.Now()}
		for {
			left, err := watch.follow(ctx, yield)
			if left || err == nil {
				return
			}
			if !watch.mayResume(ctx, err) {
				yield(nil, err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(watchPause):
			}
		}
	}
}

type runWatch struct {
	suite    *Suite
	runID    string
	seen     int64
	lastSign time.Time
}

// follow yields the events of one stream; it says whether the reader left, or how the stream broke.
func (w *runWatch) follow(ctx context.Context, yield func(*orchestratorv1.RunEvent, error) bool) (bool, error) {
	request := &orchestratorv1.WatchRunRequest{RunId: w.runID, AfterSeq: w.seen}
	stream, err := w.suite.Orchestrator.WatchRun(ctx, request)
	if err != nil {
		return false, err
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		w.lastSign = time.Now()
		for _, event := range answer.GetEvents() {
			w.seen = event.GetSeq()
			if !yield(event, nil) {
				return true, nil
			}
		}
		w.seen = max(w.seen, answer.GetSeenSeq())
	}
}

// mayResume says whether the orchestrator went away, and not for too long. A server that is stopped cancels its streams.
func (w *runWatch) mayResume(ctx context.Context, err error) bool {
	var failure *Error
	broken := errors.As(err, &failure) &&
		(failure.Code == codes.Unavailable || failure.Code == codes.Canceled && failure.Reason == "")
	return broken && ctx.Err() == nil && time.Since(w.lastSign) < watchPatience
}
