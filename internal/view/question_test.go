package view

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	gmtext "github.com/yuin/goldmark/text"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/signing"
)

const sha = "6dcb09b5b57875f334f61aebed695e2e4193db5e"

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func github(id, login string) signing.Account {
	return signing.Account{Forge: "github.com", ID: id, Login: login}
}

// asked is a question about two images, to which one of three people has answered.
func asked() Asked {
	basis := signing.Basis{PolicyDigest: signing.DigestOf([]byte("new")), Steps: []signing.Step{
		{Method: "cosign", Key: "release-ec", KeyVersion: "b"}, {Method: "notation", Key: "release-x509", KeyVersion: "c"},
	}}
	web := signing.Artifact{Repository: "registry.acme.dev/payments/web", Digest: "sha256:" + hex64, Tag: "v1.4.0"}
	api := signing.Artifact{Repository: "registry.acme.dev/payments/api", Digest: signing.DigestOf([]byte("api"))}
	rule := signing.ApprovalRule{
		Groups:  []signing.ApprovalGroup{{Required: 2, From: []string{"github.com:acme/release-managers"}}, {Required: 1, From: []string{"github.com:acme/security", "github.com:@mallory#66"}}},
		Expires: 24 * time.Hour, DenyEnds: true, Ways: []string{signing.ViaComment},
	}
	carol := signing.Approval{By: github("3", "carol"), Person: "github.com:3", Via: signing.ViaComment, At: noon.Add(5 * time.Minute), Groups: []int{0}}
	origin := signing.Origin{
		Forge: "github.com", Kind: "github", SourceRepositoryURI: "https://github.com/acme/payments-web", SourceRepository: "acme/payments-web", SourceRepositoryIdentifier: "7",
		SourceRepositoryRef: "refs/heads/main", SourceRepositoryDigest: sha, BuildTrigger: "push", RunID: "1234", RunInvocationURI: "https://github.com/acme/payments-web/actions/runs/1234/attempts/2",
		Actor: "alice", ActorID: "1", BuildSignerURI: "https://github.com/acme/payments-web/.github/workflows/release.yml@refs/heads/main",
	}
	before := signing.Request{ID: "sr_1K2M7K2M7K2M7K2M", Ended: noon.Add(-72 * time.Hour), Artifacts: []signing.Artifact{web}, Origin: origin, Decision: &signing.Decision{Basis: signing.Basis{
		PolicyDigest: signing.DigestOf([]byte("old")), Steps: []signing.Step{{Method: "cosign", Key: "release-ec", KeyVersion: "a"}},
	}}}
	before.Origin.SourceRepositoryDigest = strings.Repeat("1", 40)
	base := func(a signing.Artifact, digest string) signing.Image {
		return signing.Image{Artifact: a, Kind: signing.KindIndex, Platforms: []string{"linux/amd64", "linux/arm64"}, Annotations: map[string]string{baseName: "debian:12-slim", baseDigest: digest}}
	}
	return Asked{
		Request: signing.Request{
			ID: "sr_7K2M7K2M7K2M7K2M", State: signing.AwaitingApproval, Project: "payments", Policy: "release", Artifacts: []signing.Artifact{web, api},
			Origin: origin, Deadline: noon.Add(24 * time.Hour), Asking: &signing.Asking{Round: 1, Nth: 2}, Approvals: []signing.Approval{carol},
			Decision: &signing.Decision{
				Effect: signing.NeedsApproval, Reasons: allowed(), Basis: basis, Approvals: &rule,
				Excluded: []signing.Exclusion{{Account: github("1", "alice"), Why: "opened #12; wrote commits of #12; started the run"}, {Account: github("2", "bob"), Why: "started the run again"}, {Unmapped: "Eve <eve@old.example>", Why: "wrote commits of #12; the forge knows no such account"}},
			},
		},
		Images: []signing.Image{base(web, "sha256:2222222222222222"), base(api, "sha256:2222222222222222")},
		Round:  1, Code: "3f9c2a7b",
		Tally: signing.Tally{Groups: []signing.GroupTally{{From: rule.Groups[0].From, Required: 3, Extra: 1, People: []string{"github.com:3"}}, {From: rule.Groups[1].From, Required: 2, Extra: 1}}},
		News: News{
			Before: &before, BeforeImages: []signing.Image{base(web, "sha256:1111111111111111")},
			Commits: 23, Subjects: []string{"Charge in cents (#12)", "Bump debian to 12.9", "Fix rounding"}, URL: "https://github.com/acme/payments-web/compare/111...6dc",
		},
		Mentions:   []signing.Account{github("4", "dave"), github("5", "erin"), github("6", "robot")},
		Forge:      &signing.ForgeFacts{Commit: &signing.CommitFacts{Subject: "Charge in cents (#12)", Authors: []signing.Account{github("1", "alice")}}, Run: &signing.RunFacts{Actor: github("1", "alice"), Restarter: github("2", "bob")}},
		Checkpoint: checkpoint,
	}
}

// ended is the same question after it.
func ended(state signing.RequestState, change func(*Asked)) Asked {
	q := asked()
	q.Request.State, q.Mentions, q.Code = state, nil, ""
	if state == signing.Completed || state == signing.Failed || state == signing.Signing {
		for _, a := range q.Request.Artifacts {
			for _, s := range q.Request.Decision.Basis.Steps {
				t := signing.Task{Artifact: a, Step: s, State: signing.Published}
				t.Locations = []signing.Location{{Kind: "tag", URI: string(a.Repository) + ":sha256-" + a.Digest.Hex() + ".sig"}}
				q.Tasks = append(q.Tasks, t)
			}
		}
	}
	if change != nil {
		change(&q)
	}
	return q
}

func enough(q *Asked) {
	for i, id := range []string{"4", "5", "8", "9"} {
		login := []string{"dave", "erin", "heidi", "ivan"}[i]
		q.Request.Approvals = append(q.Request.Approvals, signing.Approval{By: github(id, login), Person: "github.com:" + id, Via: signing.ViaComment, At: noon.Add(time.Hour)})
	}
	q.Tally.Groups[0].People, q.Tally.Groups[1].People, q.Tally.Met = []string{"github.com:3", "github.com:4", "github.com:5"}, []string{"github.com:8", "github.com:9"}, true
}

// hundreds asks about as much as a Request may hold.
func hundreds() Asked {
	q := asked()
	q.Request.Artifacts, q.Images = nil, nil
	for i := range signing.MaxArtifacts {
		q.Request.Artifacts = append(q.Request.Artifacts, signing.Artifact{Repository: signing.Repository(fmt.Sprintf("registry.acme.dev/payments/service-%03d", i)), Digest: signing.DigestOf([]byte{byte(i), byte(i >> 8)})})
	}
	q.Request.Decision.Basis.Children = q.Request.Artifacts[:40]
	return q
}

// views are every text that people can see of a question and what became of it.
func views() map[string]Asked {
	return map[string]Asked{
		"question": asked(),
		"hundreds": hundreds(),
		"first":    ended(signing.AwaitingApproval, func(q *Asked) { q.Code, q.News, q.Images, q.Forge, q.Checkpoint = "3f9c2a7b", News{}, nil, nil, "" }),
		"unknown":  ended(signing.AwaitingApproval, func(q *Asked) { q.Code, q.News.Unknown, q.News.Diverged = "3f9c2a7b", "the commit is gone", true }),
		// What is stored is all there is: the forge's answers are not, and the last
		// release could not be read.
		"stored": ended(signing.AwaitingApproval, func(q *Asked) {
			q.Code, q.Forge, q.News = "3f9c2a7b", nil, News{Unknown: "the last release could not be read"}
			q.Request.Asking.Subject = "Charge in cents (#12)"
			q.Request.Decision.Excluded[0].Why += "; " + signing.WhyWrote + "6dcb09b5b578"
		}),
		"signing":   ended(signing.Signing, func(q *Asked) { enough(q); q.Tasks[0].State = signing.Queued }),
		"completed": ended(signing.Completed, enough),
		"failed": ended(signing.Failed, func(q *Asked) {
			enough(q)
			q.Tasks[1].State, q.Tasks[1].Locations, q.Tasks[1].Failure = signing.TaskFailed, nil, &signing.Error{Message: "the registry answered 503"}
			q.Request.Failure = &signing.Error{Message: "a signature could not be published", Found: "the registry answered 503", Fix: "run the job again"}
		}),
		"denied-by-person": ended(signing.RequestDenied, func(q *Asked) {
			q.Tally.Denied = &signing.Approval{By: github("9", "ivan"), Deny: true, Reason: "wrong @acme/tag <b> http://evil.example"}
			q.Request.Failure = &signing.Error{Message: "a person denied it"}
		}),
		"denied": ended(signing.RequestDenied, func(q *Asked) {
			q.Request.Decision.Effect, q.Request.Decision.Reasons, q.Tally, q.Request.Asking, q.Request.Approvals = signing.Deny, denied(), signing.Tally{}, nil, nil
			q.Request.Decision.Shadow = []signing.Shadow{{Policy: "release-next", Effect: signing.Allow, Reasons: allowed()}}
		}),
		"superseded": ended(signing.RequestDenied, func(q *Asked) { q.Superseded = "sr_8K2M7K2M7K2M7K2M" }),
		"expired": ended(signing.RequestExpired, func(q *Asked) {
			q.Request.Failure = &signing.Error{Message: "nobody decided in time", Fix: "run the job again"}
		}),
		"canceled": ended(signing.Canceled, nil),
		"trust":    trusts(asked()),
		"trust-completed": ended(signing.Completed, func(q *Asked) {
			enough(q)
			*q = trusts(*q)
		}),
		"hostile": hostileAsked(),
	}
}

// trusts has a step that signs tags together, and a tag to untrust; and what became
// of it.
func trusts(q Asked) Asked {
	web := q.Request.Artifacts[0].Repository
	q.Request.Untrust = []signing.Artifact{{Repository: web, Tag: "v1.2.0"}}
	d := *q.Request.Decision
	step := signing.Step{Method: "dct", Key: "release-dct", Options: map[string]string{"move": "true"}, Parts: []string{"targets/releases"}}
	d.Basis.Steps = append(d.Basis.Steps, step)
	q.Request.Decision = &d
	if len(q.Tasks) > 0 {
		q.Tasks = append(q.Tasks, signing.Task{
			State: signing.Published, Artifact: signing.Artifact{Repository: web}, Step: step, Part: "targets/releases",
			Changes:   []signing.Change{{Tag: "v1.4.0", Digest: q.Request.Artifacts[0].Digest}, {Tag: "latest", Digest: q.Request.Artifacts[0].Digest}, {Tag: "v1.2.0", Remove: true}},
			Intent:    &signing.Intent{Differences: []signing.Difference{{Tag: "latest", From: signing.DigestOf(nil), To: q.Request.Artifacts[0].Digest}, {Tag: "v1.2.0", From: signing.DigestOf(nil)}, {Tag: "v1.4.0", To: q.Request.Artifacts[0].Digest}}},
			Locations: []signing.Location{{Kind: "notary", URI: "https://notary.acme.dev/v2/" + string(web) + "/_trust/tuf/targets/releases.json"}},
		})
	}
	return q
}

// hostileAsked has a stranger's text wherever there can be one.
func hostileAsked() Asked {
	bad := hostile + "\n\n" + "/sealwright approve sr_7K2M7K2M7K2M7K2M 3f9c2a7b\n```\n<details>\n"
	q := asked()
	o := &q.Request.Origin
	o.SourceRepositoryRef, o.SourceRepository, o.Actor, o.BuildTrigger, o.RunInvocationURI, o.BuildSignerURI = bad, bad, bad, bad, "https://github.com/x)<img src=x>", bad
	o.SourceRepositoryURI = "javascript:alert(1)//github.com"
	q.News.Subjects, q.News.URL, q.Forge = []string{bad, bad}, "https://evil.example/compare", nil
	q.Request.Asking.Subject = bad
	q.Images[0].Platforms = []string{bad}
	q.Images[1].Annotations = map[string]string{baseName: bad}
	q.News.BeforeImages = []signing.Image{q.Images[1]}
	q.News.BeforeImages[0].Annotations = map[string]string{baseName: "x"}
	q.Request.Decision.Excluded = []signing.Exclusion{{Account: signing.Account{Forge: "x", ID: "1", Login: bad}, Why: bad}, {Unmapped: bad, Why: bad}}
	q.Request.Decision.Reasons = strange()
	q.Request.Untrust = []signing.Artifact{{Repository: signing.Repository(bad), Tag: bad}}
	q.Request.Decision.Basis.Steps = append(q.Request.Decision.Basis.Steps, signing.Step{Method: bad, Key: bad, Parts: []string{bad}})
	q.Request.Approvals[0].By.Login = bad
	q.Mentions = []signing.Account{{Forge: "github.com", ID: "1", Login: "a/b"}, {Forge: "github.com", ID: "1", Login: bad}, {Forge: "gitlab.com", ID: "1", Login: "other"}, {Forge: "github.com", ID: "2", Login: "bot", Bot: true}}
	q.Tally.Ignored = []signing.IgnoredApproval{{Approval: signing.Approval{By: signing.Account{Forge: "x", ID: "1", Login: bad}}, Why: bad}}
	q.Tally.Groups[0].People, q.Tally.Groups[0].From = []string{bad}, []string{bad, "github.com:permission=" + bad}
	return q
}

func TestQuestionsAndOutcomesAreThoseOfTheGoldenFiles(t *testing.T) {
	for name, q := range views() {
		check := Check(q)
		golden(t, "question-"+name+".md", Question(q))
		golden(t, "check-"+name+".md", check.Title+"\n---\n"+check.Summary+"\n---\n"+check.Text+"\n---\n"+fmt.Sprintf("%+v", check.Notes))
	}
	golden(t, "reminder.md", Reminder(asked()))
	golden(t, "report.md", Report(ended(signing.Completed, func(q *Asked) {
		q.Request.Asking, q.Request.Approvals, q.Tally, q.Request.Decision.Approvals = nil, nil, signing.Tally{}, nil
	})))
	golden(t, "reply-refusal.md", Refusal(fmt.Errorf("x: %w", &signing.Error{Code: signing.Denied, Message: "you cannot approve this", Expected: "somebody who did not start the run", Found: hostile, Fix: "ask one of the team; see `/sealwright status`"})))
	golden(t, "reply-later.md", Refusal(&signing.Error{Code: signing.Unavailable, Message: "the forge could not be asked", Fix: "an odd ` tick"}))
	golden(t, "reply-internal.md", Refusal(fmt.Errorf("secret detail")))
	golden(t, "reply-help.md", Help())
	golden(t, "reply-status.md", StatusReply([]Asked{asked(), hundreds()}))
	golden(t, "reply-status-none.md", StatusReply(nil))
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := "testdata/" + name
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s:\n%s", name, diff)
	}
}

func TestAQuestionShowsEverythingInItsOrder(t *testing.T) {
	got := Question(asked())
	at := 0
	for _, want := range []string{
		"<!-- sealwright question sr_7K2M7K2M7K2M7K2M 1 -->\n",
		"registry.acme.dev/payments/web", "sha256:" + hex64, "v1.4.0", "linux/amd64, linux/arm64", "release-ec",
		"```\n/sealwright approve sr_7K2M7K2M7K2M7K2M 3f9c2a7b\n```\n", "```\n/sealwright deny sr_7K2M7K2M7K2M7K2M 3f9c2a7b\n```\n",
		"[`6dcb09b5b578`](https://github.com/acme/payments-web/commit/" + sha + ")", "Charge in cents", "author: `alice`", "runs/1234/attempts/2", "started by `alice`, again by `bob`", "2nd request of this run",
		"[`23 commits`](https://github.com/acme/payments-web/compare/111...6dc)", "base of `registry.acme.dev/payments/web`", "another version", "policy: **changed**",
		"**1 of 3** from `acme/release-managers`: `carol`", "**0 of 2** from `acme/security`, `mallory`", "@dave @erin",
		"Cannot approve", "`alice`: opened", "`bob`: started the run again", "eve@old",
		"**2026-11-28 12:00 UTC**; an approval counts for 24 hours", "<details><summary>2 checks, all passed</summary>", "qINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=",
	} {
		i := strings.Index(got[at:], want)
		if i < 0 {
			t.Fatalf("%q is missing, or too early, in\n%s", want, got)
		}
		at += i
	}
	if !strings.HasPrefix(got, QuestionMarker("sr_7K2M7K2M7K2M7K2M", 1)+"\n") || strings.HasSuffix(got, "\n") {
		t.Error("the first line is not the marker, or there is a line feed at the end")
	}
}

func TestAQuestionNamesAuthorAndRestarterFromWhatIsStored(t *testing.T) {
	got := Question(views()["stored"])
	for _, want := range []string{"- author: `alice`\n", "started by `alice`, again by `bob`\n", "⚠️ Not known: the last release could not be read"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}

func TestACheckShowsPlatformsAndWhatIsNewAsTheQuestionDoes(t *testing.T) {
	q := asked()
	for what, got := range map[string]string{"question": Question(q), "check": Check(q).Summary} {
		for _, want := range []string{"linux/amd64, linux/arm64", "- `Charge in cents (#12)`\n", "New since the last signed release", "[`23 commits`]", "base of `registry.acme.dev/payments/web`"} {
			if !strings.Contains(got, want) {
				t.Errorf("the %s has no %q:\n%s", what, want, got)
			}
		}
	}
	first := views()["first"]
	for what, got := range map[string]string{"question": Question(first), "check": Check(first).Summary} {
		if !strings.Contains(got, "This is the first") {
			t.Errorf("the %s does not say that this is the first release:\n%s", what, got)
		}
	}
}

func TestTheSubjectOfACommitIsShortAndNoMarkup(t *testing.T) {
	q := asked()
	q.Forge = nil
	q.Request.Asking.Subject = "Pay `@acme/all` [now](http://evil.example) " + strings.Repeat("x", 300)
	got := Question(q)
	_, line, _ := strings.Cut(got, "- ``Pay ")
	line, _, _ = strings.Cut(line, "\n")
	if !strings.HasPrefix(line, "`@acme/all` [now](http://evil.example) xxx") || !strings.HasSuffix(line, "x… ``") && !strings.HasSuffix(line, "x…``") || len([]rune(line)) > maxSubject+10 {
		t.Errorf("%q in\n%s", line, got)
	}
}

func TestNoViewIsWiderThanAPhoneWraps(t *testing.T) {
	for name, q := range views() {
		if strings.Contains(Question(q), "|---|") {
			t.Errorf("%s has a table", name)
		}
	}
}

// everything returns all texts of a question.
func everything(q Asked) map[string]string {
	check := Check(q)
	return map[string]string{"question": Question(q), "report": Report(q), "reminder": Reminder(q), "summary": check.Summary, "text": check.Text, "status": StatusReply([]Asked{q}), "refusal": Refusal(&signing.Error{Code: signing.Invalid, Message: q.Request.Origin.Actor, Expected: q.Request.Origin.Actor, Found: q.Request.Origin.Actor, Fix: q.Request.Origin.Actor})}
}

func TestStrangersCannotMentionLinkHideOrCommand(t *testing.T) {
	for name, q := range views() {
		for what, body := range everything(q) {
			safe(t, name+"/"+what, body)
			if what != "question" && what != "reminder" && what != "report" && strings.Contains(body, "@dave") {
				t.Errorf("%s/%s calls people", name, what)
			}
		}
	}
	if got := Question(hostileAsked()); mentions("github.com", hostileAsked().Mentions) != "" || strings.Contains(got, ", please decide") {
		t.Error("somebody is mentioned who cannot be")
	}
}

var (
	reMention    = regexp.MustCompile(`(?:^|[^\w` + "`" + `/])@[A-Za-z0-9]`)
	reOurHTML    = regexp.MustCompile(`^(?:<!-- sealwright [\w ./]+ -->|<details><summary>[^<>@]*</summary>|</details>)\s*$`)
	reOurMention = regexp.MustCompile(`^(?:@(?:dave|erin|robot|m{90}\d+) ?)+(?:and \d+ more)?(?:, please.*)?$`)
)

// safe parses a text as forges do and looks at everything that came out.
func safe(t *testing.T, name, body string) {
	t.Helper()
	if got, err := approval.Parse(body); got != nil || err != nil && strings.HasPrefix(name, "question/") {
		t.Errorf("%s has commands: %v, %v", name, got, err)
	}
	for _, r := range body {
		if unprintable(r) && r != '\n' && r != '\u200b' && r != '\ufe0f' {
			t.Errorf("%s has U+%04X", name, r)
		}
	}
	src := []byte(body)
	root := goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser().Parse(gmtext.NewReader(src))
	err := ast.Walk(root, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.HTMLBlock:
			for _, l := range strings.Split(strings.TrimSpace(string(n.Lines().Value(src))), "\n") {
				if !reOurHTML.MatchString(l) {
					t.Errorf("%s has HTML: %q", name, l)
				}
			}
		case *ast.RawHTML:
			t.Errorf("%s has inline HTML: %q", name, n.Segments.Value(src))
		case *ast.AutoLink:
			t.Errorf("%s has a link: %q", name, n.URL(src))
		case *ast.Link:
			if !strings.HasPrefix(string(n.Destination), "https://github.com/acme/payments-web/") {
				t.Errorf("%s has a link: %q", name, n.Destination)
			}
		case *ast.Image:
			t.Errorf("%s has an image", name)
		case *ast.CodeSpan:
			return ast.WalkSkipChildren, nil
		case *ast.Text:
			line := string(n.Segment.Value(src))
			if reMention.MatchString(line) && !reOurMention.MatchString(line) {
				t.Errorf("%s mentions: %q", name, line)
			}
		}
		return ast.WalkContinue, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestViewsOfAnySizeAreBounded(t *testing.T) {
	long := strings.Repeat("`@&<ä\\", 3000)
	wide := signing.Reason{Rule: long}
	for range 500 {
		wide.Children = append(wide.Children, signing.Reason{Rule: long, Wanted: long, Found: long, Fix: long})
	}
	for name, q := range views() {
		if name != "question" && name != "completed" && name != "denied" {
			continue // the others have parts of these
		}
		q.Request.Artifacts = hundreds().Request.Artifacts
		q.Request.Decision.Reasons = wide
		q.Request.Decision.Basis.Children = q.Request.Artifacts
		q.Request.Policy, q.Request.Project, q.Request.Origin.SourceRepositoryRef, q.Request.Origin.Actor, q.Request.Origin.SourceRepository = long, long, long, long, long
		q.Request.Failure = &signing.Error{Message: long, Expected: long, Found: long, Fix: long}
		q.Checkpoint = strings.Repeat("x\n", 1<<16)
		q.News.Subjects, q.News.Unknown = []string{long, long, long, long, long, long}, ""
		q.Tally.Denied = &signing.Approval{Reason: long, Person: long}
		for range 300 {
			q.Request.Decision.Excluded = append(q.Request.Decision.Excluded, signing.Exclusion{Unmapped: long, Why: long})
			q.Request.Decision.Shadow = append(q.Request.Decision.Shadow, signing.Shadow{Policy: long, Reasons: wide})
			q.Tally.Groups = append(q.Tally.Groups, signing.GroupTally{From: []string{long, long, long, long, long, long, long, long}, People: []string{long, long, long, long, long, long, long}})
			q.Tally.Ignored = append(q.Tally.Ignored, signing.IgnoredApproval{Why: long, Approval: signing.Approval{Person: long}})
			q.Mentions = append(q.Mentions, github("1", fmt.Sprintf("%s%d", strings.Repeat("m", 90), len(q.Mentions))))
			q.Tasks = append(q.Tasks, signing.Task{Artifact: q.Request.Artifacts[len(q.Tasks)%500], State: signing.TaskFailed, Failure: q.Request.Failure, Step: signing.Step{Method: long, Key: long}, Locations: []signing.Location{{URI: long}, {URI: long}}})
			q.Request.Decision.Basis.Steps = append(q.Request.Decision.Basis.Steps, signing.Step{Method: long, Key: fmt.Sprint(long, len(q.Tasks))})
		}
		for what, body := range everything(q) {
			if len(body) > MaxComment || len(body) < 20 || strings.Contains(body, "too long to be shown") {
				t.Errorf("%s/%s: %d bytes", name, what, len(body))
			}
			safe(t, "bounded "+name+"/"+what, body)
		}
		if c := Check(q); len(c.Notes) > maxNotes || len([]rune(c.Title)) > maxTitle {
			t.Errorf("%s: %d notes, title %q", name, len(c.Notes), c.Title)
		}
	}
}

func FuzzAQuestionIsSafe(f *testing.F) {
	for _, s := range []string{hostile, "`", "\\", "](https://evil.example)", "\n\n/sealwright help", "<details>", "@x", "<!--", "~~~", "\u202e"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		q := asked()
		o := &q.Request.Origin
		o.SourceRepositoryRef, o.SourceRepository, o.Actor, o.BuildTrigger, o.BuildSignerURI = a, b, a, b, a
		q.Forge.Commit.Subject, q.Forge.Commit.Unmapped, q.News.Subjects, q.News.Unknown = a, []string{b}, []string{b, a}, ""
		q.Request.Decision.Excluded[0].Why, q.Request.Decision.Excluded[2].Unmapped = a, b
		q.Request.Decision.Reasons = signing.Reason{Rule: a, Pass: true, Found: b}
		q.Tally.Ignored = []signing.IgnoredApproval{{Why: a, Approval: signing.Approval{Person: b}}}
		q.Tally.Denied = &signing.Approval{Person: a, Reason: b}
		for _, state := range []signing.RequestState{signing.AwaitingApproval, signing.RequestDenied} {
			q.Request.State = state
			q.Request.Failure = &signing.Error{Message: a, Expected: b, Found: a, Fix: b}
			for what, body := range everything(q) {
				safe(t, what, body)
			}
		}
	})
}
