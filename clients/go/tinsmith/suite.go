// Package tinsmith drives a Tinsmith suite: LLM post-training as gRPC services.
//
//	suite, err := tinsmith.Connect(tinsmith.Options{})
//	started, err := suite.Orchestrator.StartRun(ctx, &orchestratorv1.StartRunRequest{Recipe: "math_rl"})
//	for event, err := range suite.WatchRun(ctx, started.Run.RunId, 0) { ... }
//
// The messages of each area are in github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/<area>/v1.
package tinsmith

import (
	"cmp"
	"errors"
	"os"
	"time"

	"google.golang.org/grpc"

	datasetv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/dataset/v1"
	environmentv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/environment/v1"
	graderv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/grader/v1"
	numericsv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/numerics/v1"
	orchestratorv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/orchestrator/v1"
	rendererv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/renderer/v1"
	samplerv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/sampler/v1"
	trainerv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/trainer/v1"
)

// DefaultTimeout is the deadline of a unary call whose context has none: training calls may queue.
const DefaultTimeout = 10 * time.Minute

// Options say how to reach a suite. The zero value reaches the one that runs on this machine.
type Options struct {
	// Home is the state folder of the suite, as in `tinsmith up --home`; see FindAddresses.
	Home string
	// Addresses of services that run elsewhere.
	Addresses Addresses
	// APIKey goes with every call; empty takes TINSMITH_API_KEY.
	APIKey string
	// WaitForReady makes calls wait, until their deadline, for a service that is away instead of failing with UNAVAILABLE.
	WaitForReady bool
}

// Suite holds a client of every service. It is safe for concurrent use.
//
// Failed calls return *Error. Unary calls without a deadline get DefaultTimeout; streams have none. A call that fails
// with UNAVAILABLE is tried up to four times.
type Suite struct {
	Addresses Addresses

	Trainer      trainerv1.TrainerServiceClient
	Checkpoints  trainerv1.CheckpointServiceClient
	Sampler      samplerv1.SamplerServiceClient
	Datasets     datasetv1.DatasetServiceClient
	Renderer     rendererv1.RendererServiceClient
	Grader       graderv1.GraderServiceClient
	Environment  environmentv1.EnvironmentServiceClient
	Orchestrator orchestratorv1.OrchestratorServiceClient
	Numerics     numericsv1.NumericsServiceClient

	channels map[string]*grpc.ClientConn
}

// Connect returns clients of every service. Connections open with the first call, so it takes no context.
func Connect(options Options) (*Suite, error) {
	addresses, err := FindAddresses(options.Home, options.Addresses)
	if err != nil {
		return nil, err
	}
	suite := &Suite{Addresses: addresses, channels: map[string]*grpc.ClientConn{}}
	for name, address := range addresses.byName() {
		channel, err := grpc.NewClient(*address, dialOptions(cmp.Or(options.APIKey, os.Getenv("TINSMITH_API_KEY")), options.WaitForReady)...)
		if err != nil {
			return nil, errors.Join(err, suite.Close())
		}
		suite.channels[name] = channel
	}
	suite.openClients()
	return suite, nil
}

func (s *Suite) openClients() {
	s.Trainer = trainerv1.NewTrainerServiceClient(s.channels["trainer"])
	s.Checkpoints = trainerv1.NewCheckpointServiceClient(s.channels["trainer"])
	s.Sampler = samplerv1.NewSamplerServiceClient(s.channels["sampler"])
	s.Datasets = datasetv1.NewDatasetServiceClient(s.channels["dataset"])
	s.Renderer = rendererv1.NewRendererServiceClient(s.channels["dataset"])
	s.Grader = graderv1.NewGraderServiceClient(s.channels["grader"])
	s.Environment = environmentv1.NewEnvironmentServiceClient(s.channels["environment"])
	s.Orchestrator = orchestratorv1.NewOrchestratorServiceClient(s.channels["orchestrator"])
	s.Numerics = numericsv1.NewNumericsServiceClient(s.channels["orchestrator"])
}

// Close ends every connection and the calls on it.
func (s *Suite) Close() error {
	var failures []error
	for _, channel := range s.channels {
		failures = append(failures, channel.Close())
	}
	return errors.Join(failures...)
}
