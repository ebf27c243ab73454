package server_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

const askingPolicies = `
  asked:
    origin: {refs: [refs/heads/main], github: {events: [push], workflow: .github/workflows/release.yml}}
    approvals: {all: [{required: 1, from: ["github.test:acme/release"]}], ways: [api, break_glass]}
    report: [summary]
    sign: [{method: cosign, key: release}]
  by-hand:
    origin: {refs: [refs/heads/main], human: true, github: {events: [push], workflow: .github/workflows/release.yml}}
    approvals: {all: [{required: 1, from: ["github.test:acme/release"]}], ways: [api]}
    report: [summary]
    sign: [{method: cosign, key: release}]
  lists:
    origin: {human: true}
    approvals: {all: [{required: 1, from: ["github.test:acme/release"]}], ways: [api]}
    report: [summary]
    sign: [{method: cosign, key: release}]
`

const askingKeys = `
  - id: release
    file: file:DIR/release.key
    methods: [cosign]
    allow:
      - {project: payments, policy: release, repositories: ["HOST/payments/*"]}
      - {project: payments, policy: asked, repositories: ["HOST/payments/*"]}
      - {project: payments, policy: by-hand, repositories: ["HOST/payments/*"]}
      - {project: payments, policy: lists, repositories: ["HOST/payments/*"]}
`

// startAsking is a service whose policy `asked` asks ann, who has an account and an
// identity.
func startAsking(t *testing.T) (*rig, *testenv.Letters) {
	t.Helper()
	var r *rig
	f := testenv.NewLetters("github.test", func() time.Time { return r.e.Now() })
	f.Person("101", "ann", "github.test:acme/release")
	f.Person("102", "bob", "github.test:acme/release")
	f.Person("103", "carl")
	f.Wrote([]string{"103"})
	r = start(t, testenv.Options{
		Policy: testenv.Policy + askingPolicies[1:], Keys: askingKeys, Forges: map[string]forge.Forge{"github.test": f},
		People: []approval.Person{{Name: "Ann", Accounts: []string{"github.test:101"}, Identities: []approval.PersonIdentity{{Issuer: world.People.URL(), Subject: "00u1ann"}}}},
	})
	return r, f
}

// asked submits under the policy that asks, and returns the request when people
// were asked.
func (r *rig) asked(n int, image string) (api.Request, string) {
	r.t.Helper()
	q, capability := r.submit(r.token(mainJob(n)), fmt.Sprint("asked-", n), testenv.Body("asked", r.e.Image(image)))
	for range 2000 {
		a := r.get(api.PathRequests+"/"+q.ID+"?wait=50ms&version="+fmt.Sprint(q.Version), capability)
		a.JSON(r.t, &q)
		if q.State.Terminal() || q.Approval != nil && q.Approval.Code != "" && q.Approval.URL != "" {
			break
		}
	}
	if q.State != signing.AwaitingApproval || q.Approval == nil || q.Approval.Code == "" {
		r.t.Fatalf("%s: %+v %+v", q.State, q.Failure, q.Approval)
	}
	return q, capability
}

func (r *rig) command(token, id, verb, body string) testenv.Answer {
	r.t.Helper()
	return r.do(call{method: http.MethodPost, path: api.PathRequests + "/" + id + "/" + verb, token: token, body: body})
}

func TestAPersonApprovesByTheAPIAndTheJobIsSigned(t *testing.T) {
	r, _ := startAsking(t)
	q, capability := r.asked(0, t.Name())
	if a := q.Approval; a.Forge != "github.test" || a.Repository != "acme/payments-web" || a.URL == "" || len(a.Groups) != 1 || a.Groups[0].Required != 1 || a.Groups[0].Given != 0 || len(a.Ways) != 2 {
		t.Errorf("the job is told %+v", a)
	}
	ann := r.e.Person(signing.Approver)
	r.refused(r.command(ann, q.ID, "approve", `{"code": "00000000"}`), http.StatusForbidden, "code")
	if a := r.command(ann, q.ID, "approve", `{"code": "`+q.Approval.Code+`"}`); a.Status != http.StatusOK {
		t.Fatalf("answered %d: %s", a.Status, a.Body)
	}
	if q = r.finish(q.ID, capability); q.State != signing.Completed || len(q.Approval.Given) != 1 || q.Approval.Given[0].Via != signing.ViaAPI {
		t.Errorf("ended %s: %+v %+v", q.State, q.Failure, q.Approval)
	}
}

func TestATokenOfAJobApprovesNothing(t *testing.T) {
	r, _ := startAsking(t)
	q, capability := r.asked(0, t.Name())
	body := `{"code": "` + q.Approval.Code + `"}`
	for _, verb := range []string{"approve", "deny"} {
		r.refused(r.command(r.token(mainJob(1)), q.ID, verb, body), http.StatusForbidden, "approver")
		r.refused(r.do(call{method: http.MethodPost, path: api.PathRequests + "/" + q.ID + "/" + verb, capability: capability, body: body}), http.StatusUnauthorized)
		for _, role := range []signing.PeopleRole{signing.Submitter, signing.Auditor, signing.Admin} {
			r.refused(r.command(r.e.Person(role), q.ID, verb, body), http.StatusForbidden, "approver")
		}
	}
	var now api.Request
	r.get(api.PathRequests+"/"+q.ID, capability).JSON(t, &now)
	if now.State != signing.AwaitingApproval || len(now.Approval.Given) != 0 {
		t.Errorf("%s with %+v", now.State, now.Approval)
	}
}

func TestADenialByTheAPIEndsTheRequest(t *testing.T) {
	r, _ := startAsking(t)
	q, capability := r.asked(0, t.Name())
	if a := r.command(r.e.Person(signing.Approver), q.ID, "deny", `{"code": "`+q.Approval.Code+`", "reason": "not today @everyone"}`); a.Status != http.StatusOK {
		t.Fatalf("answered %d: %s", a.Status, a.Body)
	}
	if q = r.finish(q.ID, capability); q.State != signing.RequestDenied {
		t.Errorf("ended %s", q.State)
	}
	for _, ev := range r.s.VerifyLog() {
		for k, v := range ev.Attrs {
			if strings.Contains(v, "everyone") {
				t.Errorf("the audit log has a stranger's words in %s", k)
			}
		}
	}
}

func TestAPersonSubmitsAgainUnderAPolicyForPeople(t *testing.T) {
	r, _ := startAsking(t)
	q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", r.e.Image(t.Name())))
	if q = r.finish(q.ID, capability); q.State != signing.Completed {
		t.Fatalf("ended %s: %+v", q.State, q.Failure)
	}
	a := r.command(r.e.Person(signing.Submitter), q.ID, "resubmit", `{"policy": "by-hand"}`)
	var again api.Request
	if a.JSON(t, &again); a.Status != http.StatusCreated || again.Source != q.ID || again.ID == q.ID {
		t.Fatalf("answered %d: %s", a.Status, a.Body)
	}
	r.refused(r.command(r.token(mainJob(1)), q.ID, "resubmit", `{"policy": "by-hand"}`), http.StatusForbidden)
	if a := r.command(r.e.Person(signing.Admin), again.ID, "retry", ""); a.Status != http.StatusOK && a.Status != http.StatusConflict {
		t.Errorf("retry answered %d: %s", a.Status, a.Body)
	}
}

func TestTheGlassIsBrokenOnTheServicesOwnMachineOnly(t *testing.T) {
	r, _ := startAsking(t)
	q, _ := r.asked(0, t.Name())
	ann, body := r.e.Person(signing.Approver), `{"code": "`+q.Approval.Code+`", "ticket": "INC-4711"}`
	r.refused(r.command(ann, q.ID, "approve", body), http.StatusForbidden, "admin socket")
	admin := httptest.NewServer(r.s.Server.Admin())
	t.Cleanup(admin.Close)
	send := func(token string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, admin.URL+api.PathRequests+"/"+q.ID+"/approve", strings.NewReader(body))
		ok(t, err)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		ok(t, err)
		ok(t, resp.Body.Close())
		return resp.StatusCode
	}
	if got := send(r.token(mainJob(1))); got != http.StatusForbidden {
		t.Errorf("a job's token on the admin socket answered %d", got)
	}
	if got := send(ann); got != http.StatusOK {
		t.Fatalf("ann on the admin socket was answered %d", got)
	}
	if r.logged()["request.break_glass"] != 1 {
		t.Errorf("the log has %v", r.logged())
	}
	r.silentBreak(q.ID)
}

// silentBreak checks that one person alone signed nothing.
func (r *rig) silentBreak(id string) {
	r.t.Helper()
	for _, ev := range r.s.VerifyLog() {
		if ev.Request == id && ev.Kind == audit.RequestSigning {
			r.t.Error("one person broke the glass alone")
		}
	}
}

// decides does everything that people may do with requests, with success.
func (r *rig) decides() {
	r.t.Helper()
	yes, capability := r.asked(10, r.t.Name()+" yes")
	no, _ := r.asked(11, r.t.Name()+" no")
	for _, c := range []struct {
		role           signing.PeopleRole
		id, verb, body string
	}{
		{signing.Admin, yes.ID, "retry", ""},
		{signing.Approver, yes.ID, "approve", `{"code": "` + yes.Approval.Code + `"}`},
		{signing.Approver, no.ID, "deny", `{"code": "` + no.Approval.Code + `", "reason": "no"}`},
	} {
		if a := r.command(r.e.Person(c.role), c.id, c.verb, c.body); a.Status != http.StatusOK {
			r.t.Errorf("%s answered %d: %s", c.verb, a.Status, a.Body)
		}
	}
	r.finish(yes.ID, capability)
	if a := r.command(r.e.Person(signing.Submitter), yes.ID, "resubmit", `{"policy": "by-hand"}`); a.Status != http.StatusCreated {
		r.t.Errorf("resubmit answered %d: %s", a.Status, a.Body)
	}
	if a := r.brings(r.e.Person(signing.Submitter), r.e.Image(r.t.Name()+" listed")); a.Status != http.StatusCreated {
		r.t.Errorf("a list was answered %d: %s", a.Status, a.Body)
	}
}

// brings submits a list of one image.
func (r *rig) brings(token string, a signing.Artifact) testenv.Answer {
	body := fmt.Sprintf(`{"policy": "lists", "artifacts": [{"repository": %q, "digest": %q}], "list": {"digest": %q, "made": %q}}`, a.Repository, a.Digest, a.Digest, r.e.Now().UTC().Format(time.RFC3339))
	return r.do(call{method: http.MethodPost, path: api.PathLists, token: token, body: body})
}

func TestAPersonBringsAListAndAJobDoesNot(t *testing.T) {
	r, _ := startAsking(t)
	image := r.e.Image(t.Name())
	var q api.Request
	a := r.brings(r.e.Person(signing.Submitter), image)
	if a.JSON(t, &q); a.Status != http.StatusCreated || q.List == nil || q.Origin.Commit != "" {
		t.Fatalf("answered %d: %s", a.Status, a.Body)
	}
	colleague, err := world.People.PersonToken(devworld.Person{Subject: "colleague", Groups: []string{"submitter"}}, testenv.PeopleAudience)
	ok(t, err)
	for _, path := range []string{"", "/facts", "?wait=1ms"} {
		path = api.PathRequests + "/" + q.ID + path
		if a := r.do(call{method: http.MethodGet, path: path, token: r.e.Person(signing.Submitter)}); a.Status != http.StatusOK {
			t.Errorf("%s answered who submitted it %d: %s", path, a.Status, a.Body)
		}
		r.refused(r.do(call{method: http.MethodGet, path: path, token: colleague}), http.StatusForbidden, "of others")
	}
	r.refused(r.brings(r.token(mainJob(1)), image), http.StatusForbidden)
	for _, role := range []signing.PeopleRole{signing.Approver, signing.Auditor, signing.Admin} {
		r.refused(r.brings(r.e.Person(role), image), http.StatusForbidden, "submitter")
	}
	image.Repository = "registry.elsewhere.dev/payments/web"
	r.refused(r.brings(r.e.Person(signing.Submitter), image), http.StatusForbidden, "repositor")
	body := `{"policy": "lists", "artifacts": [], "list": {"digest": "x"}}`
	r.refused(r.do(call{method: http.MethodPost, path: api.PathLists, token: r.e.Person(signing.Submitter), body: body}), http.StatusBadRequest)
}
