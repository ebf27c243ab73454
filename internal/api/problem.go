package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// ContentTypeProblem is RFC 9457's media type.
const ContentTypeProblem = "application/problem+json"

// problemBase starts the `type` of every problem; the code follows.
const problemBase = "https://sealwright.dev/problems/"

// maxProblemText bounds one text of a problem document that a client takes over
// from an answer: enough for a long list, not for a flood of the log.
const maxProblemText = 8 << 10

// problemKind is a line of the one table that maps codes to statuses.
type problemKind struct {
	code   signing.Code
	status int
	title  string
}

func problemKinds() []problemKind {
	return []problemKind{
		{signing.Invalid, http.StatusBadRequest, "The request is not valid"},
		{signing.Unauthenticated, http.StatusUnauthorized, "The token was not accepted"},
		{signing.Denied, http.StatusForbidden, "Denied"},
		{signing.NotFound, http.StatusNotFound, "Not found"},
		{signing.Conflict, http.StatusConflict, "Conflict with what is there"},
		{signing.Expired, http.StatusGone, "Expired"},
		{signing.TooLarge, http.StatusRequestEntityTooLarge, "Too large"},
		{signing.RateLimited, http.StatusTooManyRequests, "Too many requests"},
		{signing.Unavailable, http.StatusServiceUnavailable, "Not available now"},
		{signing.Internal, http.StatusInternalServerError, "Internal error"},
	}
}

// Status returns the HTTP status of a code; unknown codes are Internal's.
func Status(c signing.Code) int {
	for _, k := range problemKinds() {
		if k.code == c {
			return k.status
		}
	}
	return http.StatusInternalServerError
}

// CodeOfStatus returns the code of an HTTP status. ok is false for a status
// that the API itself never answers; the code is then the closest one.
func CodeOfStatus(status int) (c signing.Code, ok bool) {
	for _, k := range problemKinds() {
		if k.status == status {
			return k.code, true
		}
	}
	switch {
	case status == http.StatusBadGateway, status == http.StatusGatewayTimeout, status == http.StatusRequestTimeout:
		return signing.Unavailable, false // a proxy speaks, the service does not
	case status >= 400 && status < 500:
		return signing.Invalid, false
	default:
		return signing.Internal, false
	}
}

func title(c signing.Code) string {
	for _, k := range problemKinds() {
		if k.code == c {
			return k.title
		}
	}
	return title(signing.Internal)
}

// Problem is RFC 9457's problem document with this API's extensions: what was
// expected, what was found, how to fix it and, where a policy said no, the
// tree of reasons.
type Problem struct {
	Type     string       `json:"type"`
	Title    string       `json:"title"`
	Status   int          `json:"status"`
	Detail   string       `json:"detail,omitempty"`
	Instance string       `json:"instance,omitempty"` // the path or request that it is about
	Code     signing.Code `json:"code"`
	Expected string       `json:"expected,omitempty"`
	Found    string       `json:"found,omitempty"`
	Fix      string       `json:"fix,omitempty"`
	// RetryAfterSeconds repeats the Retry-After header; 0 is none.
	RetryAfterSeconds int             `json:"retryAfterSeconds,omitempty"`
	Reasons           *signing.Reason `json:"reasons,omitempty"`
}

// Refusal is a problem as an error. It wraps the *signing.Error that the
// problem stands for, so signing.CodeOf and errors.Is see through it.
type Refusal struct{ Problem Problem }

// Error returns the text of the error that the problem stands for.
func (r *Refusal) Error() string { return r.Problem.Err().Error() }

// Unwrap returns the error that the problem stands for.
func (r *Refusal) Unwrap() error { return r.Problem.Err() }

// FromError returns the problem of err: that of the first Refusal or
// *signing.Error in its chain, Internal without detail for all others.
func FromError(err error) Problem {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Problem
	}
	e := signing.Public(err)
	return Problem{
		Type: problemBase + string(e.Code), Title: title(e.Code), Status: Status(e.Code), Detail: e.Message,
		Code: e.Code, Expected: e.Expected, Found: e.Found, Fix: e.Fix,
		RetryAfterSeconds: max(0, int((e.RetryAfter+time.Second-1)/time.Second)),
	}
}

// Err returns the error that the problem stands for. Reasons have no place in
// it; keep the Problem, or a Refusal, where they are needed.
func (p Problem) Err() *signing.Error {
	msg := p.Detail
	if msg == "" {
		msg = p.Title
	}
	return &signing.Error{Code: p.Code, Message: msg, Expected: p.Expected, Found: p.Found, Fix: p.Fix, RetryAfter: time.Duration(p.RetryAfterSeconds) * time.Second}
}

// WriteProblem answers with p, its status and, where it says so, Retry-After.
func WriteProblem(w http.ResponseWriter, p Problem) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encoding problem: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", ContentTypeProblem)
	h.Set("Cache-Control", "no-store")
	if p.RetryAfterSeconds > 0 {
		h.Set("Retry-After", strconv.Itoa(p.RetryAfterSeconds))
	}
	if p.Code == signing.Unauthenticated {
		h.Set("WWW-Authenticate", "Bearer") // RFC 9110 section 11.6.1 demands one
	}
	w.WriteHeader(p.Status)
	if _, err := w.Write(raw); err != nil {
		return fmt.Errorf("writing problem: %w", err)
	}
	return nil
}

// ParseProblem makes a Problem of an answer that is not a success. It always
// returns one: where the body is no problem document (a proxy's page), the
// status alone speaks; where code and status disagree, the status wins.
func ParseProblem(status int, header http.Header, body []byte, now time.Time) Problem {
	code, known := CodeOfStatus(status)
	p := Problem{}
	media, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	if media != ContentTypeProblem || json.Unmarshal(body, &p) != nil {
		p = Problem{
			Detail: fmt.Sprintf("the server answered %d %s without a problem document", status, http.StatusText(status)),
			Fix:    "check that the server's address is Sealwright's own, and what stands between: " + string(code) + " may be a proxy's word",
		}
	}
	if p.Code == "" || !known || p.Code != code {
		p.Code = code
	}
	p.Type, p.Title, p.Status = problemBase+string(p.Code), title(p.Code), status
	for _, s := range []*string{&p.Detail, &p.Instance, &p.Expected, &p.Found, &p.Fix} {
		*s = clipTo(*s, maxProblemText)
	}
	// The header is what proxies set, too; it goes before the document's field.
	if d, ok := outbound.RetryAfter(header, now); ok {
		p.RetryAfterSeconds = int((d + time.Second - 1) / time.Second)
	}
	p.RetryAfterSeconds = min(max(p.RetryAfterSeconds, 0), int(outbound.MaxRetryAfter/time.Second))
	return p
}

func clip(s string) string { return clipTo(s, 120) }

func clipTo(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
