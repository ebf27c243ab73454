package view

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

var update = flag.Bool("update", false, "rewrite the golden files under testdata")

const hex64 = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

func denied() signing.Reason {
	return signing.Reason{Rule: "policies.release", Children: []signing.Reason{
		{Rule: "request", Pass: true, Children: []signing.Reason{
			{Rule: "request.policy", Pass: true, Wanted: "release", Found: "release"},
			{Rule: "request.images", Pass: true, Wanted: "1 to 500 images", Found: "2 images"},
		}},
		{Rule: "tags", Pass: true, Wanted: "no tag, or v*", Found: "2 images"},
		{Rule: "origin", Children: []signing.Reason{
			{Rule: "origin.refs", Wanted: "refs/heads/main or refs/tags/v*", Found: "refs/heads/feature/x", Fix: "build from a branch or tag that the policy trusts"},
			{Rule: "origin.ref_protected", Pass: true, Wanted: "a protected branch or tag", Found: "protected"},
			{Rule: "origin.github", Children: []signing.Reason{
				{Rule: "origin.github.events", Wanted: "push", Found: "pull_request_target", Fix: "sign in a build that is started by one of these events; pull_request_target cannot be trusted"},
			}},
		}},
	}}
}

func allowed() signing.Reason {
	return signing.Reason{Rule: "policies.release", Pass: true, Children: []signing.Reason{
		{Rule: "request", Pass: true, Children: []signing.Reason{{Rule: "request.policy", Pass: true, Wanted: "release", Found: "release"}}},
		{Rule: "origin.refs", Pass: true, Wanted: "refs/heads/main", Found: "refs/heads/main"},
	}}
}

// hostile has what strangers put into branch names, and more than they can.
const hostile = "x`|</td><script>alert(1)</script> @acme/security #12 [a](https://evil.example) **b** \\| ~~~ ```\n\n# heading\n::error::x\n##[error]x \x1b[31m\u202eevil\u2066 www.evil.example a&amp;b"

func strange() signing.Reason {
	return signing.Reason{Rule: hostile, Children: []signing.Reason{
		{Rule: hostile, Wanted: hostile, Found: hostile, Fix: hostile},
		{Rule: "::set-output name=x::y", Pass: true, Found: "::error::x"},
	}}
}

func request(state signing.RequestState) signing.Request {
	return signing.Request{
		ID: "sr_7K2M7K2M7K2M7K2M", State: state, Project: "payments", Policy: "release",
		Artifacts: []signing.Artifact{artifact("registry.acme.dev/payments/web", ""), artifact("registry.acme.dev/payments/api", "v1")},
		Origin:    signing.Origin{SourceRepository: "acme/payments-web", SourceRepositoryRef: "refs/heads/main", SourceRepositoryDigest: "6dcb09b5b57875f334f61aebed695e2e4193db5e"},
		Decision:  &signing.Decision{Effect: signing.Allow, Reasons: allowed()},
	}
}

func artifact(repo, tag string) signing.Artifact {
	return signing.Artifact{Repository: signing.Repository(repo), Digest: "sha256:" + hex64, Tag: tag}
}

func task(repo, key string, state signing.TaskState) signing.Task {
	t := signing.Task{Artifact: artifact(repo, ""), Step: signing.Step{Method: "cosign", Key: key}, State: state}
	if state == signing.Published {
		t.Locations = []signing.Location{{Kind: "tag", URI: repo + ":sha256-" + hex64 + ".sig"}}
	}
	return t
}

// byMethod is a task of another method, or in another state, with its place.
func byMethod(method string, state signing.TaskState) signing.Task {
	t := task("registry.acme.dev/payments/web", "release-"+method, signing.Published)
	t.State, t.Step.Method = state, method
	return t
}

const checkpoint = "log.acme.dev/sealwright\n42\nqINS1GRFhWHwdkUeqLEoP4yEMkTBBzxBkGwGQlVlVcs=\n\n— log.acme.dev/sealwright Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"

func TestViewsAreThoseOfTheGoldenFiles(t *testing.T) {
	deniedRequest := request(signing.RequestDenied)
	deniedRequest.Decision = &signing.Decision{Effect: signing.Deny, Reasons: denied()}
	deniedRequest.Failure = &signing.Error{Code: signing.Denied, Message: "the policy does not allow this", Expected: "refs/heads/main or refs/tags/v*", Found: "refs/heads/feature/x", Fix: "build from a branch or tag that the policy trusts"}
	failed := task("registry.acme.dev/payments/api", "release-ec", signing.TaskFailed)
	failed.Failure = &signing.Error{Code: signing.Unavailable, Message: "the registry answered 503"}
	recognised := task("registry.acme.dev/payments/api", "release-ec", signing.Published)
	recognised.Recognised = true
	index := request(signing.Completed)
	for i := range 5 {
		index.Decision.Basis.Children = append(index.Decision.Basis.Children, signing.Artifact{Repository: "registry.acme.dev/payments/web", Digest: signing.DigestOf([]byte{byte(i)})})
	}
	var recursive []signing.Task
	for _, format := range []string{"", "bundle"} {
		step := signing.Step{Method: "cosign", Key: "release-ec", Recursive: true}
		if format != "" {
			step.Options = map[string]string{"format": format}
		}
		for i, a := range append([]signing.Artifact{artifact("registry.acme.dev/payments/web", "")}, index.Decision.Basis.Children...) {
			k := task("registry.acme.dev/payments/web", "release-ec", signing.Published)
			k.Artifact, k.Step, k.Recognised = a, step, i == 3
			if format != "" && i == 5 {
				k.State, k.Failure = signing.TaskFailed, &signing.Error{Message: "the registry answered 503"}
			}
			recursive = append(recursive, k)
		}
	}
	for name, got := range map[string]string{
		"request-recursive.md": RequestMarkdown(index, recursive, ""),
		"denied.txt":           text(denied(), false),
		"denied.colour.txt":    text(denied(), true),
		"allowed.txt":          text(allowed(), false),
		"strange.txt":          text(strange(), false),
		"leaf.txt":             text(denied().Failures()[0], false),
		"denied.md":            Markdown(denied()),
		"allowed.md":           Markdown(allowed()),
		"strange.md":           Markdown(strange()),
		"leaf.md":              Markdown(denied().Failures()[0]),
		"request-delivered.md": RequestMarkdown(request(signing.Completed), []signing.Task{byMethod("cosign", signing.Delivered), byMethod("notation", signing.Published)}, ""),
		"request-signed.md":    RequestMarkdown(request(signing.Completed), []signing.Task{task("registry.acme.dev/payments/web", "release-ec", signing.Published), recognised, task("registry.acme.dev/payments/web", "archive-ec", signing.Published)}, checkpoint),
		"request-denied.md":    RequestMarkdown(deniedRequest, nil, checkpoint),
		"request-failed.md":    RequestMarkdown(request(signing.Failed), []signing.Task{task("registry.acme.dev/payments/web", "release-ec", signing.Published), failed}, ""),
		"request-waiting.md":   RequestMarkdown(request(signing.Signing), []signing.Task{task("registry.acme.dev/payments/web", "release-ec", signing.Queued)}, ""),
		"request-strange.md":   RequestMarkdown(strangeRequest(), []signing.Task{strangeTask()}, "```\n"+hostile),
		"request-trust.md":     RequestMarkdown(trusts(asked()).Request, trusts(ended(signing.Completed, enough)).Tasks, ""),
		"request-simple.md":    RequestMarkdown(request(signing.Completed), []signing.Task{bySimple("registry.acme.dev/payments/web", "https://sign.acme.dev/lookaside/registry.acme.dev"), bySimple("openshift.acme.dev/payments/web", "")}, ""),
		"request-nothing.md":   RequestMarkdown(signing.Request{}, nil, ""),
	} {
		t.Run(name, func(t *testing.T) {
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
				t.Error(diff)
			}
		})
	}
}

func strangeRequest() signing.Request {
	r := request(signing.RequestState(hostile))
	r.ID, r.Policy, r.Origin.SourceRepositoryRef = hostile, hostile, hostile
	r.Failure = &signing.Error{Message: hostile, Found: hostile, Fix: hostile}
	r.Decision.Reasons = strange()
	return r
}

func strangeTask() signing.Task {
	k := task("registry.acme.dev/$(id)", "a; rm -rf ~", signing.Published)
	k.Locations[0].URI = hostile
	return k
}

func text(r signing.Reason, colour bool) string {
	var b bytes.Buffer
	Text(&b, r, colour)
	return b.String()
}

func TestWhatIsNotWellFormedIsNotPutIntoACommand(t *testing.T) {
	for name, k := range map[string]signing.Task{
		"repository":   strangeTask(),
		"key":          task("registry.acme.dev/web", "$(id)", signing.Published),
		"key option":   task("registry.acme.dev/web", "-x", signing.Published),
		"not finished": task("registry.acme.dev/web", "k", signing.Signed),
		"other method": func() signing.Task {
			k := task("registry.acme.dev/web", "k", signing.Published)
			k.Step.Method = "notation"
			return k
		}(),
	} {
		if got := RequestMarkdown(request(signing.Completed), []signing.Task{k}, ""); strings.Contains(got, "cosign verify") {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := RequestMarkdown(request(signing.Completed), []signing.Task{task("registry.acme.dev/web", "k", signing.Published)}, ""); !strings.Contains(got, "```sh\ncosign verify --key k.pub --insecure-ignore-tlog=true \\\n  registry.acme.dev/web@sha256:"+hex64+"\n```\n") {
		t.Errorf("no command: %s", got)
	}
}

func TestTreesAndRequestsOfAnySizeAreBounded(t *testing.T) {
	deep := signing.Reason{Rule: "leaf", Found: strings.Repeat("x", 10*maxText)}
	for range 1000 {
		deep = signing.Reason{Rule: "node", Children: []signing.Reason{deep}}
	}
	wide := signing.Reason{Rule: "root"}
	for i := range 5 * maxReasons {
		wide.Children = append(wide.Children, signing.Reason{Rule: fmt.Sprint("rule", i), Found: "x"})
	}
	var tasks []signing.Task
	for i := range signing.MaxArtifacts {
		tasks = append(tasks, task(fmt.Sprintf("registry.acme.dev/payments/image%03d", i), "k", signing.Published))
	}
	r := request(signing.Completed)
	r.Decision.Reasons = wide
	for name, got := range map[string]string{"deep text": text(deep, false), "deep Markdown": Markdown(deep), "wide text": text(wide, true), "wide Markdown": Markdown(wide), "request": RequestMarkdown(r, tasks, strings.Repeat("x\n", 1<<20))} {
		if len(got) > 400<<10 || got == "" {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
}

// cells splits a row as GFM does: a backslash and the character after it belong
// together, a bare pipe ends the cell.
func cells(row string) int {
	n := 0
	for i := 0; i < len(row); i++ {
		switch row[i] {
		case '\\':
			i++
		case '|':
			n++
		}
	}
	return n - 1
}

func FuzzStrangersTextStaysText(f *testing.F) {
	for _, s := range []string{hostile, "`", "``a`", "a\\|b", "\\", "|", "@x", "<!--", "\r\nx", "\xff", "a  ", "www.x://@#", "\u200b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, line := range strings.Split(strings.TrimSuffix(text(signing.Reason{Rule: s, Found: s, Wanted: s, Fix: s, Children: []signing.Reason{{Rule: s, Pass: true, Found: s}}}, false), "\n"), "\n") {
			if strings.ContainsAny(line, "\x1b\r\x00") || strings.Contains(line, "##[") || strings.HasPrefix(strings.TrimSpace(line), "::") {
				t.Fatalf("a command or control character: %q", line)
			}
		}
		md := Markdown(signing.Reason{Rule: s, Children: []signing.Reason{{Rule: s, Wanted: s, Found: s, Fix: s}}})
		for i, line := range strings.Split(md, "\n") {
			if i == 4 && cells(line) != 4 {
				t.Fatalf("%d cells: %q", cells(line), line)
			}
		}
		if n := strings.Count(md, "\n"); n != 12 {
			t.Fatalf("%d lines:\n%s", n, md)
		}
		if c := clean(s); c != "" {
			span := code(s)
			ticks := len(span) - len(strings.TrimLeft(span, "`"))
			if inner := strings.TrimSpace(span[ticks : len(span)-ticks]); inner != c || longest(inner) >= ticks && longest(inner) > 0 {
				t.Fatalf("code %q of %q", span, c)
			}
		}
		e := escape(s)
		for i, r := range e {
			if strings.ContainsRune("<>@#[]`*_|", r) && (i == 0 || e[i-1] != '\\') {
				t.Fatalf("not escaped at %d: %q", i, e)
			}
		}
		if strings.Contains(e, "://") || strings.Contains(e, "www.") || strings.Contains(e, "@a") {
			t.Fatalf("a link or mention: %q", e)
		}
		if fenced := fence(s, ""); strings.Count(fenced, strings.Repeat("`", longest(fenced))) != 2 {
			t.Fatalf("fence %q", fenced)
		}
	})
}
