package ci

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxDotenv is GitLab's bound for artifacts:reports:dotenv; a larger file
	// fails the upload and with it the job's outputs as a whole.
	maxDotenv = 5 << 10
	// Where a GitLab job finds what this step says, relative to its folder.
	gitlabOutputs = "sealwright.env"
	gitlabSummary = "sealwright-summary.md"
	// maxSummaryFile bounds the summary where the CI sets no bound itself.
	maxSummaryFile = 1 << 20
)

// gitlab is GitLab CI. The token is a variable of the job (`id_tokens:`), with
// the audience that the job's definition says; GitLab masks it itself.
type gitlab struct{ Options }

func (g *gitlab) token(_ context.Context, audience string) (string, error) {
	token, err := readToken(g.Options)
	if err != nil || token != "" {
		return token, err
	}
	return "", &signing.Error{Code: signing.Unauthenticated, Message: "this job has no ID token for Sealwright", Expected: "a token in the variable " + g.TokenVariable, Found: "an empty variable", Fix: fmt.Sprintf("add to the job: `id_tokens: {%s: {aud: %q}}`", g.TokenVariable, audience)}
}

// readToken reads the job's token from the file or the variable; "" if neither
// holds one.
func readToken(o Options) (string, error) {
	if o.TokenFile == "" {
		return strings.TrimSpace(o.Env(o.TokenVariable)), nil
	}
	f, err := os.Open(o.TokenFile)
	if err != nil {
		return "", &signing.Error{Code: signing.Unauthenticated, Message: "the token file cannot be read", Expected: "a file with the job's ID token", Found: "no readable file", Fix: "check the path given as `id-token-file`", Err: err}
	}
	defer func() { _ = f.Close() }()                      // read only
	raw, err := io.ReadAll(io.LimitReader(f, maxToken+2)) // and a line break
	if err != nil {
		return "", fmt.Errorf("reading token file: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

func (g *gitlab) run() []string {
	return []string{g.Env("CI_SERVER_URL"), g.Env("CI_PROJECT_ID"), g.Env("CI_PIPELINE_ID"), g.Env("CI_JOB_ID")}
}

// command: GitLab has none.
func (g *gitlab) command(string, string, string) string { return "" }

func (g *gitlab) outputs(kv []Output) ([]string, error) {
	path := g.OutputFile
	if path == "" {
		path = g.inProject(gitlabOutputs)
	}
	return writeDotenv(path, kv)
}

func (g *gitlab) summary(markdown string) error {
	path := g.SummaryFile
	if path == "" {
		path = g.inProject(gitlabSummary)
	}
	return writeSummary(path, markdown)
}

// inProject places a file where `artifacts:` looks for it.
func (g *gitlab) inProject(name string) string { return filepath.Join(g.Env("CI_PROJECT_DIR"), name) }

// none is a terminal, or a CI that this package does not know.
type none struct{ Options }

func (n *none) token(_ context.Context, audience string) (string, error) {
	token, err := readToken(n.Options)
	if err != nil || token != "" {
		return token, err
	}
	return "", &signing.Error{Code: signing.Unauthenticated, Message: "no CI system was recognised and no token was given", Expected: "GitHub Actions, GitLab CI, or an ID token", Found: "none of them", Fix: fmt.Sprintf("give the OIDC token of your CI, with the audience %s, in %s or with --id-token-file", audience, n.TokenVariable)}
}

// run is empty: the service scopes the key to the run that the token names.
func (n *none) run() []string { return nil }

func (n *none) command(string, string, string) string { return "" }

func (n *none) outputs(kv []Output) ([]string, error) {
	if n.OutputFile == "" {
		return nil, nil
	}
	return writeDotenv(n.OutputFile, kv)
}

func (n *none) summary(markdown string) error {
	if n.SummaryFile == "" {
		return nil
	}
	return writeSummary(n.SummaryFile, markdown)
}

// writeDotenv writes SEALWRIGHT_NAME=value lines. The form has no quoting:
// values are put on one line, and what does not fit is left out by name.
func writeDotenv(path string, kv []Output) ([]string, error) {
	text, omitted := dotenv(kv, maxDotenv)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("writing outputs: %w", err)
	}
	return omitted, nil
}

// dotenv keeps the smallest values first, so that one long list does not push
// out the request id and the state; the order of the file is the caller's.
func dotenv(kv []Output, most int) (text string, omitted []string) {
	lines := make([]string, len(kv))
	order := make([]int, len(kv))
	for i, o := range kv {
		lines[i] = "SEALWRIGHT_" + strings.ToUpper(strings.ReplaceAll(o.Name, "-", "_")) + "=" + Clean(o.Value) + "\n"
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return len(lines[a]) - len(lines[b]) })
	keep := make([]bool, len(kv))
	for _, i := range order {
		if most -= len(lines[i]); most < 0 {
			break
		}
		keep[i] = true
	}
	var b strings.Builder
	for i := range kv {
		if keep[i] {
			b.WriteString(lines[i])
		} else {
			omitted = append(omitted, kv[i].Name)
		}
	}
	return b.String(), omitted
}

func writeSummary(path, markdown string) error {
	if err := os.WriteFile(path, []byte(truncateMarkdown(markdown, maxSummaryFile)), 0o644); err != nil {
		return fmt.Errorf("writing job summary: %w", err)
	}
	return nil
}
