package server_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// TestBodyThatIsNotASubmissionIsRefused: each is refused in words, and uses up
// neither the token nor the idempotency key.
func TestBodyThatIsNotASubmissionIsRefused(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	repo, digest := string(a.Repository), string(a.Digest)
	good := testenv.Body("release", a)
	ref := func(repository, digest, rest string) string {
		return fmt.Sprintf(`{"policy":"release","artifacts":[{"repository":%q,"digest":%q%s}]}`, repository, digest, rest)
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err := w.Write([]byte(good))
	ok(t, err)
	ok(t, w.Close())
	many := make([]signing.Artifact, signing.MaxArtifacts+1)
	for i := range many {
		many[i] = signing.Artifact{Repository: a.Repository, Digest: signing.Digest(fmt.Sprintf("sha256:%064x", i))}
	}
	cases := map[string]struct {
		body  string
		words []string
	}{
		"empty":                        {"", []string{"JSON"}},
		"not JSON":                     {"policy: release", []string{"JSON"}},
		"cut off":                      {good[:len(good)-2], []string{"complete"}},
		"zipped (decompression bomb)":  {zipped.String(), []string{"UTF-8"}},
		"not UTF-8":                    {strings.Replace(good, "release", "rel\xffease", 1), []string{"UTF-8"}},
		"an array":                     {"[" + good + "]", []string{"object"}},
		"null (nil entry)":             {"null", nil},
		"null artifact (nil entry)":    {`{"policy":"release","artifacts":[null]}`, nil},
		"unknown field":                {strings.Replace(good, "{", `{"force":true,`, 1), []string{"force", "unknown"}},
		"unknown field of an artifact": {ref(repo, digest, `,"mediaType":"x"`), []string{"artifacts[0].mediaType"}},
		"field in another case":        {strings.Replace(good, `"policy"`, `"Policy"`, 1), []string{"Policy"}},
		"duplicate key":                {strings.Replace(good, "{", `{"policy":"test",`, 1), []string{"policy", "twice"}},
		"duplicate key of an artifact": {ref(repo, digest, `,"digest":"`+someDigest+`"`), []string{"artifacts[0].digest", "twice"}},
		"trailing data":                {good + good, []string{"one JSON document"}},
		"trailing word":                {good + " and more", []string{"one JSON document"}},
		"deep nesting":                 {strings.Repeat(`{"policy":`, 20000), []string{"nesting"}},
		"deep arrays":                  {`{"policy":"release","artifacts":` + strings.Repeat("[", 20000), []string{"nesting"}},
		"policy of another type":       {strings.Replace(good, `"release"`, "7", 1), []string{"policy", "a string"}},
		"policy with a line break":     {strings.Replace(good, "release", `rel\nease`, 1), []string{"policy"}},
		"no policy":                    {`{"artifacts":[]}`, []string{"policy"}},
		"no artifacts":                 {`{"policy":"release","artifacts":[]}`, []string{"1 to 500"}},
		"501 artifacts":                {testenv.Body("release", many...), []string{"1 to 500", "501"}},
		"the same artifact twice":      {testenv.Body("release", a, a), []string{"once"}},
		"deadline in the past":         {strings.Replace(good, "{", `{"deadlineSeconds":-1,`, 1), []string{"deadlineSeconds"}},
		"deadline of a year":           {strings.Replace(good, "{", `{"deadlineSeconds":31536000,`, 1), []string{"deadlineSeconds", "604800"}},
		"deadline beyond all numbers":  {strings.Replace(good, "{", `{"deadlineSeconds":1e400,`, 1), []string{"deadlineSeconds"}},
		"a tag in place of a digest":   {ref(repo, "v1.0.0", ""), []string{"by digest, not by tag", "v1.0.0", "sealwright-ci resolves"}},
		"only a tag":                   {fmt.Sprintf(`{"policy":"release","artifacts":[{"repository":%q,"tag":"v1.0.0"}]}`, repo), []string{"by digest, not by tag"}},
		"a tag in the repository":      {ref(repo+":v1", digest, ""), []string{"artifacts[0]"}},
		"a digest in the repository":   {ref(repo+"@"+digest, digest, ""), []string{"artifacts[0]"}},
		"another algorithm":            {ref(repo, "sha512:"+strings.Repeat("a", 128), ""), []string{"sha256"}},
		"digest in capitals":           {ref(repo, strings.ToUpper(digest), ""), []string{"sha256"}},
		"short digest":                 {ref(repo, digest[:20], ""), []string{"sha256"}},
		"repository with a scheme":     {ref("https://"+repo, digest, ""), []string{"artifacts[0]"}},
		"path normalisation":           {ref(repo+"/../api", digest, ""), []string{"artifacts[0]"}},
		"path with //":                 {ref(strings.Replace(repo, "/payments", "//payments", 1), digest, ""), []string{"artifacts[0]"}},
		"repository in capitals":       {ref(strings.Replace(repo, "payments", "Payments", 1), digest, ""), []string{"artifacts[0]"}},
		"repository without a host":    {ref("payments/web", digest, ""), []string{"artifacts[0]"}},
		"repository with a user":       {ref("user:secret@"+repo, digest, ""), []string{"artifacts[0]"}},
		"tag that is none":             {ref(repo, digest, `,"tag":"a/b"`), []string{"tag"}},
	}
	for name, bad := range cases {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			ans := r.do(submission(r.token(mainJob(0)), "k", bad.body))
			if p := r.problem(ans); ans.Status != http.StatusBadRequest || p.Expected == "" && p.Found == "" {
				t.Errorf("answered %d: %s", ans.Status, ans.Body)
			}
			r.says(string(ans.Body), bad.words...)
			if len(ans.Body) > 2000 {
				t.Errorf("the problem repeats %d bytes", len(ans.Body))
			}
		})
	}
	r.nothing(len(cases), a)
}

func TestRefusedBodyUsesUpNeitherTokenNorIdempotencyKey(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	token := r.token(mainJob(0))
	r.refused(r.do(submission(token, "k", strings.Replace(testenv.Body("release", a), "policy", "polciy", 1))), http.StatusBadRequest, "polciy")
	q, capability := r.submit(token, "k", testenv.Body("release", a))
	if q = r.finish(q.ID, capability); q.State != signing.Completed {
		t.Errorf("ended %s", q.State)
	}
}

func TestOversizedBodyIsRefused(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	body := strings.Repeat(" ", api.MaxSubmission) + testenv.Body("release", a)
	p := r.problem(r.do(submission(r.token(mainJob(0)), "k", body)))
	if p.Status != http.StatusRequestEntityTooLarge || p.Expected == "" || p.Fix == "" {
		t.Errorf("%+v", p)
	}
	// The same without an announced length, endless.
	req, err := http.NewRequest(http.MethodPost, r.base+api.PathRequests, endless{})
	ok(t, err)
	req.Header = http.Header{"Authorization": {"Bearer " + r.token(mainJob(0))}, "Idempotency-Key": {"k"}}
	resp, err := http.DefaultClient.Do(req)
	if err == nil { // the server may hang up on it
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("answered %d", resp.StatusCode)
		}
		ok(t, resp.Body.Close())
	}
	r.nothing(2, a)
	// The largest that is legal is taken.
	r.submit(r.token(mainJob(0)), "k", strings.Repeat(" ", api.MaxSubmission-len(testenv.Body("release", a)))+testenv.Body("release", a))
}

// endless is a body without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestIdempotencyKeyThatIsNoneIsRefused(t *testing.T) {
	r := start(t, testenv.Options{})
	a := r.e.Image(t.Name())
	for name, key := range map[string]string{"missing": "", "with a space": "a b", "too long": strings.Repeat("k", 256), "not ASCII": "schlüssel"} {
		p := r.refused(r.do(submission(r.token(mainJob(0)), key, testenv.Body("release", a))), http.StatusBadRequest, "Idempotency-Key")
		t.Log(name, p.Found)
	}
	r.nothing(4, a)
}

func TestIdempotencyKeyIsOfOneRunAndAttempt(t *testing.T) {
	r := start(t, testenv.Options{})
	ids := map[string]bool{}
	again := mainJob(0)
	again.RunAttempt = "2"
	other := mainJob(0)
	other.RepositoryID, other.Repository = "75", "acme/other"
	for i, token := range []string{r.token(mainJob(0)), r.token(mainJob(1)), r.token(again), r.token(other)} {
		q, capability := r.submit(token, "k", testenv.Body("release", r.e.Image(t.Name())))
		if q = r.finish(q.ID, capability); ids[q.ID] || (q.State == signing.Completed) != (i < 2) {
			t.Errorf("submission %d is request %s, which ended %s", i, q.ID, q.State)
		}
		ids[q.ID] = true
	}
}

// TestUnknownRequestAndWrongCapabilityLookTheSame: who guesses ids learns nothing.
func TestUnknownRequestAndWrongCapabilityLookTheSame(t *testing.T) {
	r := start(t, testenv.Options{})
	q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", r.e.Image(t.Name())))
	_, others := r.submit(r.token(mainJob(1)), "k", testenv.Body("release", r.e.Image(t.Name()+" another")))
	unknown := "sr_0000000000000000"
	hidden := func(id, capability, query string) string {
		t.Helper()
		a := r.get(api.PathRequests+"/"+id+query, capability)
		if a.Status != http.StatusNotFound {
			t.Fatalf("answered %d: %s", a.Status, a.Body)
		}
		return strings.ReplaceAll(compact(t, a.Body), id, "ID")
	}
	want := hidden(unknown, capability, "")
	for what, got := range map[string]string{
		"another's capability":        hidden(q.ID, others, ""),
		"a capability in its form":    hidden(q.ID, "sc_"+strings.Repeat("a", 43), ""),
		"a capability cut off":        hidden(q.ID, capability[:len(capability)-1], ""),
		"in a long poll":              hidden(q.ID, others, "?wait=10s&version=1"),
		"unknown, in a long poll":     hidden(unknown, capability, "?wait=10s"),
		"no id at all":                hidden("no-id", capability, ""),
		"an id of another's spelling": hidden(strings.ToLower(q.ID), capability, ""),
		"the hash as capability":      hidden(q.ID, strings.TrimPrefix(audit.Hashed(capability), "sha256:"), ""),
	} {
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s looks different: %s", what, d)
		}
	}
	for what, c := range map[string]call{
		"none": {}, "too short": {capability: "sc_short"}, "in the query": {path: "?capability=" + capability},
	} {
		c.method, c.path = http.MethodGet, api.PathRequests+"/"+q.ID+c.path
		if a := r.do(c); a.Status != http.StatusUnauthorized {
			t.Errorf("%s answered %d: %s", what, a.Status, a.Body)
		}
	}
	// The job's token is not its capability, and both at once are ambiguous.
	r.refused(r.as(r.token(mainJob(0)), api.PathRequests+"/"+q.ID), http.StatusForbidden, "Sealwright-Capability")
	r.refused(r.do(call{method: http.MethodGet, path: api.PathRequests + "/" + q.ID, token: r.e.Person(signing.Auditor), capability: capability}), http.StatusBadRequest, "both")
	if got := r.finish(q.ID, capability); got.ID != q.ID {
		t.Errorf("%+v", got)
	}
}

func TestQueryThatIsNoneIsRefused(t *testing.T) {
	r := start(t, testenv.Options{})
	q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", r.e.Image(t.Name())))
	for _, query := range []string{"?wait=soon", "?wait=-1s", "?wait=30", "?version=one", "?version=99999999999999999999", "?wait=" + strings.Repeat("9", 5000)} {
		p := r.problem(r.get(api.PathRequests+"/"+q.ID+query, capability))
		if p.Status != http.StatusBadRequest || p.Found == "" || len(p.Found) > 100 {
			t.Errorf("%.40s: %+v", query, p)
		}
	}
	// Longer than the longest is the longest, and what is over is answered at once.
	r.finish(q.ID, capability)
	if a := r.get(api.PathRequests+"/"+q.ID+"?wait=9999h&version=0", capability); a.Status != http.StatusOK {
		t.Errorf("answered %d", a.Status)
	}
}

func TestCapabilityExpiresAfterTheDeadline(t *testing.T) {
	r := start(t, testenv.Options{})
	q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", r.e.Image(t.Name())))
	r.finish(q.ID, capability)
	r.e.Clock.Add(int64(69 * time.Minute))
	r.read(q.ID, capability)
	r.e.Clock.Add(int64(2 * time.Minute))
	r.refusedWithout(r.get(api.PathRequests+"/"+q.ID, capability), http.StatusGone, "expired")
	// To a stranger it still looks like no request at all.
	if a := r.get(api.PathRequests+"/"+q.ID, "sc_"+strings.Repeat("a", 43)); a.Status != http.StatusNotFound {
		t.Errorf("answered %d", a.Status)
	}
}

// refusedWithout is refused for problems about which nothing was found.
func (r *rig) refusedWithout(a testenv.Answer, status int, words ...string) {
	r.t.Helper()
	if p := r.problem(a); a.Status != status || p.Fix == "" {
		r.t.Errorf("answered %d, want %d: %s", a.Status, status, a.Body)
	}
	r.says(string(a.Body), words...)
}

func cancelCall(token, id string) call {
	return call{method: http.MethodPost, path: api.PathRequests + "/" + id + "/cancel", token: token}
}

// TestAnyoneCanCancel (gajae-code#5740): nobody can but the run itself.
func TestOnlyTheRunItselfCanCancelWhereverTheRequestIs(t *testing.T) {
	for name, c := range map[string]struct {
		stage string
		state signing.RequestState // where it is held
		ends  signing.RequestState
		uses  int
	}{
		"before the decision":   {"manifest", signing.Pending, signing.Canceled, 0},
		"before the key":        {"signatures", signing.Signing, signing.Failed, 0},
		"between key and world": {"publish", signing.Signing, signing.Completed, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, testenv.Options{})
			a := r.e.Image(t.Name())
			hold := holdAt(t, c.stage, a)
			q, capability := r.submit(r.token(mainJob(0)), "k", testenv.Body("release", a))
			<-hold.Arrived()
			if got := r.read(q.ID, capability); got.State != c.state {
				t.Fatalf("held in %s", got.State)
			}
			attempt, repository := mainJob(0), mainJob(0)
			attempt.RunAttempt = "2"
			repository.RepositoryID, repository.Repository = "75", "acme/other"
			want := ""
			for _, token := range []string{r.token(mainJob(1)), r.token(attempt), r.token(repository)} {
				ans := r.do(cancelCall(token, q.ID))
				r.refusedWithout(ans, http.StatusNotFound, "run")
				want = strings.ReplaceAll(string(ans.Body), q.ID, "ID")
			}
			// It looks as if there were no such request.
			unknown := r.do(cancelCall(r.token(mainJob(1)), "sr_0000000000000000"))
			if d := cmp.Diff(want, strings.ReplaceAll(string(unknown.Body), "sr_0000000000000000", "ID")); d != "" {
				t.Errorf("an unknown request looks different: %s", d)
			}
			r.refused(r.do(cancelCall("", q.ID)), http.StatusUnauthorized)
			if ans := r.do(call{method: http.MethodPost, path: api.PathRequests + "/" + q.ID + "/cancel", capability: capability}); ans.Status != http.StatusUnauthorized {
				t.Errorf("a capability canceled: %d %s", ans.Status, ans.Body)
			}
			if got := r.read(q.ID, capability); got.State != c.state || got.CancelRequested {
				t.Errorf("it became %s, cancel requested: %t", got.State, got.CancelRequested)
			}
			for range 2 { // again is the same
				ans := r.do(cancelCall(r.token(mainJob(0)), q.ID))
				if ans.Status != http.StatusOK && (c.state == signing.Signing || ans.Status != http.StatusConflict) {
					t.Errorf("cancel answered %d: %s", ans.Status, ans.Body)
				}
			}
			hold.Release()
			got := r.finish(q.ID, capability)
			if got.State != c.ends || r.e.KeyUses() != c.uses || r.e.Signatures(a) != c.uses {
				t.Errorf("ended %s with %d signatures after %d key uses", got.State, r.e.Signatures(a), r.e.KeyUses())
			}
			over := r.do(cancelCall(r.token(mainJob(0)), q.ID))
			if over.Status != http.StatusConflict {
				t.Errorf("cancel of what is over answered %d: %s", over.Status, over.Body)
			}
			refusals := 5
			if c.state == signing.Pending {
				refusals++ // the second cancel found it over
			}
			if n := r.logged(); n[audit.TokenRefused] != refusals || n[audit.RequestCanceled]+n[audit.CancelRequested] != 1 {
				t.Errorf("%v", n)
			}
		})
	}
}
