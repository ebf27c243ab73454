package scenario

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

// How much time the policies of the model give.
const (
	approvalLives = 2 * time.Hour
	requestLives  = 5 * time.Hour
)

// modelPolicy has a policy for a release, which two of one team and one of
// another approve, and one for people who submit again.
const modelPolicy = `apiVersion: sealwright.dev/v1
project: payments
repositories:
  - {forge: github.test, name: acme/payments-web, id: "74", owner_id: "65", images: ["%[1]s/payments/*"]}
policies:
  release:
    origin:
      refs: ["refs/heads/*"]
      ref_protected: true
      verify: {run: true}
      github: {events: [push], workflow: .github/workflows/release.yml}
    approvals:
      all:
        - {required: 2, from: ["github.test:acme/release"]}
        - {required: 1, from: ["github.test:acme/security"]}
      expires: 2h
      supersede: true
    sign:
      - {method: cosign, key: release}
  again:
    origin:
      human: {max_age: 720h}
      refs: ["refs/heads/*"]
      ref_protected: true
      github: {events: [push], workflow: .github/workflows/release.yml}
    approvals:
      all:
        - {required: 1, from: ["github.test:acme/release"]}
      expires: 2h
    sign:
      - {method: cosign, key: again}
`

const modelKeys = `
  - id: release
    file: file:DIR/release.key
    methods: [cosign]
    allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]
    require: {protected_ref: true, approvals: 3}
  - id: again
    file: file:DIR/other.key
    methods: [cosign]
    allow: [{project: payments, policy: again, repositories: ["HOST/payments/*"]}]
    require: {approvals: 1}
`

// member is somebody of the model: an account, who it belongs to, and the teams
// that it is in at the beginning.
type member struct {
	id, login, person string
	teams             []string
}

const (
	releaseTeam  = "github.test:acme/release"
	securityTeam = "github.test:acme/security"
)

// members: bob has two accounts, wanda wrote everything, octocat starts the runs,
// zoe is in no team.
var members = []member{
	{"101", "ann", "Ann", []string{releaseTeam}},
	{"102", "bob", "Bob", []string{releaseTeam}},
	{"103", "bob-too", "Bob", []string{releaseTeam, securityTeam}},
	{"104", "cat", "github.test:104", []string{releaseTeam, securityTeam}},
	{"105", "sam", "github.test:105", []string{securityTeam}},
	{"106", "wanda", "github.test:106", []string{releaseTeam, securityTeam}},
	{"12", "octocat", "github.test:12", []string{releaseTeam}},
	{"107", "zoe", "github.test:107", nil},
}

// mrequest is a request as the model knows it.
type mrequest struct {
	id, capability, code string
	policy, ref, key     string
	job                  devworld.GitHubJob
	image                signing.Artifact
	state                signing.RequestState
	deadline             time.Time
	given                []mapproval      // approvals that were accepted
	refs                 []workflow.Input // commands that were accepted, for replays
	again                bool             // it was submitted again
}

// mapproval is an approval that was accepted.
type mapproval struct {
	by    member
	teams []string // when it was given
	at    time.Time
}

// model is the world as it should be, beside the world as it is.
type model struct {
	t      *testing.T
	rnd    *rand.Rand
	e      *testenv.Env
	s      *testenv.Service
	forge  *testenv.Memory
	teams  map[string]map[string]bool // team to ids
	n      int
	reqs   []*mrequest // of this sequence
	signed map[string]bool
	policy map[string]string // by request id, of all sequences
	log    []string
}

func (m *model) note(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

func (m *model) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\nafter:\n  %s", fmt.Sprintf(format, args...), strings.Join(m.log, "\n  "))
}

// TestRandomLivesOfRequestsAreThoseOfTheModel runs random sequences of what can
// happen to requests against a model that is simple enough to be right. After each
// step both agree, and no key was used but for a request whose quorum was met.
func TestRandomLivesOfRequestsAreThoseOfTheModel(t *testing.T) {
	sequences, first := 40, uint64(1)
	if n, err := strconv.Atoi(os.Getenv("SEALWRIGHT_SEQUENCES")); err == nil {
		sequences = n
	}
	if n, err := strconv.ParseUint(os.Getenv("SEALWRIGHT_SEED"), 10, 64); err == nil {
		first = n
	}
	m := newModel(t)
	for i := range sequences {
		seed := first + uint64(i)
		m.rnd, m.log, m.reqs = rand.New(rand.NewPCG(seed, 5)), []string{fmt.Sprintf("SEALWRIGHT_SEED=%d SEALWRIGHT_SEQUENCES=1", seed)}, nil
		m.sequence()
		if (i+1)%500 == 0 {
			t.Logf("%d sequences, %d signed", i+1, len(m.signed))
		}
	}
	m.verifyLog()
	if len(m.signed) < sequences/20 {
		t.Errorf("only %d requests of %d sequences were signed: nothing was tried", len(m.signed), sequences)
	}
}

func newModel(t *testing.T) *model {
	t.Helper()
	m := &model{t: t, signed: map[string]bool{}, policy: map[string]string{}}
	world := testenv.StartWorld(t, devworld.Options{Now: func() time.Time { return m.e.Now() }})
	m.e = testenv.New(t, testenv.Options{World: world, Policy: modelPolicy, Keys: modelKeys, Poll: 2 * time.Millisecond, Quiet: true})
	m.forge = testenv.NewMemory("github.test", m.e.Now)
	for _, p := range members {
		m.forge.Person(p.id, p.login)
	}
	m.forge.Wrote([]string{"106"})
	m.e.Options.Forges = map[string]forge.Forge{"github.test": m.forge}
	m.e.Options.ForgePoll = time.Hour
	m.e.Options.People = []approval.Person{
		{Name: "Ann", Accounts: []string{"github.test:101"}, Identities: []approval.PersonIdentity{{Issuer: world.People.URL(), Subject: "ann"}}},
		{Name: "Bob", Accounts: []string{"github.test:102", "github.test:103"}},
	}
	m.s = m.e.Start(nil)
	return m
}

// sequence is one random life of some requests of one branch.
func (m *model) sequence() {
	m.n++
	m.teams = map[string]map[string]bool{releaseTeam: {}, securityTeam: {}}
	for _, p := range members {
		for _, team := range []string{releaseTeam, securityTeam} {
			m.forge.Leave(p.id, team)
			if slices.Contains(p.teams, team) {
				m.forge.Join(p.id, team)
				m.teams[team][p.id] = true
			}
		}
	}
	m.submit()
	steps := 4 + m.rnd.IntN(9)
	for range steps {
		m.step()
		m.agree()
	}
	for _, r := range m.reqs { // nothing is left for the next sequence
		if !r.state.Terminal() {
			m.cancel(r)
		}
	}
	m.agree()
}

// agree compares each request with the model, once nothing is under way.
func (m *model) agree() {
	m.t.Helper()
	for _, r := range m.reqs {
		var q workflow.Snapshot
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			var err error
			if q, err = m.s.Workflow.ReadAs(m.t.Context(), r.id, auditor); err != nil {
				m.fatalf("reading %s: %v", r.id, err)
			}
			if q.Request.State == r.state && (r.state != signing.AwaitingApproval || q.Request.Asking != nil && q.Request.Asking.Comment != "") {
				break
			}
			if q.Request.State.Terminal() && q.Request.State != r.state || time.Now().After(end) {
				m.fatalf("%s is %s, the model says %s: %+v %+v", r.id, q.Request.State, r.state, q.Request.Failure, q.Request.Asking)
			}
		}
		if r.state == signing.AwaitingApproval {
			r.code = approval.Code(r.id, q.Request.Decision.BasisDigest, q.Request.Asking.Round)
		}
		for _, task := range q.Tasks {
			if (task.State == signing.Published) != (r.state == signing.Completed) {
				m.fatalf("task %s of %s is %s", task.ID, r.id, task.State)
			}
		}
	}
	if uses := m.e.KeyUses(); uses < len(m.signed) {
		m.fatalf("%d uses of keys for %d signatures", uses, len(m.signed))
	}
}

// auditor may read everything.
var auditor = signing.Identity{Role: signing.RolePeople, Issuer: "model", Subject: "auditor", Roles: []signing.PeopleRole{signing.Auditor}}

// verifyLog walks through the log: each key was asked for a request that the model
// had signed, and as many approvals as its policy wants came before, none of them
// older than it may be.
func (m *model) verifyLog() {
	m.t.Helper()
	need := map[string]int{"release": 3, "again": 1}
	approved := map[string][]time.Time{}
	attempts := 0
	for _, ev := range m.s.VerifyLog() {
		switch ev.Kind {
		case audit.RequestApproved:
			approved[ev.Request] = append(approved[ev.Request], ev.Time)
		case audit.KeyAttempt:
			attempts++
			fresh := 0
			for _, at := range approved[ev.Request] {
				if ev.Time.Sub(at) < approvalLives {
					fresh++
				}
			}
			if !m.signed[ev.Request] || fresh < need[m.policy[ev.Request]] {
				m.t.Errorf("a key was used for %s of policy %s with %d approvals; the model signed it: %v", ev.Request, m.policy[ev.Request], fresh, m.signed[ev.Request])
			}
		}
	}
	if uses := m.e.KeyUses(); uses > attempts || attempts < len(m.signed) {
		m.t.Errorf("%d uses of keys, %d attempts, %d signatures", uses, attempts, len(m.signed))
	}
	m.t.Logf("%d signatures, %d uses of keys", len(m.signed), m.e.KeyUses())
}
