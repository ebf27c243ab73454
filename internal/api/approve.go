package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// MaxCommand bounds the body of an approval, a denial and the like.
	MaxCommand = 16 << 10
	// MaxReason bounds the words of who denies; they are shown, escaped.
	MaxReason = 2000
	// CodeLength is that of the code that ties a command to what is signed.
	CodeLength = 8
)

var (
	reCode   = regexp.MustCompile(`^[0-9a-f]{8}$`)
	reTicket = regexp.MustCompile(`^[A-Za-z0-9._#/-]{1,100}$`)
)

// ApproveRequest approves what the code stands for: the code is that of the
// question, so that nobody approves anything but what they were shown.
type ApproveRequest struct {
	Code string `json:"code"`
	// Ticket is that of an emergency, where the quorum cannot be waited for. It is
	// taken on the service's own machine only, by its admin socket.
	Ticket string `json:"ticket,omitempty"`
}

// DenyRequest says no to what the code stands for.
type DenyRequest struct {
	Code   string `json:"code"`
	Reason string `json:"reason,omitempty"`
}

// ResubmitRequest asks for the same artifacts under another policy (or the same).
type ResubmitRequest struct {
	Policy string `json:"policy"`
	// DeadlineSeconds is as in SubmitRequest.
	DeadlineSeconds int64 `json:"deadlineSeconds,omitempty"`
}

// Approval is where a request stands with people. It is there from the decision
// on, where the policy asks them.
type Approval struct {
	// Code is what a command repeats; empty unless the request waits for people.
	Code string `json:"code,omitempty"`
	// Forge, Repository and Number are the thread in which it was asked, URL that
	// of the thread, Comment that of the question in it; empty before it was asked.
	Forge      string `json:"forge,omitempty"`
	Repository string `json:"repository,omitempty"`
	Number     string `json:"number,omitempty"`
	URL        string `json:"url,omitempty"`
	Comment    string `json:"comment,omitempty"`
	// Groups are the quorums, every one of which must be met.
	Groups []ApprovalGroup `json:"groups"`
	// Given are the approvals and denials, in the order they came.
	Given []GivenApproval `json:"given,omitempty"`
	// Excluded are those who may not approve, and why.
	Excluded []ExcludedApprover `json:"excluded,omitempty"`
	// Ways are those in which people may answer: comment, check_run, review, api,
	// break_glass.
	Ways []string `json:"ways"`
	// ExpiresSeconds is how long one approval counts.
	ExpiresSeconds int64 `json:"expiresSeconds"`
}

// ApprovalGroup is one quorum.
type ApprovalGroup struct {
	Required int      `json:"required"`
	Given    int      `json:"given"`
	From     []string `json:"from"`
}

// GivenApproval is a yes or no of somebody.
type GivenApproval struct {
	By     string    `json:"by"` // as the forge or the identity provider names them
	Forge  string    `json:"forge,omitempty"`
	Via    string    `json:"via"`
	At     time.Time `json:"at"`
	URL    string    `json:"url,omitempty"`
	Deny   bool      `json:"deny,omitempty"`
	Reason string    `json:"reason,omitempty"` // words of a stranger
	Ticket string    `json:"ticket,omitempty"`
}

// ExcludedApprover is somebody who may not approve.
type ExcludedApprover struct {
	Who string `json:"who"`
	Why string `json:"why"`
}

// Heard is the answer to a webhook delivery, for who looks at it on the forge.
type Heard struct {
	Outcome string `json:"outcome"` // stored, duplicate or ignored
}

// ReadApprove decodes and checks the body of an approval.
func ReadApprove(body io.Reader) (ApproveRequest, error) {
	var r ApproveRequest
	if err := DecodeStrict(body, MaxCommand, &r); err != nil {
		return r, err
	}
	if r.Ticket != "" && !reTicket.MatchString(r.Ticket) {
		return r, &signing.Error{Code: signing.Invalid, Message: "not a reference to a ticket", Expected: "1 to 100 of letters, digits and ._-#/", Found: quote(r.Ticket), Fix: "name the ticket of the emergency, as in INC-4711"}
	}
	return r, validCode(r.Code)
}

// ReadDeny decodes and checks the body of a denial.
func ReadDeny(body io.Reader) (DenyRequest, error) {
	var r DenyRequest
	if err := DecodeStrict(body, MaxCommand, &r); err != nil {
		return r, err
	}
	if len(r.Reason) > MaxReason {
		return r, &signing.Error{Code: signing.Invalid, Message: "the reason is too long", Expected: fmt.Sprintf("at most %d bytes", MaxReason), Found: fmt.Sprint(len(r.Reason)), Fix: "write the rest into the pull request"}
	}
	return r, validCode(r.Code)
}

// ReadResubmit decodes and checks the body of a resubmission.
func ReadResubmit(body io.Reader) (ResubmitRequest, error) {
	var r ResubmitRequest
	if err := DecodeStrict(body, MaxCommand, &r); err != nil {
		return r, err
	}
	r.Policy = strings.TrimSpace(r.Policy)
	if !rePolicy.MatchString(r.Policy) {
		return r, &signing.Error{Code: signing.Invalid, Message: "not the name of a signing policy", Expected: "1 to 128 of letters, digits, '.', '_', '-'", Found: quote(r.Policy), Fix: "set `policy` to the name of a policy for people, as in `release-by-hand`"}
	}
	if most := int64(MaxDeadline / time.Second); r.DeadlineSeconds < 0 || r.DeadlineSeconds > most {
		return r, &signing.Error{Code: signing.Invalid, Message: "`deadlineSeconds` is out of bounds", Expected: fmt.Sprintf("0 (the default) to %d", most), Found: fmt.Sprint(r.DeadlineSeconds)}
	}
	return r, nil
}

func validCode(code string) error {
	if reCode.MatchString(code) {
		return nil
	}
	return &signing.Error{Code: signing.Invalid, Message: "not the code of a question", Expected: fmt.Sprintf("%d hex digits, as the question shows them", CodeLength), Found: quote(code), Fix: "look at the question that was asked, and copy the code of what you want to be signed"}
}

// Approve approves a request with the token of a person.
func (c *Client) Approve(ctx context.Context, token, id string, r ApproveRequest) (Request, error) {
	if err := validCode(r.Code); err != nil {
		return Request{}, err
	}
	return c.command(ctx, token, id, "approve", "approving", r)
}

// Deny denies a request with the token of a person.
func (c *Client) Deny(ctx context.Context, token, id string, r DenyRequest) (Request, error) {
	if err := validCode(r.Code); err != nil {
		return Request{}, err
	}
	return c.command(ctx, token, id, "deny", "denying", r)
}

// Retry has what a request waits for tried again now.
func (c *Client) Retry(ctx context.Context, token, id string) (Request, error) {
	return c.command(ctx, token, id, "retry", "retrying", nil)
}

// Resubmit asks for the artifacts of a request again, under a policy for people.
// What it returns is the new request.
func (c *Client) Resubmit(ctx context.Context, token, id string, r ResubmitRequest) (Request, error) {
	return c.command(ctx, token, id, "resubmit", "submitting again", r)
}

// command posts body, none if it is nil, to one of the routes for people.
func (c *Client) command(ctx context.Context, token, id, verb, doing string, body any) (Request, error) {
	if !signing.ValidRequestID(id) {
		return Request{}, &signing.Error{Code: signing.Invalid, Message: "not a request id", Expected: "sr_ and 16 characters", Found: quote(id)}
	}
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return Request{}, fmt.Errorf("encoding a command: %w", err)
		}
	}
	h := http.Header{"Authorization": {"Bearer " + token}}
	out, _, err := c.call(ctx, callTimeout, http.MethodPost, PathRequests+"/"+id+"/"+verb, nil, h, raw)
	if err != nil {
		return Request{}, fmt.Errorf("%s request %s: %w", doing, id, err)
	}
	return out, nil
}
