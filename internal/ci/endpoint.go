package ci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxTokenAnswer bounds the token endpoint's answer: a token and little else.
	maxTokenAnswer = 64 << 10
	// tokenTries is how often the token endpoint is asked; with the back-off
	// between them that is half a minute, longer than its usual hiccups.
	tokenTries   = 6
	tokenTimeout = 15 * time.Second
	tokenBackoff = time.Second
	// maxTokenWait bounds what the endpoint may ask for between two tries.
	maxTokenWait = 30 * time.Second
)

// endpoint is where a job asks its CI for a token.
type endpoint struct {
	who             string // "GitHub", for errors
	variable        string // where the address is from
	method, address string
	query           string // appended to what the address has
	authorization   string // the whole header
	accept          string
	field           string // of the JSON answer
	again, refused  string // what to do about a failure, about a refusal
}

// ask returns a token, after some tries if the endpoint falls over.
func (o Options) ask(ctx context.Context, e endpoint) (string, error) {
	u, err := url.Parse(e.address)
	if err != nil || u.Host == "" || u.User != nil || !(u.Scheme == "https" || u.Scheme == "http" && outbound.IsLoopback(u.Hostname())) {
		return "", &signing.Error{Code: signing.Unauthenticated, Message: "the address of " + e.who + "'s token endpoint is not usable", Expected: "an https URL in " + e.variable, Found: "another value", Fix: "let nothing in the job overwrite this variable"}
	}
	if u.RawQuery != "" && e.query != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += e.query
	e.address = u.String()

	// No redirect is followed: the bearer goes nowhere else.
	client := outbound.NewClient(outbound.Options{Base: o.Transport, AllowHTTP: true, Timeout: tokenTimeout, MaxBody: maxTokenAnswer, UserAgent: "sealwright-ci"})
	wait := tokenBackoff
	for try := 1; ; try++ {
		token, err := e.once(ctx, client)
		if err == nil || try == tokenTries || !signing.Temporary(err) || ctx.Err() != nil {
			return token, err
		}
		if err := o.Sleep(ctx, max(wait, min(signing.Public(err).RetryAfter, maxTokenWait))); err != nil {
			return "", fmt.Errorf("waiting for the token endpoint: %w", err)
		}
		wait *= 2
	}
}

// once asks once. Temporary errors are worth another try.
func (e endpoint) once(ctx context.Context, client *http.Client) (string, error) {
	fail := func(code signing.Code, found, fix string, cause error) error {
		return &signing.Error{Code: code, Message: e.who + "'s token endpoint gave no token", Expected: "200 and a token", Found: found, Fix: fix, RetryAfter: retryAfter(cause), Err: cause}
	}
	req, err := http.NewRequestWithContext(ctx, e.method, e.address, nil)
	if err != nil {
		return "", fail(signing.Internal, "an unusable address", "let nothing in the job overwrite "+e.variable, nil)
	}
	req.Header.Set("Authorization", e.authorization)
	req.Header.Set("Accept", e.accept)
	if e.method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		return "", fail(signing.CodeOf(err), found(err), e.again, err)
	}
	body, err := outbound.ReadBody(res, maxTokenAnswer)
	switch {
	case err != nil:
		return "", fail(signing.CodeOf(err), found(err), e.again, err)
	case res.StatusCode >= 500:
		return "", fail(signing.Unavailable, res.Status, e.again, nil)
	case res.StatusCode != http.StatusOK:
		return "", fail(signing.Unauthenticated, res.Status, e.refused, nil)
	}
	var answer map[string]any
	token := ""
	if err := json.Unmarshal(body, &answer); err == nil {
		token, _ = answer[e.field].(string)
	}
	if token == "" {
		return "", fail(signing.Internal, "an answer without `"+e.field+"`", "check what stands between the job and "+e.who, nil)
	}
	return token, nil
}

// retryAfter is what a throttling endpoint asked for; 0 for every other cause.
func retryAfter(err error) time.Duration {
	var e *signing.Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// found says what went wrong without the URL, which need not be in the log.
func found(err error) string {
	e := signing.Public(err)
	if e.Found == "" {
		return e.Message
	}
	return e.Message + ": " + e.Found
}
