package workflow_test

import (
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	forges "github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/workflow"
)

const listenHost = "github.test"

// parlour is a service with a forge that delivers, and requests that wait there.
type parlour struct {
	t     *testing.T
	e     *testenv.Env
	s     *testenv.Service
	forge *testenv.Letters
	ann   signing.Account
	code  string

	mu    sync.Mutex
	heard []string // guarded by mu
	news  chan struct{}
}

// parlourWorld is made once: it takes two RSA keys.
var parlourMade = sync.OnceValues(func() (*devworld.World, error) { return devworld.Start(devworld.Options{}) })

func parlourWorld(t *testing.T) *devworld.World {
	t.Helper()
	world, err := parlourMade()
	ok(t, err)
	return world
}

func newParlour(t *testing.T, poll time.Duration) *parlour {
	t.Helper()
	p := &parlour{t: t, news: make(chan struct{}, 1000)}
	p.forge = testenv.NewLetters(listenHost, func() time.Time { return p.e.Now() })
	p.e = testenv.New(t, testenv.Options{World: parlourWorld(t), Forges: map[string]forges.Forge{listenHost: p.forge}, ForgePoll: poll, Heard: func(_, outcome string) {
		p.mu.Lock()
		p.heard = append(p.heard, outcome)
		p.mu.Unlock()
		p.news <- struct{}{}
	}})
	p.ann = p.forge.Person("101", "ann", listenHost+":acme/release", listenHost+":acme/security")
	p.s = p.e.Start(nil)
	return p
}

// thread is a pull request of the repository that builds come from.
func thread(number string) signing.Thread {
	return signing.Thread{Forge: listenHost, RepositoryID: "74", Repository: "acme/payments-web", Kind: signing.ThreadPull, Number: number}
}

// waits stores a Request that asked in a thread, as deciding and asking leave it.
func (p *parlour) waits(in signing.Thread) *signing.Request {
	p.t.Helper()
	id, err := signing.NewRequestID(rand.Reader)
	ok(p.t, err)
	now := p.e.Now()
	digest := signing.DigestOf([]byte(id))
	r := &signing.Request{
		ID: id, State: signing.Pending, Policy: "release", Project: "payments", Artifacts: []signing.Artifact{{Repository: "registry.example/payments/web", Digest: digest}},
		Identity:       signing.Identity{Issuer: "https://ci.example", Role: signing.RoleCI},
		Origin:         signing.Origin{Forge: listenHost, Kind: "github", SourceRepositoryIdentifier: "74", SourceRepository: "acme/payments-web", RunID: "1"},
		IdempotencyKey: id, BodyDigest: digest, Submitted: now, Deadline: now.Add(48 * time.Hour),
	}
	basis := signing.Basis{Format: signing.BasisFormat, Project: "payments", Policy: "release", PolicyDigest: digest, Artifacts: r.Artifacts, Origin: r.Origin}
	basisDigest, err := basis.Digest()
	ok(p.t, err)
	ok(p.t, p.s.Store.Update(context.Background(), "test", func(tx *store.Tx) error {
		ev := audit.Event{Time: tx.Now(), Kind: audit.RequestSubmitted, Request: id, Attrs: audit.Submitted(r)}
		if err := tx.InsertRequest(r, store.NewRequest{IdempotencyScope: id, ReplayKey: id, ReplayUntil: now.Add(time.Hour), CapabilityHash: make([]byte, 32), Events: []audit.Event{ev}}); err != nil {
			return err
		}
		r.Decision = &signing.Decision{
			Effect: signing.NeedsApproval, Basis: basis, BasisDigest: basisDigest, At: now, Reasons: signing.Reason{Rule: "policies.release", Pass: true},
			Approvals: &signing.ApprovalRule{Groups: []signing.ApprovalGroup{{Required: 2, From: []string{listenHost + ":acme/release"}}}, Expires: 24 * time.Hour, DenyEnds: true, Ways: []string{signing.ViaComment}},
		}
		r.Asking = &signing.Asking{Thread: in, Round: 1, Asked: now}
		ev = audit.Event{Time: tx.Now(), Kind: audit.RequestDecided, Request: id, Attrs: audit.Decided(r, 1)}
		return tx.Transition(store.Change{Request: r, To: string(signing.AwaitingApproval), Events: []audit.Event{ev}})
	}))
	p.code = approval.Code(id, basisDigest, 1)
	return r
}

// approves is the command that approves r.
func (p *parlour) approves(r *signing.Request) string {
	return "/sealwright approve " + r.ID + " " + approval.Code(r.ID, r.Decision.BasisDigest, r.Asking.Round)
}

// receive hands a delivery of e in, and returns what Receive says.
func (p *parlour) receive(e forges.Event) string {
	p.t.Helper()
	h, body := p.forge.Letter(e)
	outcome, err := p.s.Workflow.Receive(p.t.Context(), listenHost, h, body)
	ok(p.t, err)
	return outcome
}

// next waits until something became of a delivery, and returns everything since
// the last call.
func (p *parlour) next(n int) []string {
	p.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		p.mu.Lock()
		if len(p.heard) >= n {
			out := p.heard
			p.heard = nil
			p.mu.Unlock()
			return out
		}
		p.mu.Unlock()
		select {
		case <-p.news:
		case <-deadline:
			p.t.Fatalf("only %v was heard", p.heard)
		}
	}
}

// becomes delivers e and checks what became of it.
func (p *parlour) becomes(e forges.Event, want string) {
	p.t.Helper()
	if got := p.receive(e); got != workflow.HeardStored {
		p.t.Fatalf("the delivery is %s", got)
	}
	if got := p.next(2); got[1] != want {
		p.t.Errorf("it became %v, want %s", got, want)
	}
}

// untouched checks that r has no approval and still waits.
func (p *parlour) untouched(r *signing.Request) {
	p.t.Helper()
	ok(p.t, p.s.Store.View(p.t.Context(), func(tx *store.Tx) error {
		got, err := tx.Request(r.ID)
		if err == nil && (got.State != signing.AwaitingApproval || len(got.Approvals) > 0) {
			p.t.Errorf("the request is %s with %+v", got.State, got.Approvals)
		}
		return err
	}))
}

// refusedComment is a case: what the comment is when it is read again.
func refusedComment(t *testing.T, change func(forges.Comment) forges.Comment, want string) {
	t.Helper()
	p := newParlour(t, time.Hour)
	r := p.waits(thread("7"))
	c := p.forge.Say(thread("7"), p.ann, p.approves(r))
	p.forge.Rewrite(change)
	p.becomes(testenv.About(thread("7"), c), want)
	p.untouched(r)
	if p.forge.Reads() == 0 {
		t.Error("the comment was not read again")
	}
}

func TestAnEditedCommentIsNoCommand(t *testing.T) {
	refusedComment(t, func(c forges.Comment) forges.Comment {
		c.Edited, c.Updated = true, c.Created.Add(time.Minute)
		return c
	}, workflow.HeardEdited)
}

func TestACommentThatSaysSomethingElseByNowIsNoCommand(t *testing.T) {
	refusedComment(t, func(c forges.Comment) forges.Comment {
		c.Body = "looks good to me" // within the second in which it was made
		return c
	}, workflow.HeardEdited)
}

func TestACommandThatWasPutIntoAnotherCommentIsNone(t *testing.T) {
	// Who may edit the comments of others makes a harmless one of ann's a command,
	// and delivers what was there before never: the delivery says one thing, the
	// forge another.
	p := newParlour(t, time.Hour)
	r, other := p.waits(thread("7")), p.waits(thread("7"))
	c := p.forge.Say(thread("7"), p.ann, p.approves(other))
	e := testenv.About(thread("7"), c)
	e.Body = p.approves(r)
	p.becomes(e, workflow.HeardEdited)
	p.untouched(r)
	p.untouched(other)
}

func TestABotsCommentIsNoCommand(t *testing.T) {
	refusedComment(t, func(c forges.Comment) forges.Comment { c.Author.Bot = true; return c }, workflow.HeardProgram)
}

func TestACommentByAnAppInSomebodysNameOrBySystemIsNoCommand(t *testing.T) {
	refusedComment(t, func(c forges.Comment) forges.Comment { c.System = true; return c }, workflow.HeardProgram)
}

func TestACommentByAnotherThanWhoSentItIsNoCommand(t *testing.T) {
	refusedComment(t, func(c forges.Comment) forges.Comment { c.Author.ID = "666"; return c }, workflow.HeardStranger)
}

func TestACommentWithoutAnAuthorIsNoCommand(t *testing.T) {
	refusedComment(t, func(c forges.Comment) forges.Comment { c.Author = signing.Account{}; return c }, workflow.HeardStranger)
}

func TestACommentFromLongAgoIsNoCommand(t *testing.T) {
	refusedComment(t, func(c forges.Comment) forges.Comment { c.Created = c.Created.AddDate(0, 0, -8); return c }, workflow.HeardOld)
}

func TestACommentFromTheFutureIsNoCommand(t *testing.T) {
	refusedComment(t, func(c forges.Comment) forges.Comment { c.Created = c.Created.Add(time.Hour); return c }, workflow.HeardOld)
}

func TestACommentThatIsGoneIsNoCommand(t *testing.T) {
	p := newParlour(t, time.Hour)
	r := p.waits(thread("7"))
	c := forges.Comment{ID: "7-99", Author: p.ann, Body: p.approves(r)}
	p.becomes(testenv.About(thread("7"), c), workflow.HeardGone)
	p.untouched(r)
}

// TestACommandCountsInItsOwnThreadOnly: where the commenter is admin does not matter.
func TestACommandCountsInItsOwnThreadOnly(t *testing.T) {
	for name, move := range map[string]func(*signing.Thread){
		"another pull request":                                  func(t *signing.Thread) { t.Number = "8" },
		"an issue of the same number":                           func(t *signing.Thread) { t.Kind = signing.ThreadIssue },
		"another repository, where ann is admin":                func(t *signing.Thread) { t.RepositoryID, t.Repository = "666", "ann/own" },
		"another repository that has taken the name of the one": func(t *signing.Thread) { t.RepositoryID = "666" },
		"no repository":                                         func(t *signing.Thread) { t.RepositoryID = "" },
		"no number":                                             func(t *signing.Thread) { t.Number = "" },
	} {
		t.Run(name, func(t *testing.T) {
			p := newParlour(t, time.Hour)
			r := p.waits(thread("7"))
			at := thread("7")
			move(&at)
			c := p.forge.Say(at, p.ann, p.approves(r))
			p.becomes(testenv.About(at, c), workflow.HeardElsewhere)
			p.untouched(r)
			if p.forge.Reads() != 0 {
				t.Error("the forge was asked about a comment elsewhere")
			}
		})
	}
}

func TestACommandOnAnotherForgeIsNone(t *testing.T) {
	p := newParlour(t, time.Hour)
	// The same thread by all numbers, of a Request of another forge.
	in := thread("7")
	in.Forge = "ghe.acme.dev"
	r := p.waits(in)
	c := p.forge.Say(thread("7"), p.ann, p.approves(r))
	e := testenv.About(thread("7"), c)
	e.Thread.Forge = in.Forge // what a payload says of its forge counts for nothing
	p.becomes(e, workflow.HeardElsewhere)
	p.untouched(r)
}

func TestAThreadOutsideTheRequestsRepositoryDoesNotCount(t *testing.T) {
	p := newParlour(t, time.Hour)
	in := thread("7")
	in.RepositoryID = "666" // stored, but not where it was built
	r := p.waits(in)
	c := p.forge.Say(in, p.ann, p.approves(r))
	p.becomes(testenv.About(in, c), workflow.HeardElsewhere)
	p.untouched(r)
}

func TestWhatIsNoCommandIsNotEvenStored(t *testing.T) {
	p := newParlour(t, time.Hour)
	r := p.waits(thread("7"))
	command := p.approves(r)
	for name, body := range map[string]string{
		"a fence": "```\n" + command + "\n```", "a quote": "> " + command, "an HTML comment": "<!--\n" + command + "\n-->", "talk": "please " + command, "indented code": "    " + command,
	} {
		c := p.forge.Say(thread("7"), p.ann, body)
		switch got := p.receive(testenv.About(thread("7"), c)); got {
		case workflow.HeardIgnored:
			p.next(1)
		case workflow.HeardStored:
			// Near misses are answered, so that nobody waits for nothing.
			if got := p.next(2); got[1] != workflow.HeardRefused {
				t.Errorf("%s became %v", name, got)
			}
		default:
			t.Errorf("%s is %s", name, got)
		}
		p.untouched(r)
	}
}

func TestBotsEditsAndOtherEventsAreNotStored(t *testing.T) {
	p := newParlour(t, time.Hour)
	r := p.waits(thread("7"))
	c := p.forge.Say(thread("7"), p.ann, p.approves(r))
	for name, change := range map[string]func(*forges.Event){
		"a bot": func(e *forges.Event) { e.Sender.Bot = true }, "nobody": func(e *forges.Event) { e.Sender.ID = "" },
		"an edit": func(e *forges.Event) { e.Kind = forges.EventEdited }, "a ping": func(e *forges.Event) { e.Kind = forges.EventPing }, "what is ignored": func(e *forges.Event) { e.Kind = forges.EventIgnored },
	} {
		e := testenv.About(thread("7"), c)
		change(&e)
		if got := p.receive(e); got != workflow.HeardIgnored {
			t.Errorf("%s is %s", name, got)
		}
	}
	p.untouched(r)
}

func TestARefusedCommandIsAnsweredOnce(t *testing.T) {
	p := newParlour(t, time.Hour)
	r := p.waits(thread("7"))
	c := p.forge.Say(thread("7"), p.ann, "/sealwright approve "+r.ID+" 00000000")
	p.becomes(testenv.About(thread("7"), c), workflow.HeardRefused)
	replies := func() int {
		mine, err := p.forge.Mine(t.Context(), thread("7"), "<!-- sealwright reply -->")
		ok(t, err)
		return len(mine)
	}
	if n := replies(); n != 1 || !slices.Equal(p.forge.Reactions(), []string{"confused"}) {
		t.Errorf("%d replies, reactions %v", n, p.forge.Reactions())
	}
	// The same again, in another delivery: other bytes, and even forgotten ones.
	e := testenv.About(thread("7"), c)
	e.Commit = "another head"
	p.becomes(e, workflow.HeardDuplicate)
	p.e.Clock.Add(int64(6 * 24 * time.Hour))
	for range 30 {
		c := p.forge.Say(thread("7"), p.ann, "/sealwright approve "+r.ID+" 00000000")
		p.becomes(testenv.About(thread("7"), c), workflow.HeardRefused)
	}
	if n := replies(); n != 20 {
		t.Errorf("%d replies to one who does not stop", n)
	}
}

func TestStatusAndHelpAreAnsweredWhereSomethingWaits(t *testing.T) {
	p := newParlour(t, time.Hour)
	r := p.waits(thread("7"))
	p.waits(thread("8"))
	for body, want := range map[string]string{"/sealwright status": r.ID, "/sealwright help": "/sealwright deny"} {
		c := p.forge.Say(thread("7"), p.ann, body)
		p.becomes(testenv.About(thread("7"), c), workflow.HeardAccepted)
		mine, err := p.forge.Mine(t.Context(), thread("7"), "<!-- sealwright reply -->")
		ok(t, err)
		if !slices.ContainsFunc(mine, func(m forges.Comment) bool { return strings.Contains(m.Body, want) && strings.Contains(m.Body, c.ID) }) {
			t.Errorf("%s is not answered: %+v", body, mine)
		}
	}
	c := p.forge.Say(thread("9"), p.ann, "/sealwright status")
	p.becomes(testenv.About(thread("9"), c), workflow.HeardNothing)
	if mine, err := p.forge.Mine(t.Context(), thread("9"), "<!-- sealwright reply -->"); err != nil || len(mine) > 0 {
		t.Errorf("a thread in which nothing waits got %d answers, %v", len(mine), err)
	}
}

func TestAButtonCountsForTheCheckRunThatTheServiceMade(t *testing.T) {
	p := newParlour(t, time.Hour)
	r := p.waits(thread("7"))
	other := p.waits(thread("8"))
	id, err := p.forge.Check(t.Context(), forges.Repository{ID: "74"}, forges.Check{Name: "sealwright", Key: r.ID})
	ok(t, err)
	forged, err := p.forge.Check(t.Context(), forges.Repository{ID: "74"}, forges.Check{Name: "by another", Key: r.ID})
	ok(t, err)
	ok(t, p.s.Store.Update(t.Context(), "test", func(tx *store.Tx) error { return tx.SaveReports(r.ID, signing.Reports{CheckRun: id}) }))
	ok(t, p.s.Store.Update(t.Context(), "test", func(tx *store.Tx) error { return tx.SaveReports(other.ID, signing.Reports{CheckRun: id}) }))
	press := func(check, repository, button string) forges.Event {
		return forges.Event{Kind: forges.EventButton, Repository: forges.Repository{ID: repository}, Sender: p.ann, Check: check, Button: button}
	}
	approve := strings.TrimPrefix(p.approves(r), "/sealwright approve "+r.ID+" ")
	for name, c := range map[string]struct {
		e    forges.Event
		want string
	}{
		"a check run that is none of ours": {press(forged, "74", "approve "+approve), workflow.HeardElsewhere},
		"one that is gone":                 {press("99", "74", "approve "+approve), workflow.HeardGone},
		"another repository":               {press(id, "666", "approve "+approve), workflow.HeardElsewhere},
		"another button":                   {press(id, "74", "rerun"), workflow.HeardIgnored},
		"another word":                     {press(id, "74", "status "+approve), workflow.HeardIgnored},
		"a way that the policy leaves out": {press(id, "74", "approve "+approve), workflow.HeardRefused},
	} {
		t.Run(name, func(t *testing.T) {
			p.becomes(c.e, c.want)
			p.untouched(r)
			p.untouched(other)
		})
	}
	bot := press(id, "74", "approve "+approve)
	bot.Sender.Bot = true
	if got := p.receive(bot); got != workflow.HeardIgnored {
		t.Errorf("a bot's press is %s", got)
	}
}

func TestAForgeThatIsDownIsAskedAgainAndBlocksNobodyElse(t *testing.T) {
	p := newParlour(t, time.Hour)
	r := p.waits(thread("7"))
	other := p.waits(thread("8"))
	p.forge.FailComment(&signing.Error{Code: signing.Unavailable, Message: "down"})
	c := p.forge.Say(thread("7"), p.ann, p.approves(r))
	if got := p.receive(testenv.About(thread("7"), c)); got != workflow.HeardStored {
		t.Fatal(got)
	}
	for p.forge.Reads() == 0 {
		time.Sleep(time.Millisecond)
	}
	p.forge.FailComment(nil)
	d := p.forge.Say(thread("8"), p.ann, "/sealwright approve "+other.ID+" 00000000")
	p.receive(testenv.About(thread("8"), d))
	got := p.next(4)
	if slices.Contains(got, workflow.HeardFailed) || len(got) != 4 {
		t.Errorf("%v", got)
	}
	if n := p.forge.Reads(); n < 3 {
		t.Errorf("%d reads: it was not tried again", n)
	}
}

func TestADeliverySurvivesTheProcessAndIsDealtWithByTheNext(t *testing.T) {
	p := newParlour(t, time.Hour)
	r := p.waits(thread("7"))
	p.forge.FailComment(&signing.Error{Code: signing.Unavailable, Message: "down"})
	c := p.forge.Say(thread("7"), p.ann, p.approves(r))
	p.receive(testenv.About(thread("7"), c))
	p.s.Kill()
	p.forge.FailComment(nil)
	p.next(1)
	p.s = p.e.Start(nil)
	p.next(1)
	ok(t, p.s.Store.View(t.Context(), func(tx *store.Tx) error {
		_, waits, err := tx.NextDue("delivery")
		if waits {
			t.Error("its job is still there")
		}
		return err
	}))
}
