package scenario

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

// step does one thing. Approvals are what happens most, so that some quorums are met.
func (m *model) step() {
	r := m.reqs[m.rnd.IntN(len(m.reqs))]
	switch n := m.rnd.IntN(100); {
	case n < 6:
		m.submit()
	case n < 10:
		m.repeat(r)
	case n < 58:
		m.command(r, approval.VerbApprove)
	case n < 62:
		m.command(r, approval.VerbDeny)
	case n < 68:
		m.replay(r)
	case n < 78:
		m.pass(time.Duration(1+m.rnd.IntN(150)) * time.Minute)
	case n < 82:
		m.cancel(r)
	case n < 88:
		m.move()
	case n < 91:
		m.outage(r)
	case n < 98:
		m.resubmit(r)
	default:
		m.crash()
	}
}

func (m *model) submit() {
	m.n++
	j := devworld.NewGitHubJob()
	j.Ref, j.RunID, j.SHA = fmt.Sprintf("refs/heads/s%d", m.sequenceNumber()), strconv.Itoa(100_000+m.n), fmt.Sprintf("%040x", m.n)
	r := &mrequest{policy: "release", ref: j.Ref, job: j, key: fmt.Sprint("k", m.n), image: m.e.Image(fmt.Sprint("model", m.n)), state: signing.AwaitingApproval}
	m.note("submit %d", len(m.reqs))
	ans := m.post(r)
	if ans.Status != http.StatusCreated {
		m.fatalf("submitting: %d %s", ans.Status, ans.Body)
	}
	m.took(r, ans)
	m.reqs = append(m.reqs, r)
	if !m.possible(r) {
		r.state = signing.RequestDenied
	} else {
		// A newer request of the same ref replaces the one that waits.
		for _, old := range m.reqs {
			if old != r && old.policy == "release" && old.state == signing.AwaitingApproval {
				old.state = signing.Canceled
			}
		}
	}
	m.agree()
}

// sequenceNumber is that of the first request of the sequence, so that each has a
// branch of its own.
func (m *model) sequenceNumber() int {
	if len(m.reqs) == 0 {
		return m.n
	}
	var n int
	if _, err := fmt.Sscanf(m.reqs[0].ref, "refs/heads/s%d", &n); err != nil {
		m.fatalf("%v", err)
	}
	return n
}

func (m *model) post(r *mrequest) testenv.Answer {
	body := strings.TrimSuffix(testenv.Body(r.policy, r.image), "}") + fmt.Sprintf(`,"deadlineSeconds":%d}`, int(requestLives/time.Second))
	return m.s.Post(api.PathRequests, m.e.GitHub(r.job), r.key, body)
}

func (m *model) took(r *mrequest, ans testenv.Answer) {
	var q api.Request
	ans.JSON(m.t, &q)
	if r.id != "" && r.id != q.ID {
		m.fatalf("%s became %s", r.id, q.ID)
	}
	r.id, r.capability, r.deadline = q.ID, ans.Header.Get(api.HeaderCapability), q.Deadline
	m.policy[r.id] = r.policy
}

// repeat sends a submission again, as a client does that lost the answer.
func (m *model) repeat(r *mrequest) {
	if r.policy != "release" {
		return
	}
	m.note("repeat %s", r.id)
	ans := m.post(r)
	if ans.Status != http.StatusOK {
		m.fatalf("repeating: %d %s", ans.Status, ans.Body)
	}
	m.took(r, ans)
}

// command has somebody approve or deny, sometimes with a wrong code.
func (m *model) command(r *mrequest, verb string) {
	p := members[m.rnd.IntN(len(members))]
	if m.rnd.IntN(3) > 0 {
		p = members[m.rnd.IntN(5)] // those who can
	}
	code := r.code
	switch m.rnd.IntN(12) {
	case 0:
		code = "00000000"
	case 1:
		code = m.reqs[m.rnd.IntN(len(m.reqs))].code
	}
	m.n++
	in := workflow.Input{
		Request: r.id, Verb: verb, Code: code, By: signing.Account{Forge: "github.test", ID: p.id, Login: p.login}, Via: signing.ViaComment,
		Ref: fmt.Sprint("comment-", m.n), URL: "https://github.test/acme/payments-web/pull/1", Reason: "because", At: m.e.Now(),
	}
	want := m.judge(r, p, verb, code)
	m.note("%s %s by %s with %s: %v", verb, r.id, p.login, code, want)
	out, err := m.s.Workflow.Command(m.t.Context(), in)
	for end := time.Now().Add(patience); signing.Temporary(err) && time.Now().Before(end); time.Sleep(time.Millisecond) {
		out, err = m.s.Workflow.Command(m.t.Context(), in) // the service was writing its own comment
	}
	if accepted := err == nil && out.Accepted; accepted != want {
		m.fatalf("accepted %v, want %v: %+v, %v", accepted, want, out, err)
	}
	if err != nil && (signing.Temporary(err) || errors.Is(err, signing.Internal)) {
		m.fatalf("the command could not be judged: %v", err)
	}
	if want {
		r.refs = append(r.refs, in)
		m.apply(r, p, verb)
	}
}

// judge says whether a command counts.
func (m *model) judge(r *mrequest, p member, verb, code string) bool {
	switch {
	case r.state != signing.AwaitingApproval || code != r.code:
		return false
	case verb == approval.VerbDeny:
		return m.mayDeny(r, p)
	case p.login == "wanda", p.login == "octocat":
		return false // wrote it, started it
	case r.policy == "again" && p.person == "Ann":
		return false // submitted it again
	}
	return len(m.in(r, p)) > 0
}

// in returns the teams of the request's rule that p is in now.
func (m *model) in(r *mrequest, p member) (out []string) {
	teams := []string{releaseTeam, securityTeam}
	if r.policy == "again" {
		teams = teams[:1]
	}
	for _, team := range teams {
		if m.teams[team][p.id] {
			out = append(out, team)
		}
	}
	return out
}

// mayDeny: whoever is in a group, and whoever may not approve.
func (m *model) mayDeny(r *mrequest, p member) bool {
	return len(m.in(r, p)) > 0 || p.login == "wanda" || p.login == "octocat" || r.policy == "again" && p.person == "Ann"
}

// apply changes the model as an accepted command does.
func (m *model) apply(r *mrequest, p member, verb string) {
	if verb == approval.VerbDeny {
		r.state = signing.RequestDenied
		return
	}
	r.given = append(r.given, mapproval{p, m.in(r, p), m.e.Now()})
	if !m.met(r, func(a mapproval) []string { return a.teams }) {
		return
	}
	// The quorum was met with the teams that each was in when they approved. Before
	// the key is used the forge is asked again: who has left does not count.
	if r.state = signing.RequestDenied; m.met(r, func(a mapproval) []string { return m.in(r, a.by) }) {
		r.state = signing.Completed
		m.signed[r.id] = true
	}
}

// met says whether the quorum is met by approvals that have not expired, if each
// person has the given teams: in a release two of one team and another person of
// the other.
func (m *model) met(r *mrequest, teams func(mapproval) []string) bool {
	release, security := map[string]bool{}, map[string]bool{}
	for _, a := range r.given {
		if m.e.Now().Sub(a.at) >= approvalLives {
			continue
		}
		for _, team := range teams(a) {
			if team == releaseTeam {
				release[a.by.person] = true
			} else {
				security[a.by.person] = true
			}
		}
	}
	if r.policy == "again" {
		return len(release) >= 1
	}
	for s := range security {
		n := len(release)
		if release[s] {
			n--
		}
		if n >= 2 {
			return true
		}
	}
	return false
}

// replay gives a command again that was accepted.
func (m *model) replay(r *mrequest) {
	if len(r.refs) == 0 {
		return
	}
	in := r.refs[m.rnd.IntN(len(r.refs))]
	m.note("replay %s of %s", in.Ref, r.id)
	if out, err := m.s.Workflow.Command(m.t.Context(), in); err != nil || !out.Accepted {
		m.fatalf("replaying: %+v, %v", out, err)
	}
}

// pass lets time pass.
func (m *model) pass(d time.Duration) {
	m.note("%s pass", d)
	m.e.Clock.Add(int64(d))
	for _, r := range m.reqs {
		if !r.state.Terminal() && !m.e.Now().Before(r.deadline) {
			r.state = signing.RequestExpired
		}
	}
}

func (m *model) cancel(r *mrequest) {
	m.note("cancel %s", r.id)
	token := m.e.GitHub(r.job)
	if r.policy == "again" {
		token = m.e.Person(signing.Admin)
	}
	ans := m.s.Post(api.PathRequests+"/"+r.id+"/cancel", token, "", "")
	switch {
	case !r.state.Terminal() && ans.Status == http.StatusOK:
		r.state = signing.Canceled
	case !r.state.Terminal():
		m.fatalf("cancel: %d %s", ans.Status, ans.Body)
	}
}

// move has somebody leave or join a team.
func (m *model) move() {
	p := members[m.rnd.IntN(5)]
	team := []string{releaseTeam, securityTeam}[m.rnd.IntN(2)]
	if m.teams[team][p.id] {
		m.note("%s leaves %s", p.login, team)
		m.forge.Leave(p.id, team)
		delete(m.teams[team], p.id)
		return
	}
	m.note("%s joins %s", p.login, team)
	m.forge.Join(p.id, team)
	m.teams[team][p.id] = true
}

// outage has somebody approve while the forge cannot be asked.
func (m *model) outage(r *mrequest) {
	if r.state != signing.AwaitingApproval {
		return
	}
	m.note("outage at an approval of %s", r.id)
	m.forge.Down(&signing.Error{Code: signing.Unavailable, Message: "down"})
	m.n++
	out, err := m.s.Workflow.Command(m.t.Context(), workflow.Input{Request: r.id, Verb: approval.VerbApprove, Code: r.code, By: signing.Account{Forge: "github.test", ID: "101"}, Via: signing.ViaComment, Ref: fmt.Sprint("comment-", m.n), At: m.e.Now()})
	m.forge.Down(nil)
	if !signing.Temporary(err) || out.Accepted {
		m.fatalf("an approval without the forge: %+v, %v", out, err)
	}
}

// resubmit has ann submit again what was signed.
func (m *model) resubmit(source *mrequest) {
	token, err := m.e.World.People.PersonToken(devworld.Person{Subject: "ann", Email: "ann@acme.test", Groups: []string{string(signing.Submitter)}}, testenv.PeopleAudience)
	if err != nil {
		m.fatalf("%v", err)
	}
	if source.again || source.policy != "release" {
		return
	}
	m.note("resubmit %s", source.id)
	ans := m.s.Post(api.PathRequests+"/"+source.id+"/resubmit", token, "", fmt.Sprintf(`{"policy":"again","deadlineSeconds":%d}`, int(requestLives/time.Second)))
	if source.state != signing.Completed {
		if ans.Status < 400 {
			m.fatalf("what was never signed was submitted again: %d %s", ans.Status, ans.Body)
		}
		return
	}
	if ans.Status >= 300 {
		m.fatalf("submitting again: %d %s", ans.Status, ans.Body)
	}
	source.again = true
	r := &mrequest{policy: "again", image: source.image, job: source.job, state: signing.AwaitingApproval}
	m.took(r, ans)
	if !m.possible(r) {
		r.state = signing.RequestDenied
	}
	m.reqs = append(m.reqs, r)
}

// possible says whether the quorum could be met by those who may approve.
func (m *model) possible(r *mrequest) bool {
	all := &mrequest{policy: r.policy}
	for _, p := range members {
		if p.login != "wanda" && p.login != "octocat" && !(r.policy == "again" && p.person == "Ann") {
			all.given = append(all.given, mapproval{p, m.in(r, p), m.e.Now()})
		}
	}
	return m.met(all, func(a mapproval) []string { return a.teams })
}

// crash ends the process as a kill does, and starts another one.
func (m *model) crash() {
	m.note("crash")
	m.s.Kill()
	m.s = m.e.Start(nil)
}
