package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// PathLists takes the lists of images that people bring.
const PathLists = "/v1/lists"

// List is what a person says of a list of images: its file's digest, and when it
// was made.
type List struct {
	Digest string    `json:"digest"`
	Made   time.Time `json:"made"`
}

// ListRequest asks for signatures on images that no build of today made, as those
// of an export of what another system had signed. People are always asked.
type ListRequest struct {
	Policy    string        `json:"policy"`
	Artifacts []ArtifactRef `json:"artifacts"`
	List      List          `json:"list"`
	// Repository is that in whose threads people are asked, as in acme/web; empty for
	// the only one that may have all of the images signed.
	Repository string `json:"repository,omitempty"`
	// DeadlineSeconds is as in SubmitRequest.
	DeadlineSeconds int64 `json:"deadlineSeconds,omitempty"`
}

// Validate checks everything that needs nobody else.
func (r ListRequest) Validate() error {
	for i, a := range r.Artifacts {
		if strings.TrimSpace(a.ResolvedFrom) != "" {
			return &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("artifact %d was found by its tag", i+1), Expected: "a list of digests", Found: quote(a.ResolvedFrom), Fix: "list the digest"}
		}
	}
	if len(r.Repository) > signing.MaxRepository || strings.ContainsFunc(r.Repository, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return &signing.Error{Code: signing.Invalid, Message: "not the name of a repository", Expected: "a name as in acme/web", Found: quote(r.Repository), Fix: "write it as the policy file does, or leave it away"}
	}
	list := signing.List{Digest: signing.Digest(r.List.Digest), Made: r.List.Made}
	if err := list.Validate(); err != nil {
		return err
	}
	return SubmitRequest{Policy: r.Policy, Artifacts: r.Artifacts, DeadlineSeconds: r.DeadlineSeconds}.Validate()
}

// ReadList decodes and checks the body of a ListRequest.
func ReadList(body io.Reader) (ListRequest, error) {
	var r ListRequest
	if err := DecodeStrict(body, MaxSubmission, &r); err != nil {
		return ListRequest{}, err
	}
	sub := SubmitRequest{Policy: r.Policy, Artifacts: r.Artifacts, DeadlineSeconds: r.DeadlineSeconds}.canonical()
	r.Policy, r.Artifacts, r.Repository = sub.Policy, sub.Artifacts, strings.TrimSpace(r.Repository)
	if err := r.Validate(); err != nil {
		return ListRequest{}, err
	}
	return r, nil
}

func fromList(l *signing.List) *List {
	if l == nil {
		return nil
	}
	return &List{Digest: string(l.Digest), Made: l.Made}
}

// SubmitList asks for signatures on a list with the token of a person. What is
// returned may be an earlier request for the same that waits.
func (c *Client) SubmitList(ctx context.Context, token string, r ListRequest) (Request, error) {
	if err := r.Validate(); err != nil {
		return Request{}, err
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return Request{}, fmt.Errorf("encoding a list: %w", err)
	}
	out, _, err := c.call(ctx, callTimeout, http.MethodPost, PathLists, nil, http.Header{"Authorization": {"Bearer " + token}}, raw)
	if err != nil {
		return Request{}, fmt.Errorf("submitting the list: %w", err)
	}
	return out, nil
}
