package tinsmith

import (
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// MaxMessageBytes is the largest message in each direction; the servers' default too.
const MaxMessageBytes = 64 << 20

// Retries are safe for every call: reads have no effect, and writes carry a request_id by which a repeat is known or
// change nothing when they are repeated.
const serviceConfig = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"methodConfig": [{
		"name": [{}],
		"retryPolicy": {
			"maxAttempts": 4,
			"initialBackoff": "0.05s",
			"maxBackoff": "1s",
			"backoffMultiplier": 4,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}]
}`

func dialOptions(apiKey string, waitForReady bool) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithPerRPCCredentials(bearer(apiKey)),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 15 * time.Second}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(MaxMessageBytes),
			grpc.MaxCallSendMsgSize(MaxMessageBytes),
			grpc.WaitForReady(waitForReady),
		),
		// A service that comes back after a crash is found at once, not after minutes of growing pauses.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithUnaryInterceptor(prepareCall),
		grpc.WithStreamInterceptor(openStream),
	}
}

// bearer is an API key that goes with every call; empty where the services ask for none.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if b == "" {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity is false because the services have no TLS of their own: a proxy in front of them has.
func (bearer) RequireTransportSecurity() bool { return false }

// prepareCall gives a unary call an identity, a deadline and its failure a type.
func prepareCall(
	ctx context.Context, method string, request, answer any,
	channel *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	return errorOf(invoke(ctx, method, identified(request), answer, channel, options...))
}

// identified returns the request with a request_id of its own where it has room for one and the caller gave none. It is a
// shallow copy: a caller who sends the same message again means another call.
func identified(request any) any {
	message, isProto := request.(proto.Message)
	if !isProto {
		return request
	}
	given := message.ProtoReflect()
	id := given.Descriptor().Fields().ByName("request_id")
	if id == nil || given.Has(id) {
		return request
	}
	copied := given.New()
	given.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		copied.Set(field, value)
		return true
	})
	copied.Set(id, protoreflect.ValueOfString(rand.Text()))
	return copied.Interface()
}

// openStream gives every failure of a stream a type.
func openStream(
	ctx context.Context, description *grpc.StreamDesc,
	channel *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := open(ctx, description, channel, method, options...)
	if err != nil {
		return nil, errorOf(err)
	}
	return typedStream{stream}, nil
}

type typedStream struct{ grpc.ClientStream }

func (s typedStream) SendMsg(message any) error { return errorOf(s.ClientStream.SendMsg(message)) }

func (s typedStream) RecvMsg(message any) error { return errorOf(s.ClientStream.RecvMsg(message)) }
