package ci

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// other is a CI that differs from a plain job in where the token is, and in what
// names the run. A token in the file or variable that the caller named is
// always preferred.
type other struct {
	none
	place
}

// place is a row of the table below.
type place struct {
	name     string
	marker   string   // a variable that only this CI sets
	ids      []string // variables that name the run and the job
	variable string   // holds the token, if one does
	endpoint func(o Options, audience string) (endpoint, bool)
	fix      string // what to do if there is no token; %s is the audience
}

// places are the CIs that are told from a plain job.
func places() []place {
	return []place{
		{
			name: CircleCI, marker: "CIRCLECI", ids: []string{"CIRCLE_WORKFLOW_ID", "CIRCLE_JOB", "CIRCLE_NODE_INDEX"}, variable: "CIRCLE_OIDC_TOKEN_V2",
			fix: "run `circleci run oidc get --claims '{\"aud\": \"%s\"}' > FILE` and give the file as `id-token-file`",
		},
		{
			name: Bitbucket, marker: "BITBUCKET_BUILD_NUMBER", ids: []string{"BITBUCKET_PIPELINE_UUID", "BITBUCKET_STEP_UUID"}, variable: "BITBUCKET_STEP_OIDC_TOKEN",
			fix: "add `oidc: {audiences: [\"%s\"]}` to the step",
		},
		{
			name: Buildkite, marker: "BUILDKITE", ids: []string{"BUILDKITE_BUILD_ID", "BUILDKITE_JOB_ID"},
			fix: "run `buildkite-agent oidc request-token --audience %s --claim organization_id,pipeline_id > FILE` and give the file as `id-token-file`",
		},
		{
			name: AzureDevOps, marker: "TF_BUILD", ids: []string{"SYSTEM_COLLECTIONID", "BUILD_BUILDID", "SYSTEM_JOBID", "SYSTEM_JOBATTEMPT"}, endpoint: azureEndpoint,
			fix: "add `SYSTEM_ACCESSTOKEN: $(System.AccessToken)` to the `env` of the step",
		},
		{
			name: Codefresh, marker: "CF_BUILD_ID", ids: []string{"CF_BUILD_ID", "CF_STEP_NAME"}, endpoint: codefreshEndpoint,
			fix: "run the step in a Codefresh build, which has CF_OIDC_REQUEST_URL and CF_OIDC_REQUEST_TOKEN",
		},
	}
}

// azureEndpoint: a POST with the job's access token. Without a service
// connection in its query the token is the pipeline's.
func azureEndpoint(o Options, _ string) (endpoint, bool) {
	address, token := o.Env("SYSTEM_OIDCREQUESTURI"), o.Env("SYSTEM_ACCESSTOKEN")
	return endpoint{
		who: "Azure DevOps", variable: "SYSTEM_OIDCREQUESTURI", method: http.MethodPost, address: address, query: "api-version=7.1",
		authorization: "Bearer " + token, accept: "application/json", field: "oidcToken",
		again: "run the step again", refused: "check that the step has `SYSTEM_ACCESSTOKEN: $(System.AccessToken)` in its `env`",
	}, address != "" && token != ""
}

// codefreshEndpoint: a GET with the build's request token, without a scheme.
func codefreshEndpoint(o Options, audience string) (endpoint, bool) {
	address, token := o.Env("CF_OIDC_REQUEST_URL"), o.Env("CF_OIDC_REQUEST_TOKEN")
	return endpoint{
		who: "Codefresh", variable: "CF_OIDC_REQUEST_URL", method: http.MethodGet, address: address, query: "audience=" + url.QueryEscape(audience),
		authorization: token, accept: "application/json", field: "id_token",
		again: "run the step again", refused: "check that the build is still running",
	}, address != "" && token != ""
}

// elsewhere returns the CI that o's variables are of.
func elsewhere(o Options) (*other, bool) {
	for _, p := range places() {
		if v := o.Env(p.marker); v != "" && !strings.EqualFold(v, "false") {
			return &other{none{o}, p}, true
		}
	}
	return nil, false
}

func (p *other) token(ctx context.Context, audience string) (string, error) {
	token, err := readToken(p.Options)
	if err != nil || token != "" {
		return token, err
	}
	expected := "a token in " + p.TokenVariable + " or --id-token-file"
	if p.variable != "" {
		if token := strings.TrimSpace(p.Env(p.variable)); token != "" {
			return token, nil
		}
		expected = "a token in " + p.variable + ", in " + p.TokenVariable + " or --id-token-file"
	}
	if p.endpoint != nil {
		e, ok := p.endpoint(p.Options, audience)
		if ok {
			return p.ask(ctx, e)
		}
		expected = e.variable + " and its token in the environment"
	}
	fix := p.fix
	if strings.Contains(fix, "%s") {
		fix = fmt.Sprintf(fix, audience)
	}
	return "", &signing.Error{Code: signing.Unauthenticated, Message: "this job has no ID token for Sealwright", Expected: expected, Found: "none", Fix: fix}
}

// renews says that every call of token asks for a new one.
func (p *other) renews() bool {
	return p.endpoint != nil && p.TokenFile == "" && strings.TrimSpace(p.Env(p.TokenVariable)) == ""
}

func (p *other) run() []string {
	out := make([]string, len(p.ids))
	for i, name := range p.ids {
		out[i] = p.Env(name)
	}
	return out
}

// command is Azure's logging commands; the others have none. Only what is sure
// to be one line of plain characters goes into one.
func (p *other) command(name, _, data string) string {
	if p.name != AzureDevOps {
		return ""
	}
	data = strings.NewReplacer("%", "%AZP25", "\r", "%0D", "\n", "%0A").Replace(data)
	switch name {
	case "add-mask":
		return "##vso[task.setsecret]" + data
	case string(LevelError), string(LevelWarning):
		return "##vso[task.logissue type=" + name + "]" + data
	}
	return ""
}
