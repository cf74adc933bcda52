package tinsmith_test

import (
	"net"
	"testing"

	"google.golang.org/grpc"

	orchestratorv1 "github.com/tinsmith-dev/tinsmith/clients/go/gen/tinsmith/orchestrator/v1"
	"github.com/tinsmith-dev/tinsmith/clients/go/tinsmith"
)

// serve runs an orchestrator on a real socket; an address of "127.0.0.1:0" takes any port.
func serve(t *testing.T, address string, servicer orchestratorv1.OrchestratorServiceServer) (string, *grpc.Server) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(tinsmith.MaxMessageBytes), grpc.MaxSendMsgSize(tinsmith.MaxMessageBytes))
	orchestratorv1.RegisterOrchestratorServiceServer(server, servicer)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return listener.Addr().String(), server
}

func connect(t *testing.T, address string) *tinsmith.Suite {
	t.Helper()
	suite, err := tinsmith.Connect(tinsmith.Options{Addresses: tinsmith.Addresses{Orchestrator: address}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { suite.Close() })
	return suite
}
