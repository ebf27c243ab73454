package report

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/view"
)

var update = flag.Bool("update", false, "rewrite the golden files under testdata")

const sha = "6dcb09b5b57875f334f61aebed695e2e4193db5e"

// recorder is a forge of which only what Post uses is there; it writes down what
// it was told.
type recorder struct {
	forge.Forge
	told   strings.Builder
	n      int
	thread error            // of Find
	mine   []forge.Comment  // what Mine finds
	fail   map[string]error // by method
	once   map[string]bool  // fail only once
	gone   map[string]bool  // ids that were deleted
}

func (f *recorder) err(method string) error {
	err := f.fail[method]
	if f.once[method] {
		delete(f.fail, method)
	}
	return err
}

func (f *recorder) Check(_ context.Context, r forge.Repository, c forge.Check) (string, error) {
	if f.gone[c.ID] {
		return "", &signing.Error{Code: signing.NotFound, Message: "no such check"}
	}
	if err := f.err("Check"); err != nil {
		return "", err
	}
	f.n++
	fmt.Fprintf(&f.told, "CHECK %q of %s in %s(%s) for %s: %s, %s\nurl %s\nbuttons %v\nnotes %+v\n--- title\n%s\n--- summary\n%s\n--- text\n%s\n\n", c.ID, c.Commit, r.Name, r.ID, c.Key, c.Name, c.State, c.URL, c.Buttons, c.Notes, c.Title, c.Summary, c.Text)
	if c.ID != "" {
		return c.ID, nil
	}
	return fmt.Sprint("check", f.n), nil
}

func (f *recorder) Status(_ context.Context, r forge.Repository, s forge.Status) error {
	if err := f.err("Status"); err != nil {
		return err
	}
	f.n++
	fmt.Fprintf(&f.told, "STATUS of %s in %s(%s): %s, %s\nurl %s ref %q pipeline %q\n--- description\n%s\n\n", s.Commit, r.Name, r.ID, s.Context, s.State, s.URL, s.Ref, s.Pipeline, s.Description)
	return nil
}

func (f *recorder) Find(context.Context, forge.Repository, string) (signing.Thread, error) {
	return signing.Thread{Forge: "github.com", RepositoryID: "7", Kind: signing.ThreadPull, Number: "12"}, f.thread
}

func (f *recorder) Mine(_ context.Context, _ signing.Thread, marker string) ([]forge.Comment, error) {
	if !strings.HasPrefix(marker, "<!-- sealwright report ") {
		return nil, errors.New("another marker: " + marker)
	}
	return f.mine, f.err("Mine")
}

func (f *recorder) Post(_ context.Context, t signing.Thread, body string) (forge.Comment, error) {
	if err := f.err("Post"); err != nil {
		return forge.Comment{}, err
	}
	f.n++
	fmt.Fprintf(&f.told, "COMMENT in %s %s\n%s\n\n", t.Kind, t.Number, body)
	return forge.Comment{ID: fmt.Sprint("comment", f.n)}, nil
}

func (f *recorder) Edit(_ context.Context, t signing.Thread, id, body string) error {
	if f.gone[id] {
		return &signing.Error{Code: signing.NotFound, Message: "no such comment"}
	}
	if err := f.err("Edit"); err != nil {
		return err
	}
	f.n++
	fmt.Fprintf(&f.told, "EDIT %s in %s %s\n%s\n\n", id, t.Kind, t.Number, body)
	return nil
}

// snapshot is a Request of a build on GitHub, about which people are asked.
func snapshot(state signing.RequestState) Snapshot {
	web := signing.Artifact{Repository: "registry.acme.dev/payments/web", Digest: signing.DigestOf([]byte("web"))}
	rule := signing.ApprovalRule{Groups: []signing.ApprovalGroup{{Required: 2, From: []string{"github.com:acme/release-managers"}}}, Expires: 24 * time.Hour, Ways: []string{signing.ViaComment}}
	s := Snapshot{
		Asked: view.Asked{
			Request: signing.Request{
				ID: "sr_7K2M7K2M7K2M7K2M", State: state, Project: "payments", Policy: "release", Artifacts: []signing.Artifact{web},
				Deadline: time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC), Asking: &signing.Asking{Round: 1, Nth: 1},
				Origin: signing.Origin{
					Forge: "github.com", Kind: "github", SourceRepositoryURI: "https://github.com/acme/payments-web", SourceRepository: "acme/payments-web", SourceRepositoryIdentifier: "7",
					SourceRepositoryRef: "refs/heads/main", SourceRepositoryDigest: sha, BuildTrigger: "push", RunID: "1234", RunInvocationURI: "https://github.com/acme/payments-web/actions/runs/1234/attempts/1", Actor: "alice",
					BuildConfigURI: "https://github.com/acme/payments-web/.github/workflows/release.yml@refs/heads/main",
				},
				Decision: &signing.Decision{
					Effect: signing.NeedsApproval, Reasons: signing.Reason{Rule: "policies.release", Pass: true}, Approvals: &rule, BasisDigest: signing.DigestOf([]byte("basis")),
					Basis: signing.Basis{Steps: []signing.Step{{Method: "cosign", Key: "release-ec"}}},
				},
			},
			Round: 1, Code: "3f9c2a7b", Tally: signing.Tally{Groups: []signing.GroupTally{{From: rule.Groups[0].From, Required: 2}}},
		},
		Channels: []string{ChannelCheck, ChannelStatus, ChannelComment, "summary", "a word of the future"},
		URL:      "https://sealwright.acme.dev/v1/requests/sr_7K2M7K2M7K2M7K2M",
	}
	switch state {
	case signing.Signing, signing.Completed, signing.Failed:
		t := signing.Task{Artifact: web, Step: s.Request.Decision.Basis.Steps[0], State: signing.Published, Locations: []signing.Location{{Kind: "tag", URI: "registry.acme.dev/payments/web:sha256-" + web.Digest.Hex() + ".sig"}}}
		if state != signing.Completed {
			t.State, t.Locations = signing.Queued, nil
		}
		if state == signing.Failed {
			t.State, t.Failure = signing.TaskFailed, &signing.Error{Message: "the registry answered 503"}
		}
		s.Tasks = []signing.Task{t}
	case signing.RequestDenied:
		s.Request.Decision.Effect = signing.Deny
		s.Request.Decision.Reasons = signing.Reason{Rule: "policies.release", Children: []signing.Reason{{Rule: "origin.refs", Wanted: "refs/heads/main", Found: "refs/heads/x @acme", Fix: "build from main"}}}
		s.Request.Failure = &signing.Error{Code: signing.Denied, Message: "the policy does not allow this"}
	}
	return s
}

// unasked is a Request about which nobody was asked.
func unasked(state signing.RequestState) Snapshot {
	s := snapshot(state)
	s.Request.Asking, s.Request.Decision.Approvals, s.Tally = nil, nil, signing.Tally{}
	if state != signing.RequestDenied {
		s.Request.Decision.Effect = signing.Allow
	}
	return s
}

func post(t *testing.T, f *recorder, s Snapshot) signing.Reports {
	t.Helper()
	sent, err := (&Reporter{Forges: map[string]forge.Forge{"github.com": f, "gitlab.acme.dev": f}}).Post(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

func TestWhatEachChannelWritesIsThatOfTheGoldenFiles(t *testing.T) {
	cases := map[string]Snapshot{"buttons": snapshot(signing.AwaitingApproval), "gitlab": snapshot(signing.AwaitingApproval), "superseded": snapshot(signing.RequestDenied)}
	for _, state := range signing.RequestStates() {
		cases["asked-"+string(state)] = snapshot(state)
		cases["unasked-"+string(state)] = unasked(state)
	}
	buttons := cases["buttons"]
	buttons.Request.Decision.Approvals.Ways = []string{signing.ViaCheckRun, signing.ViaComment}
	lab := cases["gitlab"]
	lab.Request.Origin.Forge, lab.Request.Origin.Kind = "gitlab.acme.dev", "gitlab"
	cases["gitlab"] = lab
	over := cases["superseded"]
	over.Superseded = "sr_8K2M7K2M7K2M7K2M"
	cases["superseded"] = over
	for name, s := range cases {
		f := &recorder{}
		post(t, f, s)
		file := "testdata/" + name + ".txt"
		if *update {
			if err := os.WriteFile(file, []byte(f.told.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), f.told.String()); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestQuietByDefault(t *testing.T) {
	for _, state := range signing.RequestStates() {
		s := unasked(state)
		s.Channels = []string{ChannelCheck, "summary"} // what a policy means that does not say
		f := &recorder{}
		sent := post(t, f, s)
		if f.n != 1 || sent.CheckRun == "" || sent.Comment != "" || strings.Contains(f.told.String(), "COMMENT") || strings.Contains(f.told.String(), "STATUS") {
			t.Errorf("%s: %s", state, f.told.String())
		}
	}
}

func TestEqualReportsAreNotSentAgain(t *testing.T) {
	for _, s := range []Snapshot{snapshot(signing.AwaitingApproval), unasked(signing.Completed)} {
		f := &recorder{}
		s.Sent = post(t, f, s)
		n := f.n
		s.Checkpoint = "log.acme.dev\n43\n" // it grows by itself
		if again := post(t, f, s); again != s.Sent || f.n != n {
			t.Errorf("%s: sent again\n%s", s.Request.State, f.told.String())
		}
	}
}

func TestAChangeUpdatesWhatIsThere(t *testing.T) {
	f := &recorder{}
	s := snapshot(signing.AwaitingApproval)
	s.Sent = post(t, f, s)
	s.Tally.Groups[0].People = []string{"github.com:3"}
	s.Sent = post(t, f, s)
	if !strings.Contains(f.told.String(), `CHECK "check1"`) || !strings.Contains(f.told.String(), "1 of 2") {
		t.Errorf("%s", f.told.String())
	}
	// Somebody deleted the check: a new one is made.
	f.gone = map[string]bool{"check1": true}
	s.Tally.Groups[0].People = nil
	if sent := post(t, f, s); sent.CheckRun == "check1" || sent.CheckRun == "" {
		t.Errorf("%+v", sent)
	}
}

func TestThereIsOneCommentForAPolicyInAThread(t *testing.T) {
	s := unasked(signing.Completed)
	s.Channels = []string{ChannelComment}
	f := &recorder{mine: []forge.Comment{{ID: "old1"}, {ID: "old2"}}}
	if sent := post(t, f, s); sent.Comment != "old2" || !strings.HasPrefix(f.told.String(), "EDIT old2") {
		t.Errorf("%+v\n%s", sent, f.told.String())
	}
	f = &recorder{gone: map[string]bool{"mine": true}}
	s.Sent = signing.Reports{Comment: "mine"}
	if sent := post(t, f, s); sent.Comment != "comment1" || !strings.HasPrefix(f.told.String(), "COMMENT") {
		t.Errorf("deleted: %+v\n%s", sent, f.told.String())
	}
	f = &recorder{thread: &signing.Error{Code: signing.NotFound, Message: "no pull request"}}
	s.Sent = signing.Reports{}
	if sent := post(t, f, s); f.n != 0 || sent != (signing.Reports{}) {
		t.Errorf("without a thread: %+v\n%s", sent, f.told.String())
	}
}

func TestAFailingChannelKeepsNoOtherFromBeingWritten(t *testing.T) {
	down, denied := &signing.Error{Code: signing.Unavailable, Message: "down"}, &signing.Error{Code: signing.Denied, Message: "no permission checks: write"}
	for name, c := range map[string]struct {
		fail      map[string]error
		temporary bool
		want      func(signing.Reports) bool
	}{
		"check is down":              {map[string]error{"Check": down}, true, func(r signing.Reports) bool { return r.Check == "" && r.Status != "" && r.Comment != "" }},
		"status is denied":           {map[string]error{"Status": denied}, false, func(r signing.Reports) bool { return r.Check != "" && r.Status == "" && r.Comment != "" }},
		"denied, then down":          {map[string]error{"Check": denied, "Post": down}, true, func(r signing.Reports) bool { return r.Check == "" && r.Status != "" && r.Comment == "" }},
		"down, then denied":          {map[string]error{"Check": down, "Post": denied}, true, func(r signing.Reports) bool { return r.CheckRun == "" && r.Comment == "" }},
		"finding our own is limited": {map[string]error{"Mine": &signing.Error{Code: signing.RateLimited, Message: "slow down"}}, true, func(r signing.Reports) bool { return r.Comment == "" && r.CommentBody == "" }},
	} {
		f := &recorder{fail: c.fail}
		s := unasked(signing.Completed)
		sent, err := (&Reporter{Forges: map[string]forge.Forge{"github.com": f}}).Post(t.Context(), s)
		if err == nil || signing.Temporary(err) != c.temporary || !c.want(sent) || !strings.Contains(err.Error(), s.Request.ID) {
			t.Errorf("%s: %v (temporary %v), %+v", name, err, signing.Temporary(err), sent)
		}
		// Once it is back, only what is missing is written.
		f.fail, s.Sent = nil, sent
		before := f.n
		whole := post(t, f, s)
		if missing := len(c.fail); f.n-before != missing || whole.Check == "" || whole.Status == "" || whole.CommentBody == "" {
			t.Errorf("%s: %d writes for %d that failed, %+v", name, f.n-before, missing, whole)
		}
	}
}

func TestABuildOfNoConfiguredForgeIsReportedNowhere(t *testing.T) {
	for name, change := range map[string]func(*signing.Origin){
		"another forge": func(o *signing.Origin) { o.Forge = "other.example" },
		"no repository": func(o *signing.Origin) { o.SourceRepositoryIdentifier = "" },
		"no commit":     func(o *signing.Origin) { o.SourceRepositoryDigest = "" },
	} {
		f := &recorder{}
		s := snapshot(signing.Completed)
		change(&s.Request.Origin)
		if sent := post(t, f, s); f.n != 0 || sent != (signing.Reports{}) {
			t.Errorf("%s: %s", name, f.told.String())
		}
	}
}

func TestAnnotationsAreInTheWorkflowOfTheRepositoryOnly(t *testing.T) {
	s := snapshot(signing.RequestDenied)
	list := []view.Note{{Title: "origin.refs", Message: "wanted: main"}}
	if got := notes(s, list); len(got) != 1 || got[0].Path != ".github/workflows/release.yml" || got[0].Line != 1 {
		t.Errorf("%+v", got)
	}
	for _, uri := range []string{"", "https://github.com/other/repo/.github/workflows/x.yml@main", "https://github.com/acme/payments-web-evil/x.yml@main", "https://github.com/acme/payments-web/@main"} {
		s.Request.Origin.BuildConfigURI = uri
		if got := notes(s, list); got != nil {
			t.Errorf("%s: %+v", uri, got)
		}
	}
}

func TestTheBoundOfAViewIsThatOfForges(t *testing.T) {
	if view.MaxComment > forge.MaxComment || view.MaxComment > forge.MaxSummary {
		t.Errorf("%d bytes, forges take %d and %d", view.MaxComment, forge.MaxComment, forge.MaxSummary)
	}
	for _, b := range buttonsOf(snapshot(signing.AwaitingApproval)) {
		if len(b.Identifier) > 20 || len(b.Label) > 20 || len(b.Description) > 40 {
			t.Errorf("GitHub refuses %+v", b)
		}
	}
}

func buttonsOf(s Snapshot) []forge.Button {
	s.Request.Decision.Approvals.Ways = []string{signing.ViaCheckRun}
	return buttons(s)
}

func TestButtonsAreThereOnlyWhileTheyCount(t *testing.T) {
	if got := buttonsOf(snapshot(signing.AwaitingApproval)); len(got) != 2 || got[0].Identifier != "approve 3f9c2a7b" || got[1].Identifier != "deny 3f9c2a7b" {
		t.Errorf("%+v", got)
	}
	if got := buttons(snapshot(signing.AwaitingApproval)); got != nil {
		t.Errorf("a policy without check_run has %+v", got)
	}
	if got := buttonsOf(snapshot(signing.Completed)); got != nil {
		t.Errorf("after the end there are %+v", got)
	}
}
