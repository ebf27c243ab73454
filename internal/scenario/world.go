// Package scenario tries the whole: a CI's token, the service's HTTP interface, a
// strict local forge that sends real webhooks, people who comment. Nothing is
// called but what is public: HTTP, the registry, the forge. It is for tests; Whole
// is for those of other packages.
package scenario

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// patience is how long anything that must happen may take on a busy machine.
const patience = 20 * time.Second

// change is what somebody wants to have merged.
type change struct {
	by        string   // who opens the pull request
	authors   []string // of its commits; by if none
	coauthors []string // "Name <address>" trailers
	pusher    string   // who pushes the branch; by if empty
	stranger  string   // an author's e-mail address that the forge knows of nobody
	merger    string
	starts    string // who started the run, and who started it again
	restarts  string
}

// trailers are the lines of its commits that name who else wrote them.
func (c change) trailers() (out string) {
	for _, a := range c.coauthors {
		out += "\nCo-authored-by: " + a
	}
	return out
}

// build is a run of a merged change.
type build struct {
	pull  int // number of its pull or merge request
	sha   string
	run   string
	token func() string // a fresh ID token of its job
}

// said is a comment of somebody.
type said struct {
	pull int
	id   string
}

// side is one forge, as a scenario needs it whichever it is.
type side interface {
	host() string
	client() forge.Forge
	row() string                                                                // of `repositories` in the policy
	word() string                                                               // the rules of a policy that only this forge has
	team(name string) string                                                    // as `approvals` names it
	accounts(login string) string                                               // FORGE:ID
	address(login string) string                                                // of e-mail
	publish()                                                                   // the repository is public
	outsider(login string)                                                      // somebody who is no member of anything
	open(url string)                                                            // deliveries go there
	lose(n int)                                                                 // so many deliveries never come
	settle()                                                                    // until every delivery was sent
	replay(change func(http.Header, []byte) (http.Header, []byte)) (status int) // the last delivery again, changed

	person(login string)       // one who may read the repository
	join(login, team string)   // as an active member
	invite(login, team string) // as a pending one
	leave(login, team string)  //
	rename(login, to string)   // and another reader of the repository takes the login
	build(c change) build      //
	say(pull int, login, text string) said
	bot(pull int, text string) said // a program says it
	// elsewhere has logins, who administer a second repository of the same owner that
	// the service hears of as well, say text in its change of that number.
	elsewhere(pull int, text string, logins ...string)
	edit(c said, login, text string)        // login changes the text of a comment
	ours(pull int) []string                 // texts of the service's comments, oldest first
	vandalise(pull int, login, text string) // login changes the service's newest question
	status(sha string) string               // state of our commit status
	check(sha string) (state, title string)
	fault(status int, delay time.Duration) (heal func()) // of the people's routes
}

// world is a service with one forge.
type world struct {
	t *testing.T
	e *testenv.Env
	s *testenv.Service
	f side
	// other is the other forge, where there are two.
	other side
	n     int
	// commands is how many people said.
	commands int
}

// options change a world before it starts.
type options struct {
	policy func(string) string // changes the text of the policy
	people func(*world) []approval.Person
	lose   int
	// poll is how often threads are read; an hour if zero: what a test shows of
	// webhooks is not the poll's.
	poll time.Duration
	// slowTimers lets the service look for due work once in an hour.
	slowTimers bool
	// other, where set, fills the other forge, which the service knows then.
	other func(*world)
}

// sides are the forges.
func sides() map[string]func(t *testing.T, e *testenv.Env) side {
	return map[string]func(t *testing.T, e *testenv.Env) side{"github": newHub, "gitlab": newLab}
}

// both runs a test for each forge, at the same time: each has a world of its own,
// and waits more than it computes.
func both(t *testing.T, o options, test func(t *testing.T, w *world)) {
	t.Helper()
	for name, make := range sides() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start(t, make, o))
		})
	}
}

func start(t *testing.T, make func(t *testing.T, e *testenv.Env) side, o options) *world {
	t.Helper()
	w := &world{t: t}
	w.e = testenv.New(t, testenv.Options{World: testenv.StartWorld(t, devworld.Options{Now: func() time.Time { return w.e.Now() }})})
	w.f = make(t, w.e)
	for _, login := range []string{"wanda", "mia", "ann", "bob", "cat"} {
		w.f.person(login)
	}
	for _, login := range []string{"ann", "bob", "cat", "wanda"} {
		w.f.join(login, "release")
	}
	w.e.Options.Policy = w.policy(o.policy)
	w.e.Options.Forges = map[string]forge.Forge{w.f.host(): w.f.client()}
	if o.other != nil {
		for _, make := range sides() {
			if f := make(t, w.e); f.host() != w.f.host() {
				w.other = f
			}
		}
		w.e.Options.Forges[w.other.host()] = w.other.client()
		o.other(w)
	}
	if o.people != nil {
		w.e.Options.People = o.people(w)
	}
	w.e.Options.ForgePoll = max(o.poll, 10*time.Millisecond)
	if o.poll == 0 {
		w.e.Options.ForgePoll = time.Hour
	}
	if o.slowTimers {
		w.e.Options.Poll = time.Hour
	}
	w.e.Options.Keys = keys
	w.s = w.e.Start(nil)
	w.f.open(w.s.HTTP.URL)
	if w.other != nil {
		w.other.open(w.s.HTTP.URL)
	}
	w.f.lose(o.lose)
	return w
}

const keys = `
  - id: release
    file: file:DIR/release.key
    methods: [cosign]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]
    require: {protected_ref: true, approvals: 2}
`

func (w *world) policy(change func(string) string) string {
	text := `apiVersion: sealwright.dev/v1
project: payments
repositories:
  - ` + w.f.row() + `
policies:
  release:
    origin:
      refs: ["refs/heads/main"]
      ref_protected: true
      reruns: attach
      verify: {run: true}
      ` + w.f.word() + `
    approvals:
      all:
        - {required: 2, from: ["` + w.f.team("release") + `"]}
      exclude: [author, actor, pusher]
      expires: 24h
    report: [check, status, comment, summary]
    sign:
      - {method: cosign, key: release}
`
	if change != nil {
		changed := change(text)
		if changed == text {
			w.t.Fatal("the policy was not changed")
		}
		text = changed
	}
	return text
}

// reload puts other policies in force.
func (w *world) reload(text string) {
	w.t.Helper()
	set, err := policy.Load(map[string][]byte{"policies/payments.yaml": []byte(strings.ReplaceAll(text, "%[1]s", w.e.World.Registry.Host))})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.s.Workflow.Reload(w.t.Context(), set); err != nil {
		w.t.Fatal(err)
	}
}

// request is one that was submitted.
type request struct {
	w          *world
	id         string
	capability string
	build      build
	image      signing.Artifact
}

// honest is a change that ann, bob and cat may approve.
func honest() change { return change{by: "wanda", merger: "mia", starts: "mia"} }

// submit has a new image of a change submitted.
func (w *world) submit(c change) *request {
	w.t.Helper()
	b := w.f.build(c)
	return w.ask(b)
}

// ask submits a new image of a build.
func (w *world) ask(b build) *request {
	w.t.Helper()
	w.n++
	r := &request{w: w, build: b, image: w.e.Image(fmt.Sprint(w.t.Name(), w.n))}
	ans := w.s.Post(api.PathRequests, b.token(), fmt.Sprint("k", w.n), strings.TrimSuffix(testenv.Body("release", r.image), "}")+`,"deadlineSeconds":259200}`)
	if ans.Status != http.StatusCreated {
		w.t.Fatalf("submitting: %d %s", ans.Status, ans.Body)
	}
	var got api.Request
	ans.JSON(w.t, &got)
	r.id, r.capability = got.ID, ans.Header.Get(api.HeaderCapability)
	return r
}

func (r *request) read() (q api.Request) {
	r.w.t.Helper()
	ans := r.w.s.Get(api.PathRequests+"/"+r.id, r.capability)
	if ans.Status != http.StatusOK {
		r.w.t.Fatalf("reading: %d %s", ans.Status, ans.Body)
	}
	ans.JSON(r.w.t, &q)
	return q
}

// until waits for something that must happen.
func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("never: %s", what)
		}
	}
}

// reaches waits for a state.
func (r *request) reaches(want signing.RequestState) api.Request {
	r.w.t.Helper()
	var q api.Request
	defer func() {
		if r.w.t.Failed() {
			raw, _ := json.MarshalIndent(q, "", " ")
			r.w.t.Logf("the request: %s\nthe thread: %s", raw, strings.Join(r.w.f.ours(r.build.pull), "\n----\n"))
		}
	}()
	r.w.until(fmt.Sprintf("%s is %s", r.id, want), func() bool {
		q = r.read()
		return q.State == want || q.State.Terminal()
	})
	if q.State != want {
		r.w.t.Errorf("%s is %s, want %s: %+v", r.id, q.State, want, q.Failure)
	}
	return q
}

var reAsk = regexp.MustCompile(`/sealwright approve (sr_[0-9A-Z]{16}) ([0-9a-f]{8})`)

// asked waits for the question about r and returns the code.
func (r *request) asked() (code string) {
	r.w.t.Helper()
	r.reaches(signing.AwaitingApproval)
	r.w.until("a question about "+r.id+" is in the thread", func() bool {
		if q := r.read(); q.Approval == nil || q.Approval.Comment == "" {
			return false
		}
		for _, text := range r.w.f.ours(r.build.pull) {
			for _, m := range reAsk.FindAllStringSubmatch(text, -1) {
				if m[1] == r.id {
					code = m[2]
				}
			}
		}
		return code != ""
	})
	return code
}

// command is what a person writes.
func (r *request) command(verb, code string) string {
	return "/sealwright " + verb + " " + r.id + " " + code
}

// approve has login approve r by a comment.
func (r *request) approve(login string) said {
	r.w.t.Helper()
	return r.w.say(r.build.pull, login, r.command("approve", r.asked()))
}

// given waits until r has n approvals.
func (r *request) given(n int) {
	r.w.t.Helper()
	r.w.until(fmt.Sprintf("%s has %d approvals", r.id, n), func() bool {
		q := r.read()
		return q.Approval != nil && len(q.Approval.Given) == n || q.State.Terminal() && n == 0
	})
}

// quiet waits until the service has written what it had to write: the request and
// the thread have not changed for a while.
func (r *request) quiet() {
	r.w.t.Helper()
	last, since := "", time.Now()
	r.w.until(r.id+" is quiet", func() bool {
		now := fmt.Sprint(r.read().Version, r.w.f.ours(r.build.pull))
		if now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
}

// refused has text said, and demands that it counts for nothing: r has the
// approvals that it had, still waits, and no key is used.
func (r *request) refused(say func(code string)) {
	r.w.t.Helper()
	code := r.asked()
	r.w.dealt()
	before := len(r.read().Approval.Given)
	say(code)
	r.w.dealt()
	if q := r.read(); len(q.Approval.Given) != before || q.State != signing.AwaitingApproval {
		r.w.t.Errorf("it counted: %s, %+v", q.State, q.Approval.Given)
	}
	r.unsigned()
}

// say has login say something in a thread.
func (w *world) say(pull int, login, text string) said {
	if strings.HasPrefix(text, "/sealwright ") {
		w.commands++
	}
	return w.f.say(pull, login, text)
}

// dealt waits until every command that was said has been dealt with.
func (w *world) dealt() {
	w.t.Helper()
	w.f.settle()
	w.until("what was said is dealt with", func() bool { return w.heard() >= w.commands })
}

// heard is how many comments have been dealt with, whatever came of them. What
// was ignored at once, as the service's own are, is not counted.
func (w *world) heard() int {
	w.t.Helper()
	return w.counted(func(line string) bool { return !reUnread.MatchString(line) })
}

// became is of how many deliveries and comments came what outcome says.
func (w *world) became(outcome string) int {
	w.t.Helper()
	return w.counted(func(line string) bool { return strings.Contains(line, `outcome="`+outcome+`"`) })
}

// counted adds up the deliveries of the metrics whose line is counted.
func (w *world) counted(is func(line string) bool) (n int) {
	w.t.Helper()
	for line := range strings.Lines(string(w.s.Get("/metrics", "").Body)) {
		if strings.HasPrefix(line, "sealwright_deliveries_total{") && is(line) {
			var v float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err != nil {
				w.t.Fatal(err)
			}
			n += int(v)
		}
	}
	return n
}

var reUnread = regexp.MustCompile(`outcome="(stored|ignored|duplicate|poll_failed|report_failed|policy_checked)"`)

// unsigned demands that no key was used and nothing is at the registry.
func (r *request) unsigned() {
	r.w.t.Helper()
	if n := r.w.e.Signatures(r.image); n != 0 {
		r.w.t.Errorf("%d signatures of %s", n, r.image)
	}
}

// signed demands one good signature.
func (r *request) signed() {
	r.w.t.Helper()
	r.reaches(signing.Completed)
	if n := r.w.e.Signatures(r.image); n != 1 {
		r.w.t.Errorf("%d signatures of %s", n, r.image)
	}
}

// person returns a token of the identity provider.
func (w *world) person(subject string, roles ...signing.PeopleRole) string {
	w.t.Helper()
	p := devworld.Person{Subject: subject, Email: subject + "@acme.test"}
	for _, r := range roles {
		p.Groups = append(p.Groups, string(r))
	}
	token, err := w.e.World.People.PersonToken(p, testenv.PeopleAudience)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}
