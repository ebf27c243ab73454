package ci

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// maxSummary is GitHub's bound for each step: more is dropped as a whole.
const maxSummary = 1 << 20

// github is GitHub Actions, and what speaks its protocol (GHES, Forgejo).
type github struct{ Options }

// token asks the runner's token endpoint: GET URL&audience=A with the job's
// request token; the URL has a query already.
func (g *github) token(ctx context.Context, audience string) (string, error) {
	raw, bearer := g.Env("ACTIONS_ID_TOKEN_REQUEST_URL"), g.Env("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
	if raw == "" || bearer == "" {
		fix := "add `permissions: id-token: write` to the job (with `contents: read` and whatever else it needs); a pull request from a fork never gets one"
		if g.Env("FORGEJO_ACTIONS") == "true" {
			fix = "add `enable-openid-connect: true` to the workflow or the job"
		}
		return "", &signing.Error{Code: signing.Unauthenticated, Message: "this job may not ask GitHub for an ID token", Expected: "ACTIONS_ID_TOKEN_REQUEST_URL and ACTIONS_ID_TOKEN_REQUEST_TOKEN in the environment", Found: "none", Fix: fix}
	}
	return g.ask(ctx, endpoint{
		who: "GitHub", variable: "ACTIONS_ID_TOKEN_REQUEST_URL", method: http.MethodGet, address: raw, query: "audience=" + url.QueryEscape(audience),
		authorization: "bearer " + bearer, accept: "application/json; api-version=2.0", field: "value",
		again: "run the step again; see githubstatus.com", refused: "check `permissions: id-token: write` of the job and that it is still running",
	})
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
