package server_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

func (r *rig) evaluate(token, body string) testenv.Answer {
	r.t.Helper()
	return r.do(call{method: http.MethodPost, path: api.PathEvaluate, token: token, body: body})
}

func TestRecordedRequestIsDecidedAgainWithoutATrace(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", a))
	r.finish(q.ID, capability)
	auditor := r.e.Person(signing.Auditor)

	var f signing.Facts
	r.as(auditor, api.PathRequests+"/"+q.ID+"/facts").JSON(t, &f)
	if f.Policy != "release" || f.Origin.RunID != "9001" || len(f.Images) != 1 || f.Images[0].Kind != signing.KindIndex || len(f.Images[0].Manifests) != 2 || f.Images[0].Artifact.Digest != a.Digest || f.Identity.TokenHash != "" {
		t.Errorf("%+v", f)
	}
	before := len(r.s.VerifyLog())
	for name, c := range map[string]struct {
		change func(*signing.Facts)
		body   func(signing.Facts) string
		effect signing.Effect
		rule   string
	}{
		"by its id":                   {nil, func(signing.Facts) string { return `{"request":"` + q.ID + `"}` }, signing.Allow, ""},
		"by its facts":                {nil, factsBody, signing.Allow, ""},
		"from another branch":         {func(f *signing.Facts) { f.Origin.SourceRepositoryRef = "refs/heads/x" }, factsBody, signing.Deny, "origin.refs"},
		"an image the key may not":    {func(f *signing.Facts) { f.Origin.RefProtected = false }, factsBody, signing.Deny, "key.require.protected_ref"},
		"another policy":              {nil, func(signing.Facts) string { return `{"request":"` + q.ID + `","policy":"other"}` }, signing.Deny, "policy"},
		"a repository nobody knows":   {func(f *signing.Facts) { f.Origin.SourceRepositoryIdentifier = "75" }, factsBody, signing.Deny, "repositories"},
		"facts that say nothing":      {func(f *signing.Facts) { *f = signing.Facts{} }, factsBody, signing.Deny, "repositories"},
		"more images than one may be": {func(f *signing.Facts) { f.Images = make([]signing.Image, signing.MaxArtifacts+1) }, factsBody, signing.Deny, "request.images"},
	} {
		g := f
		if c.change != nil {
			c.change(&g)
		}
		ans := r.evaluate(auditor, c.body(g))
		if ans.Status != http.StatusOK {
			t.Errorf("%s: %d %s", name, ans.Status, ans.Body)
			continue
		}
		var e api.Evaluation
		ans.JSON(t, &e)
		rules := ""
		for _, leaf := range e.Reasons.Failures() {
			rules += leaf.Rule + " "
		}
		if e.Effect != c.effect || e.Generation != 1 || !strings.Contains(rules+" ", c.rule) || (e.Effect == signing.Allow) != e.Reasons.Pass {
			t.Errorf("%s: %s of generation %d by %s", name, e.Effect, e.Generation, rules)
		}
	}
	if after := len(r.s.VerifyLog()); after != before {
		t.Errorf("%d events", after-before)
	}
	if r.e.KeyUses() != 1 {
		t.Errorf("%d key uses", r.e.KeyUses())
	}
}

func factsBody(f signing.Facts) string {
	raw, err := json.Marshal(api.EvaluateRequest{Facts: &f})
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func TestSubmitterMayAskAboutFactsButNotAboutRequestsOfOthers(t *testing.T) {
	r := start(t, testenv.Options{})
	q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", r.e.Image(t.Name())))
	r.finish(q.ID, capability)
	submitter := r.e.Person(signing.Submitter)
	if ans := r.evaluate(submitter, `{"facts":{"policy":"release"}}`); ans.Status != http.StatusOK {
		t.Errorf("facts: %d %s", ans.Status, ans.Body)
	}
	r.refused(r.evaluate(submitter, `{"request":"`+q.ID+`"}`), http.StatusForbidden, "only auditors and admins")
}

func TestBadQuestionsToThePoliciesAreRefused(t *testing.T) {
	r := start(t, testenv.Options{})
	admin := r.e.Person(signing.Admin)
	for name, c := range map[string]struct {
		body   string
		status int
		words  string
	}{
		"nothing":             {`{}`, http.StatusBadRequest, "one of the two"},
		"both":                {`{"facts":{},"request":"sr_0000000000000000"}`, http.StatusBadRequest, "one of the two"},
		"a fact that is none": {`{"facts":{"origin":{"branch":"main"}}}`, http.StatusBadRequest, "facts.origin.branch"},
		"an id that is none":  {`{"request":"../keys"}`, http.StatusBadRequest, "not the id"},
		"no JSON":             {`facts`, http.StatusBadRequest, "JSON"},
		"too much":            {`{"facts":{"policy":"` + strings.Repeat("x", api.MaxEvaluate) + `"}}`, http.StatusRequestEntityTooLarge, "too large"},
		"an unknown request":  {`{"request":"sr_0000000000000000"}`, http.StatusNotFound, "no such request"},
	} {
		t.Run(name, func(t *testing.T) {
			if ans := r.in(t).evaluate(admin, c.body); ans.Status != c.status || !strings.Contains(string(ans.Body), c.words) {
				t.Errorf("%d %s", ans.Status, ans.Body)
			}
		})
	}
}
