package signing

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code classifies an error for the client. A Code is itself an error, so that
// errors.Is(err, signing.NotFound) asks for the class.
type Code string

// The codes of the API (design, section 5). What is none of them is Internal,
// whose detail never leaves the service.
const (
	Invalid         Code = "invalid"
	Unauthenticated Code = "unauthenticated"
	Denied          Code = "denied"
	NotFound        Code = "not_found"
	Conflict        Code = "conflict"
	Expired         Code = "expired"
	TooLarge        Code = "too_large"
	RateLimited     Code = "rate_limited"
	Unavailable     Code = "unavailable"
	Internal        Code = "internal"
)

// Error makes a Code usable as a target of errors.Is.
func (c Code) Error() string { return string(c) }

// Error is a refusal or failure that may be shown to the client: what was
// expected, what was found, how to fix it. Err is the cause for the service's
// own log and is not shown.
type Error struct {
	Code     Code   `json:"code"`
	Message  string `json:"message"`
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
	Fix      string `json:"fix,omitempty"`
	// RetryAfter, where set, is when trying again may help.
	RetryAfter time.Duration `json:"retryAfter,omitempty"`
	Err        error         `json:"-"`
}

// Error returns the message with what was expected and found, and the cause.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	if e.Expected != "" {
		fmt.Fprintf(&b, "; expected %s", e.Expected)
	}
	if e.Found != "" {
		fmt.Fprintf(&b, "; found %s", e.Found)
	}
	if e.Fix != "" {
		fmt.Fprintf(&b, "; to fix it: %s", e.Fix)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is e's Code.
func (e *Error) Is(target error) bool {
	c, ok := target.(Code)
	return ok && c == e.Code
}

// CodeOf returns the code of the first *Error in err's chain, and Internal for
// every other error.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}

// Temporary reports whether err says that trying the same again later may
// succeed: an Unavailable or RateLimited error.
func Temporary(err error) bool {
	c := CodeOf(err)
	return c == Unavailable || c == RateLimited
}

// Public returns what a client may see of err: the first *Error in its chain
// without its cause, or an Internal error without detail.
func Public(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		c := *e
		c.Err = nil
		return &c
	}
	return &Error{Code: Internal, Message: "internal error", Fix: "ask the operator of this service to look for this request in its log"}
}
