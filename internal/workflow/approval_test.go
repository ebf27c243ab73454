package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	forges "github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
	"github.com/sealwright/sealwright/internal/view"
	"github.com/sealwright/sealwright/internal/workflow"
)

const releaseTeam, securityTeam = "github.test:acme/release", "github.test:acme/security"

// asking is a policy whose people are asked; words are more lines of `approvals`.
func asking(required int, words ...string) string {
	block := fmt.Sprintf("    approvals:\n      required: %d\n      from: [%q]\n", required, releaseTeam)
	for _, w := range words {
		block += "      " + w + "\n"
	}
	return strings.Replace(testenv.Policy, "    sign:\n", block+"    sign:\n", 1)
}

// office is a service whose forge has people.
type office struct {
	t                *testing.T
	e                *testenv.Env
	s                *testenv.Service
	forge            *testenv.Memory
	ann, bob, author signing.Account
	refs             int
}

// people of an office: ann and bob release; the author wrote every commit, and is
// in the team as well.
func staff(t *testing.T, policy string, o testenv.Options) *office {
	t.Helper()
	h := &office{t: t}
	h.forge = testenv.NewMemory("github.test", func() time.Time { return h.e.Now() })
	h.ann, h.bob = h.forge.Person("101", "ann", releaseTeam), h.forge.Person("102", "bob", releaseTeam)
	h.author = h.forge.Person("103", "author", releaseTeam)
	h.forge.Person("12", "octocat", releaseTeam) // who starts the runs
	h.forge.Wrote([]string{"103"})
	if o.World == nil {
		o.World = parlourWorld(t)
	}
	o.Policy, o.Forges = policy, map[string]forges.Forge{"github.test": h.forge}
	h.e = testenv.New(t, o)
	return h
}

func newOffice(t *testing.T, policy string) *office {
	t.Helper()
	h := staff(t, policy, testenv.Options{})
	h.s = h.e.Start(nil)
	return h
}

// row is the Request as it is stored.
func (h *office) row(id string) (r *signing.Request) {
	h.t.Helper()
	ok(h.t, h.s.Store.View(h.t.Context(), func(tx *store.Tx) (err error) { r, err = tx.Request(id); return err }))
	return r
}

// until waits for what the Request is to be; every change of it is looked at.
func (h *office) until(id string, what string, is func(*signing.Request) bool) *signing.Request {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	auditor := signing.Identity{Role: signing.RolePeople, Roles: []signing.PeopleRole{signing.Auditor}}
	version := int64(0)
	for ctx.Err() == nil {
		s, err := h.s.Workflow.WaitAs(ctx, id, auditor, version, time.Second)
		if err == nil && is(s.Request) {
			return s.Request
		}
		if err == nil {
			version = s.Version()
		}
	}
	h.t.Fatalf("request %s: waited for %s in vain: %+v", id, what, h.row(id))
	return nil
}

func (h *office) asked(id string) *signing.Request {
	h.t.Helper()
	return h.until(id, "a question", func(r *signing.Request) bool {
		if r.State.Terminal() {
			h.t.Fatalf("ended %s: %+v", r.State, r.Failure)
		}
		return r.State == signing.AwaitingApproval && !r.Asking.Asked.IsZero() && r.Asking.Comment != ""
	})
}

func (h *office) ended(id string) *signing.Request {
	h.t.Helper()
	return h.until(id, "its end", func(r *signing.Request) bool { return r.State.Terminal() })
}

// submit submits an image and waits until people were asked.
func (h *office) submit(key string) *signing.Request {
	h.t.Helper()
	r, _ := submit(h.t, h.s, key, h.e.Image(h.t.Name()+key))
	return h.asked(r.ID)
}

func codeOf(r *signing.Request) string {
	return approval.Code(r.ID, r.Decision.BasisDigest, r.Asking.Round)
}

// says gives the command of somebody in a comment.
// says gives a command, again and again while the service edits its question, as the
// job of a delivery does.
func (h *office) says(who signing.Account, verb string, r *signing.Request) (out workflow.Outcome, err error) {
	h.t.Helper()
	h.refs++
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		out, err = h.s.Workflow.Command(h.t.Context(), workflow.Input{
			Request: r.ID, Verb: verb, Code: codeOf(r), By: who, Via: signing.ViaComment, Ref: fmt.Sprintf("comment-%d", h.refs), At: h.e.Now(),
		})
		if err == nil || !strings.Contains(err.Error(), "is being edited by this service") {
			break
		}
	}
	return out, err
}

func (h *office) refuses(what string, err error, code signing.Code, words ...string) {
	h.t.Helper()
	var e *signing.Error
	if !errors.As(err, &e) || e.Code != code {
		h.t.Errorf("%s: %v, want %s", what, err, code)
		return
	}
	for _, w := range words {
		if !strings.Contains(e.Error(), w) {
			h.t.Errorf("%s: %q does not say %q", what, e.Error(), w)
		}
	}
}

func (h *office) noKey() {
	h.t.Helper()
	if n := h.e.KeyUses(); n != 0 {
		h.t.Errorf("the key was used %d times", n)
	}
}

func TestPeopleAreAskedAndTheLastApprovalSigns(t *testing.T) {
	h := newOffice(t, asking(2))
	r := h.submit("k")
	h.noKey()
	mine, err := h.forge.Mine(t.Context(), r.Asking.Thread, view.QuestionMarker(r.ID, 1))
	if err != nil || len(mine) != 1 || !strings.Contains(mine[0].Body, codeOf(r)) {
		t.Fatalf("the question: %v %+v", err, mine)
	}
	out, err := h.says(h.ann, approval.VerbApprove, r)
	if err != nil || !out.Accepted || out.State != signing.AwaitingApproval || out.Tally.Met {
		t.Fatalf("the first approval: %+v %v", out, err)
	}
	h.noKey()
	if out, err = h.says(h.bob, approval.VerbApprove, r); err != nil || out.State != signing.Ready || !out.Tally.Met {
		t.Fatalf("the last approval: %+v %v", out, err)
	}
	if r = h.ended(r.ID); r.State != signing.Completed || h.e.Signatures(r.Artifacts[0]) != 1 {
		t.Fatalf("%s: %+v", r.State, r.Failure)
	}
	count := map[string]int{}
	for _, ev := range h.s.VerifyLog() {
		count[ev.Kind]++
	}
	if count[audit.RequestAsked] != 1 || count[audit.RequestApproved] != 2 || count[audit.RequestSigning] != 1 {
		t.Errorf("events: %v", count)
	}
	h.s.VerifyEvidence()
}

func TestWhoMadeTheBuildMayNotApproveAndMayDeny(t *testing.T) {
	h := newOffice(t, asking(1, "deny: ends"))
	r := h.submit("k")
	_, err := h.says(h.author, approval.VerbApprove, r)
	h.refuses("the author", err, signing.Denied, "wrote")
	_, err = h.says(signing.Account{Forge: "github.test", ID: "12", Login: "octocat"}, approval.VerbApprove, r)
	h.refuses("who started the run", err, signing.Denied, "started the run")
	out, err := h.says(h.author, approval.VerbDeny, r)
	if err != nil || out.State != signing.RequestDenied {
		t.Fatalf("%+v %v", out, err)
	}
	h.noKey()
}

func TestCommandsThatDoNotCount(t *testing.T) {
	h := newOffice(t, asking(1))
	r := h.submit("k")
	h.forge.Person("666", "stranger")
	give := func(change func(*workflow.Input)) error {
		h.refs++
		in := workflow.Input{Request: r.ID, Verb: approval.VerbApprove, Code: codeOf(r), By: h.ann, Via: signing.ViaComment, Ref: fmt.Sprintf("other-%d", h.refs), At: h.e.Now()}
		change(&in)
		_, err := h.s.Workflow.Command(t.Context(), in)
		return err
	}
	for what, change := range map[string]func(*workflow.Input){
		"a wrong code":                 func(in *workflow.Input) { in.Code = "00000000" },
		"the code of another question": func(in *workflow.Input) { in.Code = approval.Code(r.ID, r.Decision.BasisDigest, 2) },
		"the code of another content":  func(in *workflow.Input) { in.Code = approval.Code(r.ID, signing.DigestOf(nil), 1) },
		"a stranger":                   func(in *workflow.Input) { in.By.ID = "666" },
		"somebody whom nobody knows":   func(in *workflow.Input) { in.By.ID = "667" },
		"another forge's account":      func(in *workflow.Input) { in.By.Forge = "gitlab.test" },
		"a bot":                        func(in *workflow.Input) { in.By.Bot = true },
		"nobody":                       func(in *workflow.Input) { in.By = signing.Account{} },
		"a review":                     func(in *workflow.Input) { in.Via = signing.ViaReview },
		"a button":                     func(in *workflow.Input) { in.Via = signing.ViaCheckRun },
		"the API":                      func(in *workflow.Input) { in.Via, in.By = signing.ViaAPI, signing.Account{} },
		"an emergency":                 func(in *workflow.Input) { in.Via, in.By, in.Ticket = signing.ViaBreakGlass, signing.Account{}, "T-1" },
		"long ago":                     func(in *workflow.Input) { in.At = h.e.Now().Add(-48 * time.Hour) },
		"no time":                      func(in *workflow.Input) { in.At = time.Time{} },
	} {
		h.refuses(what, give(change), signing.Denied)
	}
	h.refuses("another request", give(func(in *workflow.Input) { in.Request = "sr_0000000000000000" }), signing.NotFound)
	h.refuses("another verb", give(func(in *workflow.Input) { in.Verb = "merge" }), signing.Invalid)
	if got := h.row(r.ID); len(got.Approvals) != 0 || got.State != signing.AwaitingApproval {
		t.Errorf("%s with %d approvals", got.State, len(got.Approvals))
	}
	if err := give(func(*workflow.Input) {}); err != nil {
		t.Errorf("one that counts: %v", err)
	}
}

func TestACommandIsRecordedOnce(t *testing.T) {
	h := newOffice(t, asking(2))
	r := h.submit("k")
	in := workflow.Input{Request: r.ID, Verb: approval.VerbApprove, Code: codeOf(r), By: h.ann, Via: signing.ViaComment, Ref: "one", At: h.e.Now()}
	for range 3 {
		out, err := h.s.Workflow.Command(t.Context(), in)
		if err != nil || !out.Accepted || out.Tally.Met {
			t.Fatalf("%+v %v", out, err)
		}
	}
	if n := len(h.row(r.ID).Approvals); n != 1 {
		t.Errorf("%d approvals", n)
	}
	// In another comment the same person counts no second time.
	in.Ref = "two"
	if out, err := h.s.Workflow.Command(t.Context(), in); err != nil || out.Tally.Met {
		t.Errorf("%+v %v", out, err)
	}
	h.noKey()
}

func TestAForgeThatCannotBeAskedApprovesNothing(t *testing.T) {
	h := newOffice(t, asking(1))
	r := h.submit("k")
	h.forge.Down(&signing.Error{Code: signing.Unavailable, Message: "down"})
	_, err := h.says(h.ann, approval.VerbApprove, r)
	if !signing.Temporary(err) {
		t.Errorf("%v is not to be tried again", err)
	}
	h.forge.Down(errors.New("connection reset"))
	if _, err = h.says(h.ann, approval.VerbApprove, r); !signing.Temporary(err) {
		t.Errorf("%v is not to be tried again", err)
	}
	h.forge.Down(&signing.Error{Code: signing.Denied, Message: "no permission"})
	_, err = h.says(h.ann, approval.VerbApprove, r)
	h.refuses("without permission", err, signing.Denied, "no permission")
	h.forge.Down(nil)
	if n := len(h.row(r.ID).Approvals); n != 0 {
		t.Errorf("%d approvals", n)
	}
	h.noKey()
}

func TestAQuestionThatOthersEditedIsAskedAnew(t *testing.T) {
	for what, tamper := range map[string]func(h *office, r *signing.Request){
		"edited": func(h *office, r *signing.Request) {
			ok(h.t, h.forge.Edit(h.t.Context(), r.Asking.Thread, r.Asking.Comment, "approve something else"))
		},
		"deleted": func(h *office, r *signing.Request) { h.forge.Delete(r.Asking.Thread, r.Asking.Comment) },
	} {
		t.Run(what, func(t *testing.T) {
			h := newOffice(t, asking(1))
			r := h.submit("k")
			tamper(h, r)
			_, err := h.says(h.ann, approval.VerbApprove, r)
			h.refuses("an answer to it", err, signing.Conflict, "void")
			h.noKey()
			next := h.until(r.ID, "a new question", func(r *signing.Request) bool { return r.Asking.Round == 2 && r.Asking.Comment != "" })
			_, err = h.says(h.ann, approval.VerbApprove, r)
			h.refuses("the old code", err, signing.Denied, "code")
			if out, err := h.says(h.ann, approval.VerbApprove, next); err != nil || out.State != signing.Ready {
				t.Errorf("the new code: %+v %v", out, err)
			}
			if r = h.ended(r.ID); r.State != signing.Completed {
				t.Errorf("%+v", r.Failure)
			}
			h.s.VerifyEvidence()
		})
	}
}

func TestAnApproverWhoLeftTheTeamBeforeSigningDoesNotCount(t *testing.T) {
	h := newOffice(t, asking(2))
	r := h.submit("k")
	if _, err := h.says(h.ann, approval.VerbApprove, r); err != nil {
		t.Fatal(err)
	}
	h.forge.Leave("101", releaseTeam)
	if out, err := h.says(h.bob, approval.VerbApprove, r); err != nil || !out.Tally.Met {
		t.Fatalf("%+v %v", out, err)
	}
	r = h.ended(r.ID)
	if r.State != signing.RequestDenied || !strings.Contains(fmt.Sprint(r.Decision.Reasons), "ann") {
		t.Errorf("%s: %+v", r.State, r.Decision.Reasons)
	}
	h.noKey()
	h.s.VerifyEvidence()
}

func TestApprovalsExpireBeforeSigning(t *testing.T) {
	h := newOffice(t, asking(2, "expires: 10m"))
	r, _ := submitFor(t, h.s, "k", 3*time.Hour, h.e.Image(t.Name()))
	q := h.asked(r.ID)
	if _, err := h.says(h.ann, approval.VerbApprove, q); err != nil {
		t.Fatal(err)
	}
	h.e.Clock.Add(int64(11 * time.Minute))
	out, err := h.says(h.bob, approval.VerbApprove, q)
	if err != nil || out.Tally.Met || out.State != signing.AwaitingApproval {
		t.Errorf("one expired approval and one more: %+v %v", out, err)
	}
	h.noKey()
	if out, err = h.says(h.ann, approval.VerbApprove, q); err != nil || !out.Tally.Met {
		t.Errorf("given anew: %+v %v", out, err)
	}
	h.ended(q.ID)
}

// submitFor submits with a deadline.
func submitFor(t *testing.T, s *testenv.Service, key string, deadline time.Duration, a signing.Artifact) (api.Request, string) {
	t.Helper()
	body := strings.TrimSuffix(testenv.Body("release", a), "}") + fmt.Sprintf(`,"deadlineSeconds":%d}`, int(deadline.Seconds()))
	ans := s.Post("/v1/requests", s.Env.GitHub(devworld.NewGitHubJob()), key, body)
	if ans.Status != http.StatusCreated {
		t.Fatalf("submission answered %d: %s", ans.Status, ans.Body)
	}
	var r api.Request
	ans.JSON(t, &r)
	return r, ans.Header.Get(api.HeaderCapability)
}

func TestARequestThatNobodyApprovesExpires(t *testing.T) {
	h := newOffice(t, asking(1))
	r := h.submit("k")
	h.e.Clock.Add(int64(workflow.DefaultDeadline + time.Minute))
	_, err := h.says(h.ann, approval.VerbApprove, r)
	if !errors.Is(err, signing.Expired) && !errors.Is(err, signing.Conflict) {
		t.Errorf("an approval after the deadline: %v", err)
	}
	if r = h.ended(r.ID); r.State != signing.RequestExpired {
		t.Errorf("%s: %+v", r.State, r.Failure)
	}
	h.noKey()
	h.s.VerifyEvidence()
}

func TestACanceledRequestTakesNoApproval(t *testing.T) {
	h := newOffice(t, asking(1))
	r := h.submit("k")
	_, err := h.s.Workflow.Cancel(t.Context(), r.ID, r.Identity, r.Origin)
	ok(t, err)
	_, err = h.says(h.ann, approval.VerbApprove, r)
	h.refuses("after the cancel", err, signing.Conflict)
	h.noKey()
	h.until(r.ID, "the question to say so", func(r *signing.Request) bool { return r.Asking.Writing == "" && h.shows(r, "canceled") })
}

// shows reports whether the question says a word now.
func (h *office) shows(r *signing.Request, word string) bool {
	c, err := h.forge.Comment(h.t.Context(), r.Asking.Thread, r.Asking.Comment)
	return err == nil && strings.Contains(strings.ToLower(c.Body), word)
}

func TestAChangedPolicyEndsWhatWaits(t *testing.T) {
	h := newOffice(t, asking(1))
	r := h.submit("k")
	policies, err := policy.Load(map[string][]byte{"policies/payments.yaml": []byte(strings.ReplaceAll(asking(2), "%[1]s", h.e.World.Registry.Host))})
	ok(t, err)
	_, err = h.s.Workflow.Reload(t.Context(), policies)
	ok(t, err)
	if _, err := h.says(h.ann, approval.VerbApprove, r); !errors.Is(err, signing.Conflict) {
		t.Errorf("an approval after the policy changed: %v", err)
	}
	if r = h.ended(r.ID); r.State != signing.RequestDenied || !strings.Contains(fmt.Sprint(r.Decision.Reasons), "policy_changed") {
		t.Errorf("%s: %+v", r.State, r.Failure)
	}
	h.noKey()
	h.s.VerifyEvidence()
}

func TestAQuorumThatCannotBeMetIsRefusedWithNames(t *testing.T) {
	h := newOffice(t, asking(3))
	r, capability := submit(t, h.s, "k", h.e.Image(t.Name()))
	r = finish(t, h.s, r.ID, capability)
	if r.State != signing.RequestDenied {
		t.Fatalf("%+v", r)
	}
	text := fmt.Sprint(h.row(r.ID).Decision.Reasons)
	for _, w := range []string{"author", "wrote", "octocat", "started the run", "ann", "bob"} {
		if !strings.Contains(text, w) {
			t.Errorf("the refusal does not name %s: %s", w, text)
		}
	}
	h.noKey()
}

func TestAnAuthorWithoutAnAccountNeedsOneMore(t *testing.T) {
	h := newOffice(t, asking(1))
	h.forge.Wrote([]string{"103"}, "Nobody <nobody@acme.test>")
	r := h.submit("k")
	out, err := h.says(h.ann, approval.VerbApprove, r)
	if err != nil || out.Tally.Met {
		t.Fatalf("%+v %v", out, err)
	}
	if out, err = h.says(h.bob, approval.VerbApprove, r); err != nil || !out.Tally.Met {
		t.Fatalf("%+v %v", out, err)
	}
	if r = h.ended(r.ID); r.State != signing.Completed {
		t.Errorf("%+v", r.Failure)
	}
}

func TestAForgeThatIsDownIsWaitedFor(t *testing.T) {
	h := newOffice(t, asking(1))
	h.forge.Down(&signing.Error{Code: signing.Unavailable, Message: "down"})
	r, _ := submit(t, h.s, "k", h.e.Image(t.Name()))
	h.until(r.ID, "the reason", func(r *signing.Request) bool { return r.Failure != nil })
	if got := h.row(r.ID); got.State != signing.Pending {
		t.Fatalf("%s: %+v", got.State, got.Failure)
	}
	h.forge.Down(nil)
	h.asked(r.ID)
	h.noKey()
}

func TestAPolicyThatAsksAForgeNeedsOne(t *testing.T) {
	e := testenv.New(t, testenv.Options{World: parlourWorld(t), Policy: asking(1)})
	s := e.Start(nil)
	r, capability := submit(t, s, "k", e.Image(t.Name()))
	if r = finish(t, s, r.ID, capability); r.State != signing.RequestDenied || r.Failure == nil || !strings.Contains(fmt.Sprint(*r.Failure), "forges") {
		t.Errorf("%+v", r)
	}
}
