package ci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
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
	// maxSummary is GitHub's bound for each step: more is dropped as a whole.
	maxSummary = 1 << 20
)

// github is GitHub Actions, and what speaks its protocol (GHES, Forgejo).
type github struct{ Options }

// token asks the runner's token endpoint: GET URL&audience=A with the job's
// request token; the URL has a query already.
func (g *github) token(ctx context.Context, audience string) (string, error) {
	raw, bearer := g.Env("ACTIONS_ID_TOKEN_REQUEST_URL"), g.Env("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if raw == "" || bearer == "" {
		return "", &signing.Error{Code: signing.Unauthenticated, Message: "this job may not ask GitHub for an ID token", Expected: "ACTIONS_ID_TOKEN_REQUEST_URL and ACTIONS_ID_TOKEN_REQUEST_TOKEN in the environment", Found: "none", Fix: "add `permissions: id-token: write` to the job (with `contents: read` and whatever else it needs); a pull request from a fork never gets one"}
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || !(u.Scheme == "https" || u.Scheme == "http" && outbound.IsLoopback(u.Hostname())) {
		return "", &signing.Error{Code: signing.Unauthenticated, Message: "the address of GitHub's token endpoint is not usable", Expected: "an https URL in ACTIONS_ID_TOKEN_REQUEST_URL", Found: "another value", Fix: "let nothing in the job overwrite this variable"}
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += "audience=" + url.QueryEscape(audience)

	// No redirect is followed: the bearer goes nowhere else.
	client := outbound.NewClient(outbound.Options{Base: g.Transport, AllowHTTP: true, Timeout: tokenTimeout, MaxBody: maxTokenAnswer, UserAgent: "sealwright-ci"})
	wait := tokenBackoff
	for try := 1; ; try++ {
		token, err := requestToken(ctx, client, u.String(), bearer)
		if err == nil || try == tokenTries || !signing.Temporary(err) || ctx.Err() != nil {
			return token, err
		}
		if err := g.Sleep(ctx, max(wait, min(signing.Public(err).RetryAfter, maxTokenWait))); err != nil {
			return "", fmt.Errorf("waiting for the token endpoint: %w", err)
		}
		wait *= 2
	}
}

// requestToken asks once. Temporary errors are worth another try.
func requestToken(ctx context.Context, client *http.Client, address, bearer string) (string, error) {
	fail := func(code signing.Code, found, fix string, cause error) error {
		return &signing.Error{Code: code, Message: "GitHub's token endpoint gave no token", Expected: "200 and a token", Found: found, Fix: fix, RetryAfter: retryAfter(cause), Err: cause}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", fail(signing.Internal, "an unusable address", "let nothing in the job overwrite ACTIONS_ID_TOKEN_REQUEST_URL", nil)
	}
	req.Header.Set("Authorization", "bearer "+bearer)
	req.Header.Set("Accept", "application/json; api-version=2.0")
	res, err := client.Do(req)
	if err != nil {
		return "", fail(signing.CodeOf(err), found(err), "run the step again; see githubstatus.com", err)
	}
	body, err := outbound.ReadBody(res, maxTokenAnswer)
	switch {
	case err != nil:
		return "", fail(signing.CodeOf(err), found(err), "run the step again", err)
	case res.StatusCode >= 500:
		return "", fail(signing.Unavailable, res.Status, "run the step again; see githubstatus.com", nil)
	case res.StatusCode != http.StatusOK:
		return "", fail(signing.Unauthenticated, res.Status, "check `permissions: id-token: write` of the job and that it is still running", nil)
	}
	var answer struct {
		Value string `json:"value"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Value == "" {
		return "", fail(signing.Internal, "an answer without `value`", "check what stands between the runner and GitHub", nil)
	}
	return answer.Value, nil
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

func (g *github) run() []string {
	return []string{g.Env("GITHUB_SERVER_URL"), g.Env("GITHUB_REPOSITORY_ID"), g.Env("GITHUB_RUN_ID"), g.Env("GITHUB_RUN_ATTEMPT"), g.Env("GITHUB_JOB")}
}

// command returns a workflow command: ::name properties::data
func (g *github) command(name, properties, data string) string {
	if properties != "" {
		properties = " " + properties
	}
	return "::" + name + properties + "::" + escapeData(data)
}

func escapeData(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func escapeProperty(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(s)
}

// outputs appends NAME<<DELIMITER records. The delimiter is random, so that no
// value can end its record and begin another.
func (g *github) outputs(kv []Output) ([]string, error) {
	path := g.Env("GITHUB_OUTPUT")
	if path == "" || len(kv) == 0 {
		return nil, nil
	}
	nonce, err := randomHex(g.Random)
	if err != nil {
		return nil, err
	}
	text, err := githubRecords(kv, "ghadelimiter_"+nonce)
	if err != nil {
		return nil, err
	}
	if err := appendFile(path, text); err != nil {
		return nil, fmt.Errorf("writing step outputs: %w", err)
	}
	return nil, nil
}

func githubRecords(kv []Output, delimiter string) (string, error) {
	var b strings.Builder
	for _, o := range kv {
		if strings.Contains(o.Value, delimiter) {
			return "", fmt.Errorf("output %s contains the delimiter", o.Name)
		}
		fmt.Fprintf(&b, "%s<<%s\n%s\n%s\n", o.Name, delimiter, o.Value, delimiter)
	}
	return b.String(), nil
}

func (g *github) summary(markdown string) error {
	path := g.Env("GITHUB_STEP_SUMMARY")
	if path == "" {
		return nil
	}
	room := maxSummary
	if info, err := os.Stat(path); err == nil {
		room -= int(min(info.Size(), maxSummary))
	}
	if err := appendFile(path, truncateMarkdown(markdown, room)); err != nil {
		return fmt.Errorf("writing job summary: %w", err)
	}
	return nil
}
