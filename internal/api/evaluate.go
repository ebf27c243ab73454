package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// PathEvaluate is where the policies in force are asked what they would decide.
	PathEvaluate = "/v1/policies/evaluate"
	// MaxEvaluate bounds the facts that are sent there: of signing.MaxArtifacts
	// images with some labels each.
	MaxEvaluate = 1 << 20
)

// EvaluateRequest asks what the policies in force would decide: about facts, or
// about a recorded request. Policy, if set, is asked in place of the one that the
// facts name.
type EvaluateRequest struct {
	Facts   *signing.Facts `json:"facts,omitempty"`
	Request string         `json:"request,omitempty"`
	Policy  string         `json:"policy,omitempty"`
}

// ReadEvaluate decodes and checks the body of an EvaluateRequest.
func ReadEvaluate(body io.Reader) (EvaluateRequest, error) {
	var r EvaluateRequest
	if err := DecodeStrict(body, MaxEvaluate, &r); err != nil {
		return EvaluateRequest{}, err
	}
	if (r.Facts == nil) == (r.Request == "") {
		return EvaluateRequest{}, &signing.Error{Code: signing.Invalid, Message: "say what is to be decided about", Expected: "`facts` or `request`, one of the two", Found: "both or neither", Fix: "send the facts of a build, or the id of a recorded request"}
	}
	if r.Request != "" && !signing.ValidRequestID(r.Request) {
		return EvaluateRequest{}, &signing.Error{Code: signing.Invalid, Message: "`request` is not the id of a request", Expected: "sr_ and 16 characters", Found: quote(r.Request), Fix: "take it from the answer to the submission"}
	}
	return r, nil
}

// Evaluation is what would be decided, and why. Nothing is recorded or signed.
type Evaluation struct {
	Effect signing.Effect `json:"effect"`
	// Project and Policy are those that decided, empty where there is none.
	Project string `json:"project,omitempty"`
	Policy  string `json:"policy,omitempty"`
	// Generation is the number of the configuration that decided.
	Generation int64          `json:"generation,omitempty"`
	Reasons    signing.Reason `json:"reasons"`
}

// Facts returns the facts of a recorded request, to a person who may read it.
func (c *Client) Facts(ctx context.Context, token, id string) (signing.Facts, error) {
	var f signing.Facts
	err := c.ask(ctx, http.MethodGet, PathRequests+"/"+url.PathEscape(id)+"/facts", token, nil, &f)
	if err != nil {
		return signing.Facts{}, fmt.Errorf("reading the facts of %s: %w", quote(id), err)
	}
	return f, nil
}

// Evaluate asks the policies in force.
func (c *Client) Evaluate(ctx context.Context, token string, r EvaluateRequest) (Evaluation, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return Evaluation{}, fmt.Errorf("encoding: %w", err)
	}
	var out Evaluation
	if err := c.ask(ctx, http.MethodPost, PathEvaluate, token, raw, &out); err != nil {
		return Evaluation{}, fmt.Errorf("asking the policies: %w", err)
	}
	if out.Effect != signing.Allow && out.Effect != signing.Deny && out.Effect != signing.NeedsApproval {
		return Evaluation{}, fmt.Errorf("asking the policies: %w", notOurs("an effect that this client knows", quote(string(out.Effect))))
	}
	return out, nil
}

// ask sends body with a person's token and reads a JSON answer into v.
func (c *Client) ask(ctx context.Context, method, path, token string, body []byte, v any) error {
	answer, raw, err := c.send(ctx, callTimeout, method, path, nil, http.Header{"Authorization": {"Bearer " + token}}, body)
	if err != nil {
		return err
	}
	if media, _, _ := mime.ParseMediaType(answer.Get("Content-Type")); media != "application/json" || json.Unmarshal(raw, v) != nil {
		return notOurs("a JSON document", "another one")
	}
	return nil
}
