package server_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/server"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// letsIn is who may use each route, in words of this test: ci, capability,
// anyone, and the roles of persons. It is written out, so that a change of a
// route's access is seen here.
var letsIn = map[string][]string{
	"POST /v1/requests":                    {"ci"},
	"GET /v1/requests":                     {"auditor", "admin"},
	"GET /v1/requests/:id":                 {"capability", "auditor", "admin", "submitter"},
	"GET /v1/requests/:id/evidence":        {"capability", "auditor", "admin", "submitter"},
	"POST /v1/requests/:id/cancel":         {"ci", "admin"},
	"PUT /v1/requests/:id/content/:digest": {"capability"},
	"GET /v1/requests/:id/envelopes":       {"capability"},
	"POST /v1/requests/:id/lease":          {"capability"},
	"POST /v1/requests/:id/published":      {"capability"},
	"GET /v1/login":                        {"anyone"},
	"GET /v1/trust":                        {"anyone"},
	"GET /v1/trust/keys":                   {"anyone"},
	"GET /v1/trust/keys/:id":               {"anyone"},
	"GET /v1/trust/log":                    {"anyone"},
	"GET /log/checkpoint":                  {"auditor", "admin"}, // unless public
	"GET /log/tile/*":                      {"auditor", "admin"},
	"GET /lookaside/*":                     {"anyone"},
	"POST /v1/requests/:id/approve":        {"approver"},
	"POST /v1/requests/:id/deny":           {"approver"},
	"POST /v1/requests/:id/resubmit":       {"submitter"},
	"POST /v1/lists":                       {"submitter"},
	"POST /v1/requests/:id/retry":          {"admin"},
	"POST /hooks/github/:host":             {"anyone"}, // who is authenticated by a signature
	"POST /hooks/gitlab/:host":             {"anyone"},
	"GET /healthz":                         {"anyone"},
	"GET /readyz":                          {"anyone"},
	"GET /metrics":                         {"anyone"},
	"GET /openapi.yaml":                    {"anyone"},
	"GET /v1/requests/:id/facts":           {"auditor", "admin", "submitter"},
	"POST /v1/policies/evaluate":           {"submitter", "auditor", "admin"},
}

func TestEveryRouteHasExactlyOneRequirement(t *testing.T) {
	r := start(t, testenv.Options{})
	s := r.another(func(o *server.Options) { o.PublicLog = false })
	var listed, routed, wanted []string
	for _, route := range s.Routes() {
		listed = append(listed, route.Method+" "+route.Path)
		if route.Access == "" {
			t.Errorf("%s %s lets nobody in", route.Method, route.Path)
		}
		// The workflow may refuse besides, so what the route itself says is compared.
		words := map[string]string{"anyone": "nothing", "ci": "token of a CI job", "capability": api.HeaderCapability}
		for _, role := range signing.PeopleRoles() {
			words[string(role)] = string(role)
		}
		for who, word := range words {
			if says := strings.Contains(route.Access, word); says != slices.Contains(letsIn[route.Method+" "+route.Path], who) {
				t.Errorf("%s %s demands %q; %s: %v", route.Method, route.Path, route.Access, who, says)
			}
		}
	}
	routed = s.Served()
	for name := range letsIn {
		wanted = append(wanted, name)
	}
	for _, list := range [][]string{listed, routed, wanted} {
		slices.Sort(list)
	}
	if d := cmp.Diff(routed, listed); d != "" {
		t.Errorf("the router's routes (-) and those with a requirement (+) differ:\n%s", d)
	}
	if d := cmp.Diff(wanted, listed); d != "" {
		t.Errorf("the table of this test (-) and the routes (+) differ:\n%s", d)
	}
}

// described is what openapi.yaml says of an operation, in the words of letsIn.
func (r *rig) described(method, path string) (out []string) {
	route, _ := r.operation(method, path)
	if route == nil {
		return nil
	}
	if route.Operation.Security == nil {
		return []string{"anyone"}
	}
	for _, way := range *route.Operation.Security {
		for scheme, scopes := range way {
			switch scheme {
			case "token":
				out = append(out, "ci")
			case "person":
				out = append(out, scopes...)
			default:
				out = append(out, scheme)
			}
		}
	}
	return out
}

// TestEveryRouteTakesWhatItsRequirementSaysAndNothingElse tries every proof on
// every route: a job's token on a person's route and the other way round, every
// role alone, and what is no proof.
func TestEveryRouteTakesWhatItsRequirementSaysAndNothingElse(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	q, mine := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", a))
	r.finish(q.ID, mine)
	r.serve(r.another(func(o *server.Options) { o.PublicLog = false; o.Rate = 10000 }).Handler())
	gitlab, err := world.GitLab.GitLabToken(devworld.NewGitLabJob(), testenv.Audience)
	ok(t, err)
	forged, err := world.People.Mint(world.People.PersonClaims(devworld.Person{Subject: "x", Groups: []string{"admin", "auditor"}}, testenv.PeopleAudience), devworld.Flaw{Stranger: true})
	ok(t, err)
	// A job that asked its CI for a token with the audience of persons, and with
	// whatever claims its issuer can be made to write.
	claims := world.GitHub.GitHubClaims(mainJob(0), testenv.PeopleAudience)
	claims["groups"] = []string{"admin", "auditor"}
	asPerson, err := world.GitHub.Mint(claims, devworld.Flaw{})
	ok(t, err)
	toJobs, err := world.People.PersonToken(devworld.Person{Subject: "x", Groups: []string{"admin", "auditor"}}, testenv.Audience)
	ok(t, err)
	proofs := map[string]call{
		"nothing":                            {},
		"ci":                                 {token: "fresh"},
		"ci of gitlab":                       {token: gitlab},
		"capability":                         {capability: mine},
		"a person without a role":            {token: r.e.Person()},
		"a person with roles, forged":        {token: forged},
		"a job for the people's audience":    {token: asPerson},
		"a person for the jobs' audience":    {token: toJobs},
		"a capability as a token":            {token: mine},
		"a person's token as the capability": {capability: r.e.Person(signing.Auditor, signing.Admin)},
	}
	for _, role := range signing.PeopleRoles() {
		proofs[string(role)] = call{token: r.e.Person(role)}
	}
	n := 0
	for name, lets := range letsIn {
		method, path, _ := strings.Cut(name, " ")
		path = strings.NewReplacer(":id", q.ID, ":digest", string(a.Digest), "*", "0/000.p/1").Replace(path)
		want := slices.Sorted(slices.Values(lets))
		if d := cmp.Diff(want, slices.Sorted(slices.Values(r.described(method, path)))); d != "" {
			t.Errorf("openapi.yaml says of %s: %s", name, d)
		}
		for proof, c := range proofs {
			c.method, c.path = method, path
			if c.token == "fresh" {
				n++
				c.token = r.token(mainJob(n))
			}
			ans := r.do(c)
			in := ans.Status != http.StatusUnauthorized && ans.Status != http.StatusForbidden
			kind := strings.TrimSuffix(proof, " of gitlab")
			may := slices.Contains(lets, kind) || slices.Contains(lets, "anyone")
			if kind == "submitter" && method == http.MethodGet && slices.Contains(lets, "auditor") {
				may = false // their own, which this one is not
			}
			if in != may {
				t.Errorf("%s with %s answered %d: %s", name, proof, ans.Status, ans.Body)
			}
		}
	}
	if got := r.logged(); got[audit.RequestSubmitted] != 1 || got[audit.RequestCanceled] != 0 {
		t.Errorf("%v", got)
	}
}

// TestNothingInARequestRaisesARole: roles come from the issuer's row and the
// verified claims that it names.
func TestNothingInARequestRaisesARole(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	q, _ := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", a))
	for name, claims := range map[string]map[string]any{
		"other claims":            {"roles": []string{"admin", "auditor"}, "role": "admin", "Roles": []string{"admin"}, "admin": true, "scope": "admin auditor"},
		"other case":              {"groups": []string{"Admin", "AUDITOR", "admin ", "auditor\u200b"}},
		"a group with both names": {"groups": []string{"admin,auditor", "admin auditor"}},
	} {
		token, err := world.People.PersonToken(devworld.Person{Subject: "admin", Email: "admin@acme.test", Groups: []string{"approver"}, Overrides: claims}, testenv.PeopleAudience)
		ok(t, err)
		for _, c := range []call{
			{method: http.MethodGet, path: api.PathRequests},
			{method: http.MethodGet, path: api.PathRequests + "?role=admin&roles=auditor"},
			{method: http.MethodGet, path: api.PathRequests, header: http.Header{"X-Role": {"admin"}, "X-Forwarded-User": {"admin"}, "X-Forwarded-Groups": {"admin"}}},
			{method: http.MethodGet, path: api.PathRequests + "/" + q.ID},
			{method: http.MethodPost, path: api.PathRequests + "/" + q.ID + "/cancel", body: `{"roles":["admin"]}`},
		} {
			c.token = token
			if ans := r.do(c); ans.Status != http.StatusForbidden {
				t.Errorf("%s: %s %s answered %d: %s", name, c.method, c.path, ans.Status, ans.Body)
			}
		}
	}
}

func TestRefusedTokensOfPersonsAreInTheAuditLog(t *testing.T) {
	r := start(t, testenv.Options{})
	for name, c := range map[string]struct {
		claims map[string]any
		flaw   devworld.Flaw
		status int
		events int
		words  []string
	}{
		"expired":             {map[string]any{"exp": at(-time.Minute)}, devworld.Flaw{}, 401, 1, []string{"expired", "log in again"}},
		"too old":             {map[string]any{"iat": at(-2 * time.Hour)}, devworld.Flaw{}, 401, 1, []string{"too old"}},
		"of another client":   {map[string]any{"aud": "https://wiki.acme.test"}, devworld.Flaw{}, 401, 1, []string{testenv.PeopleAudience, "wiki"}},
		"with groups of text": {map[string]any{"groups": map[string]any{"auditor": true}}, devworld.Flaw{}, 401, 1, []string{"groups"}},
		"without a subject":   {map[string]any{"sub": nil}, devworld.Flaw{}, 401, 1, []string{"sub"}},
		"without the role":    {map[string]any{"groups": []string{"approver"}}, devworld.Flaw{}, 403, 1, []string{"auditor or admin", "approver"}},
		"without groups":      {map[string]any{"groups": nil}, devworld.Flaw{}, 403, 1, []string{"without a role", "operator"}},
		"forged":              {nil, devworld.Flaw{Stranger: true}, 401, 0, []string{"signature"}},
		"of no algorithm":     {nil, devworld.Flaw{Algorithm: "none"}, 401, 0, []string{"algorithm"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			claims := world.People.PersonClaims(devworld.Person{Subject: "00u1", Groups: []string{"auditor"}}, testenv.PeopleAudience)
			for k, v := range c.claims {
				claims[k] = v
			}
			token, err := world.People.Mint(claims, c.flaw)
			ok(t, err)
			before := r.logged()[audit.TokenRefused]
			r.refused(r.as(token, api.PathRequests), c.status, c.words...)
			if n := r.logged()[audit.TokenRefused] - before; n != c.events {
				t.Errorf("%d events, want %d", n, c.events)
			}
		})
	}
}

func TestAnAdminCancelsAnyRequestAndIsInTheLog(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	hold := holdAt(t, "manifest", a)
	q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", a))
	<-hold.Arrived()
	cancel := func(token, id string) testenv.Answer {
		return r.do(call{method: http.MethodPost, path: api.PathRequests + "/" + id + "/cancel", token: token})
	}
	for _, role := range []signing.PeopleRole{signing.Auditor, signing.Approver, signing.Submitter} {
		r.refused(cancel(r.e.Person(role), q.ID), http.StatusForbidden, "admin", string(role))
	}
	if ans := cancel(r.e.Person(signing.Admin), "sr_0000000000000000"); ans.Status != http.StatusNotFound {
		t.Errorf("an unknown request answered %d", ans.Status)
	}
	if ans := cancel(r.e.Person(signing.Admin), q.ID); ans.Status != http.StatusOK {
		t.Fatalf("answered %d: %s", ans.Status, ans.Body)
	}
	hold.Release()
	if q = r.finish(q.ID, capability); q.State != signing.Canceled || q.Failure == nil || !strings.Contains(q.Failure.Message, "admin") {
		t.Errorf("ended %s: %+v", q.State, q.Failure)
	}
	if n := r.e.Signatures(a); n != 0 {
		t.Errorf("%d signatures", n)
	}
	found := false
	for _, ev := range r.s.VerifyLog() {
		found = found || ev.Kind == audit.RequestCanceled && ev.Attrs["issuer"] == world.People.URL() && ev.Attrs["subject"] == audit.Hashed("00u1ann")
	}
	if !found {
		t.Error("the log does not say who canceled it")
	}
}

func TestAuditorsListAndReadEveryRequest(t *testing.T) {
	r := start(t, testenv.Options{})
	images := []signing.Artifact{r.e.Image(t.Name()), r.e.Image(t.Name() + " 2"), r.e.Image(t.Name() + " 3")}
	var ids []string
	for i, a := range images {
		policy := "release"
		if i == 1 {
			policy = "nothing" // is denied
		}
		list := []signing.Artifact{a}
		if i == 2 {
			list = append(list, images[0])
		}
		q, capability := r.submit(r.token(mainJob(i)), "k", testenv.Body(policy, list...))
		r.finish(q.ID, capability)
		ids = append([]string{q.ID}, ids...)
	}
	token := r.e.Person(signing.Auditor)
	list := func(query string) (page api.Page) {
		t.Helper()
		ans := r.as(token, api.PathRequests+query)
		if ans.Status != http.StatusOK {
			t.Fatalf("%s answered %d: %s", query, ans.Status, ans.Body)
		}
		ans.JSON(t, &page)
		return page
	}
	for query, want := range map[string][]string{
		"":                                    ids,
		"?state=denied":                       {ids[1]},
		"?state=completed":                    {ids[0], ids[2]},
		"?project=payments&state=completed":   {ids[0], ids[2]},
		"?project=shop":                       {},
		"?digest=" + string(images[0].Digest): {ids[0], ids[2]},
		"?digest=" + someDigest:               {},
	} {
		page := list(query)
		got := []string{}
		for _, s := range page.Requests {
			got = append(got, s.ID)
		}
		if d := cmp.Diff(want, got); d != "" || page.Cursor != "" {
			t.Errorf("%s: cursor %q: %s", query, page.Cursor, d)
		}
	}
	found := list("?digest=" + string(images[0].Digest)).Requests[0]
	if found.Artifacts != 2 || found.Artifact.Digest != string(images[0].Digest) || found.Origin.RepositoryID != "74" || found.Policy != "release" {
		t.Errorf("%+v", found)
	}
	var one api.Request
	r.as(token, api.PathRequests+"/"+ids[1]).JSON(t, &one)
	if one.State != signing.RequestDenied || one.Decision == nil && one.Failure == nil {
		t.Errorf("%+v", one)
	}
	if ans := r.as(token, api.PathRequests+"/sr_0000000000000000"); ans.Status != http.StatusNotFound {
		t.Errorf("an unknown request answered %d", ans.Status)
	}
	if ans := r.as(token, fmt.Sprintf("%s/%s?wait=10s&version=%d", api.PathRequests, one.ID, one.Version)); ans.Status != http.StatusOK {
		t.Errorf("a long poll for what is over answered %d", ans.Status)
	}
	// Long after the deadline, when the capability is dead.
	const later = 50 * 24 * time.Hour
	r.e.Clock.Add(int64(later))
	token, err := world.People.PersonToken(devworld.Person{Subject: "x", Groups: []string{"auditor"}, Overrides: map[string]any{"iat": at(later), "exp": at(later + time.Minute)}}, testenv.PeopleAudience)
	ok(t, err)
	if ans := r.as(token, api.PathRequests+"/"+ids[0]); ans.Status != http.StatusOK {
		t.Errorf("after the deadline it answered %d: %s", ans.Status, ans.Body)
	}
}

func TestAListOfManyRequestsComesInPages(t *testing.T) {
	r := start(t, testenv.Options{})
	const many = 53
	a := r.e.Image(t.Name())
	for i := range many {
		r.submit(r.token(mainJob(i+1)), "k", testenv.Body("nothing", a))
	}
	token := r.e.Person(signing.Admin)
	seen := map[string]bool{}
	var sizes []int
	for cursor := ""; ; {
		var page api.Page
		r.as(token, api.PathRequests+"?digest="+string(a.Digest)+"&cursor="+url.QueryEscape(cursor)).JSON(t, &page)
		for _, s := range page.Requests {
			seen[s.ID] = true
		}
		sizes = append(sizes, len(page.Requests))
		if cursor = page.Cursor; cursor == "" {
			break
		}
	}
	if d := cmp.Diff([]int{50, 3}, sizes); d != "" || len(seen) != many {
		t.Errorf("%d requests: %s", len(seen), d)
	}
}

func TestQueryOfAListThatIsNoneIsRefused(t *testing.T) {
	r := start(t, testenv.Options{})
	token := r.e.Person(signing.Auditor)
	for query, word := range map[string]string{
		"?state=done": "state", "?state=Pending": "state", "?digest=v1.0.0": "digest", "?digest=sha256:abc": "digest", "?digest=" + strings.ToUpper(someDigest): "digest",
		"?cursor=x": "cursor", "?cursor=AAAAAAAAAAA": "cursor", "?cursor=__________8": "cursor", "?cursor=" + strings.Repeat("A", 4000): "cursor", "?cursor=AAAAAAAAAAB": "cursor",
		"?projects=payments": "projects", "?State=denied": "State", "?project=a&project=b": "project", "?limit=1000000": "limit", "?" + strings.Repeat("x", 3000): "query",
	} {
		p := r.refused(r.as(token, api.PathRequests+query), http.StatusBadRequest, word)
		if len(p.Found) > 150 {
			t.Errorf("%.40s: %s", query, p.Found)
		}
	}
	if n := r.logged()[audit.TokenRefused]; n != 0 {
		t.Errorf("%d refused tokens, though the token was good", n)
	}
}
