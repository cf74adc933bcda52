package tinsmith

import (
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is a failed call; find it with errors.As.
//
// Code says what kind of failure it is, Reason says which, as an upper-case code that programs may rely on; Message is
// for people.
type Error struct {
	Code       codes.Code
	Reason     string
	Message    string
	Metadata   map[string]string
	Violations []FieldViolation
	// RetryAfter is the time after which a retry may help; nil when the server does not say so.
	RetryAfter *time.Duration

	status *status.Status
}

// FieldViolation says what is wrong with one field of a request.
type FieldViolation struct {
	// Field is its path, for example "loss.ppo.clip_low".
	Field       string
	Description string
}

func (e *Error) Error() string {
	reason := e.Reason
	if reason == "" {
		reason = e.Code.String()
	}
	return fmt.Sprintf("%s [%s]", e.Message, reason)
}

// GRPCStatus makes status.FromError and status.Code work on an Error.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// errorOf gives a failed call its type; the end of a stream and success stay what they are.
func errorOf(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	answer := status.Convert(err)
	failure := &Error{Code: answer.Code(), Message: answer.Message(), status: answer}
	for _, detail := range answer.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			failure.Reason, failure.Metadata = detail.GetReason(), detail.GetMetadata()
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				failure.Violations = append(failure.Violations, FieldViolation{violation.GetField(), violation.GetDescription()})
			}
		case *errdetails.RetryInfo:
			delay := detail.GetRetryDelay().AsDuration()
			failure.RetryAfter = &delay
		}
	}
	return failure
}
