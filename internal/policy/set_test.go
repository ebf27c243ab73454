package policy

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

const strict = `apiVersion: sealwright.dev/v1
project: payments
repositories:
  - {forge: github.com, name: acme/payments-web, id: "74", owner_id: "65", images: ["registry.acme.dev/payments/web"]}
  - {forge: github.com, name: acme/payments-api, id: "75", images: ["registry.acme.dev/payments/api", "registry.acme.dev/payments/jobs/*"]}
policies:
  release:
    tags: ["v*", "20*"]
    origin:
      refs: [refs/heads/main, "refs/tags/v*"]
      ref_protected: true
      environment: production
      github:
        events: [push, release]
        workflow: .github/workflows/release.yml
        runner_environment: github-hosted
    sign:
      - {method: cosign, key: release-ec, options: {annotations: "commit,ref"}}
      - {method: cosign, key: archive-ec}
    when: 'facts.images.all(i, i.labels["stage"] == "prod")'
  test:
    origin:
      refs: ["refs/heads/**"]
      ref_protected: false
      github: {events: [push]}
    sign: [{method: cosign, key: test-ec}]
`

func load(t testing.TB, files ...string) *Set {
	t.Helper()
	m := map[string][]byte{}
	for i, f := range files {
		m[fmt.Sprintf("%d.yaml", i)] = []byte(f)
	}
	s, err := Load(m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func release(t testing.TB, s *Set) *Policy {
	t.Helper()
	p, ok := s.Policy("payments", "release")
	if !ok {
		t.Fatal("no policy")
	}
	return p
}

func strictFacts(t testing.TB) signing.Facts {
	return patched(t, "github", []byte(`{"origin": {"deploymentEnvironment": "production"}}`))
}

func TestDigestIsIndependentOfFormattingAndOfOtherPolicies(t *testing.T) {
	base := load(t, strict)
	want := release(t, base).Digest()
	for name, text := range map[string]string{
		"comments and quotes":   "# x\n" + strings.ReplaceAll(strict, "refs/heads/main,", "'refs/heads/main', # y\n       "),
		"order of lists":        strings.Replace(strings.Replace(strict, `["v*", "20*"]`, `["20*", "v*", "v*"]`, 1), "[push, release]", "[release, push]", 1),
		"order of repositories": swapLines(strict, 3, 4),
		"default written out":   strings.Replace(strict, "      environment:", "      reruns: deny\n      environment:", 1),
		"default left out":      strings.Replace(strict, "      ref_protected: true\n", "", 1),
		"format written out":    strings.Replace(strict, "key: archive-ec", "key: archive-ec, formats: [legacy], recursive: false", 1),
		"switches off":          strings.Replace(strict, "    tags:", "    bind: {digests_only: false, revision_label: false}\n    tags:", 1),
		"mode written out":      strings.Replace(strict, "    tags:", "    mode: enforce\n    tags:", 1),
		"other policy changed":  strings.Replace(strict, "test-ec", "other-ec", 1),
		"other policy gone":     strict[:strings.Index(strict, "  test:")],
	} {
		s := load(t, text)
		if got := release(t, s).Digest(); got != want {
			t.Errorf("%s: the digest of the policy changed", name)
		}
		if same, other := s.Digest() == base.Digest(), strings.HasPrefix(name, "other"); same == other {
			t.Errorf("%s: the digest of the set is the same: %v", name, same)
		}
	}
}

func swapLines(text string, a, b int) string {
	l := strings.Split(text, "\n")
	l[a], l[b] = l[b], l[a]
	return strings.Join(l, "\n")
}

func TestDigestChangesWithEveryRule(t *testing.T) {
	base := load(t, strict)
	seen := map[signing.Digest]string{release(t, base).Digest(): "unchanged"}
	for _, c := range [][2]string{
		{`"74"`, `"76"`}, {`owner_id: "65"`, `owner_id: "66"`}, {"name: acme/payments-web", "name: acme/payments-site"},
		{"forge: github.com, name: acme/payments-web", "forge: ghe.acme.dev, name: acme/payments-web"}, {`"registry.acme.dev/payments/web"`, `"registry.acme.dev/payments/web", "registry.acme.dev/payments/x"`},
		{`"v*"`, `"w*"`}, {"refs/heads/main", "refs/heads/trunk"}, {"ref_protected: true", "ref_protected: false"}, {"ref_protected: true", "reruns: allow"},
		{"ref_protected: true", "verify: {run: true}"}, {"ref_protected: true", "verify: {run: false}"}, {"ref_protected: true", "reruns: attach"},
		{"environment: production", "environment: staging"}, {"[push, release]", "[push]"}, {"release.yml", "publish.yml"}, {"runner_environment: github-hosted", "runner_environment: self-hosted"},
		{"runner_environment: github-hosted", "builder: {path: .github/workflows/c.yml}"}, {"runner_environment: github-hosted", "runner_groups: [a]"},
		{"release-ec", "other-ec"}, {`"commit,ref"`, `"commit"`}, {`== "prod"`, `== "test"`}, {"    tags:", "    mode: log\n    shadows: test\n    tags:"}, {"    tags:", "    freeze: [2026-12-24]\n    tags:"}, {"    tags:", "    bind: {digests_only: true}\n    tags:"}, {"    tags:", "    bind: {revision_label: true}\n    tags:"},
		{"    tags:", "    approvals: {required: 1, from: [\"github.com:a/b\"]}\n    tags:"},
		{"    tags:", "    approvals: {required: 2, from: [\"github.com:a/b\"]}\n    tags:"},
		{"    tags:", "    approvals: {required: 1, from: [\"github.com:a/c\"]}\n    tags:"},
		{"    tags:", "    approvals: {required: 1, from: [\"github.com:a/b\"], exclude: [author]}\n    tags:"},
		{"    tags:", "    approvals: {required: 1, from: [\"github.com:a/b\"], exclude: []}\n    tags:"},
		{"    tags:", "    approvals: {required: 1, from: [\"github.com:a/b\"], expires: 1h}\n    tags:"},
		{"    tags:", "    approvals: {required: 1, from: [\"github.com:a/b\"], supersede: true}\n    tags:"},
		{"    tags:", "    approvals: {required: 1, from: [\"github.com:a/b\"], deny: withdraws}\n    tags:"},
		{"    tags:", "    approvals: {required: 1, from: [\"github.com:a/b\"], ways: [api]}\n    tags:"},
		{"    tags:", "    approvals: {all: [{required: 1, from: [\"github.com:a/b\"]}, {required: 1, from: [\"github.com:a/c\"]}]}\n    tags:"},
		{"    tags:", "    report: []\n    tags:"},
		{"    tags:", "    report: [status]\n    tags:"},
		{"    tags:", "    repository_policy: ignore\n    tags:"},
		{"    tags:", "    bind: {attestation: true}\n    tags:"},
		{"ref_protected: true", "verify: {ref: {}}"},
		{"ref_protected: true", "verify: {ref: {required_approvals: 1}}"},
		{"ref_protected: true", "verify: {ref: {code_owners: true}}"},
		{"ref_protected: true", "verify: {ref: {dismiss_stale: true}}"},
		{"ref_protected: true", "verify: {ref: {last_push_approval: true}}"},
		{"ref_protected: true", "verify: {ref: {block_force_push: true}}"},
		{"ref_protected: true", "verify: {ref: {block_deletion: true}}"},
		{"ref_protected: true", "verify: {ref: {signed_commits: true}}"},
		{"ref_protected: true", "verify: {ref: {no_bypass: true}}"},
		{"ref_protected: true", "verify: {ref: {bypass: [a]}}"},
		{"ref_protected: true", "verify: {ref: {enforced_from: 2026-01-01}}"},
		{"ref_protected: true", "verify: {branch: {of: refs/heads/a}}"},
		{"ref_protected: true", "verify: {branch: {of: refs/heads/b}}"},
		{"ref_protected: true", "verify: {branch: {of: [refs/heads/a, refs/heads/b]}}"},
		{"ref_protected: true", "verify: {branch: {of: refs/heads/a, no_bypass: true}}"},
		{"ref_protected: true", "verify: {pull_request: {}}"},
		{"ref_protected: true", "verify: {pull_request: {required_approvals: 2}}"},
		{"ref_protected: true", "verify: {environment: {required_reviewers: 1}}"},
		{"ref_protected: true", "verify: {environment: {no_self_review: true}}"},
		{"ref_protected: true", "verify: {environment: {protected_branches_only: true}}"},
		{"ref_protected: true", "verify: {environment: {approved: 1}}"},
		{"ref_protected: true", "verify: {checks: [a]}"},
		{"ref_protected: true", "verify: {checks: [{name: a, app: b}]}"},
		{"ref_protected: true", "verify: {inputs: none}"},
		{"ref_protected: true", "verify: {inputs: [a]}"},
		{"ref_protected: true", "verify: {workflow_blobs: [6dcb09b5b57875f334f61aebed695e2e4193db5e]}"},
		{"ref_protected: true", "reachable_from: [refs/heads/a]"}, {"ref_protected: true", "reachable_from: [refs/heads/b]"},
		{"runner_environment: github-hosted", "runner_labels: [a]"}, {"runner_environment: github-hosted", "runner_groups: [b]"},
		{"      github:", "      gitlab: {events: [push], variables: none}\n      github:"}, {"      github:", "      gitlab: {events: [push], variables: [a]}\n      github:"}, {"      github:", "      gitlab: {events: [push], runner_tags: [a]}\n      github:"},
		{"key: archive-ec", "key: archive-ec, recursive: true"}, {"key: archive-ec", "key: archive-ec, formats: [legacy, bundle]"}, {"      github:", "      gitlab: {events: [push]}\n      github:"}, {"      github:", "      custom: {jenkins: {events: [push]}}\n      github:"},
		{"method: cosign, key: archive-ec", "method: notation, key: archive-ec"}, {"key: archive-ec", "key: archive-ec, formats: [bundle]"},
	} {
		text := strings.Replace(strict, c[0], c[1], 1)
		d := release(t, load(t, text)).Digest()
		if was, ok := seen[d]; ok {
			t.Errorf("%s: the same digest as %s", c[1], was)
		}
		seen[d] = c[1]
	}
}

func TestDigestOfASetCoversEveryProjectAndNotItsFiles(t *testing.T) {
	other := strings.NewReplacer("project: payments", "project: search", `"74"`, `"174"`, `"75"`, `"175"`, "acme/payments", "acme/search", "acme.dev/payments", "acme.dev/search").Replace(strict)
	one, two, swapped := load(t, strict), load(t, strict, other), load(t, other, strict)
	if one.Digest() == two.Digest() || two.Digest() != swapped.Digest() {
		t.Error("the digest of the set does not cover its projects, or depends on file names")
	}
	var names []string
	for _, p := range two.Policies() {
		names = append(names, p.Project()+"/"+p.Name())
	}
	if diff := cmp.Diff([]string{"payments/release", "payments/test", "search/release", "search/test"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestFindComparesForgeAndRepositoryIDOnly(t *testing.T) {
	s := load(t, strict)
	o := strictFacts(t).Origin
	p, err := s.Find(o, "release")
	if err != nil || p != release(t, s) {
		t.Fatalf("got %v, %v", p, err)
	}
	for name, c := range map[string]struct {
		change func(*signing.Origin)
		policy string
		want   string
	}{
		"other id":          {func(o *signing.Origin) { o.SourceRepositoryIdentifier = "740" }, "release", "the same name with another id"},
		"no id":             {func(o *signing.Origin) { o.SourceRepositoryIdentifier = "" }, "release", "does not say which repository"},
		"other forge":       {func(o *signing.Origin) { o.Forge = "ghe.acme.dev" }, "release", "no project has the repository"},
		"no such policy":    {func(*signing.Origin) {}, "prod", "has no such signing policy; expected release or test; found prod"},
		"no policy":         {func(*signing.Origin) {}, "", "no such signing policy"},
		"case of the forge": {func(o *signing.Origin) { o.Forge = "GitHub.com" }, "release", "no project has the repository"},
	} {
		o := o
		c.change(&o)
		_, err := s.Find(o, c.policy)
		if signing.CodeOf(err) != signing.Denied || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, ok := s.Policy("payments", "nope"); ok {
		t.Error("found a policy that is not there")
	}
	if _, ok := s.Policy("nope", "release"); ok {
		t.Error("found a project that is not there")
	}
}

func TestTheRepositoryOfAnotherProjectIsDeniedThoughTheImageMatches(t *testing.T) {
	other := strings.NewReplacer("project: payments", "project: search", `"74"`, `"174"`, `"75"`, `"175"`, "acme/payments", "acme/search", "acme.dev/payments", "acme.dev/search").Replace(strict)
	p := release(t, load(t, strict, other))
	f := strictFacts(t)
	f.Origin.SourceRepositoryIdentifier, f.Origin.SourceRepository = "174", "acme/search-web"
	effect, why := p.Evaluate(f)
	if effect != signing.Deny || !strings.Contains(fmt.Sprint(why), "a repository of project payments") {
		t.Errorf("%s: %v", effect, why)
	}
}

func TestStepsKeepTheirOrderAndCannotBeChangedThroughTheResult(t *testing.T) {
	p := release(t, load(t, strict))
	want := []signing.Step{{Method: "cosign", Key: "release-ec", Options: map[string]string{"annotations": "commit,ref"}}, {Method: "cosign", Key: "archive-ec"}}
	got := p.Steps()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got[0].Options["annotations"] = "x"
	if diff := cmp.Diff(want, p.Steps()); diff != "" {
		t.Error(diff)
	}
	if got := p.Problem("sign[1].key", "there is no such key").String(); got != "0.yaml:19: policies.release.sign[1].key: there is no such key" {
		t.Error(got)
	}
}

func TestAStepIsCompiledOnceForEachFormat(t *testing.T) {
	text := strings.Replace(strict, "key: archive-ec", "key: archive-ec, formats: [bundle, legacy], recursive: true, options: {}", 1)
	p := release(t, load(t, text))
	want := []signing.Step{
		{Method: "cosign", Key: "archive-ec", Recursive: true},
		{Method: "cosign", Key: "archive-ec", Options: map[string]string{"format": "bundle"}, Recursive: true},
	}
	if diff := cmp.Diff(want, p.Steps()[1:]); diff != "" {
		t.Error(diff)
	}
	if !p.NeedsManifests() || release(t, load(t, strict)).NeedsManifests() {
		t.Error("what is below an index is asked for without need, or not where a step signs it")
	}
	conditional := release(t, load(t, strings.Replace(strict, "when: '", "when: 'facts.images.all(i, i.manifests.all(m, m.kind == \"image\")) && ", 1)))
	if !conditional.NeedsManifests() {
		t.Error("a condition about manifests is judged without them")
	}
}

func TestTheOutlineOfTheDesignLoadsAndAsksTheForge(t *testing.T) {
	text, err := os.ReadFile("testdata/outline.yaml")
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile("testdata/outline-base.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := release(t, load(t, string(text), string(base)))
	effect, why := p.Evaluate(strictFacts(t))
	if effect != signing.Deny {
		t.Fatal("allowed without an answer of the forge")
	}
	for _, r := range why.Failures() {
		if strings.Contains(r.Found, "cannot evaluate") {
			t.Errorf("%s is not built", r.Rule)
		}
	}
	want := signing.ForgeQuestion{Run: true, Branches: []string{"refs/heads/main"}, Since: true, Pulls: true, Commit: true, Checks: true, CheckNames: []string{"test", "trivy"}, Inputs: true, PolicyFile: true, BuilderRepository: signing.BuilderOfJob}
	if diff := cmp.Diff(want, p.Question()); diff != "" {
		t.Error(diff)
	}
	rule := signing.ApprovalRule{
		Groups: []signing.ApprovalGroup{
			{Required: 2, From: []string{"ghe.acme.dev:acme/release-managers", "gitlab.acme.dev:acme/release"}},
			{Required: 1, From: []string{"ghe.acme.dev:acme/security"}},
		},
		Exclude: []string{"actor", "author", "pusher"}, Expires: 24 * time.Hour, Supersede: true, DenyEnds: true, Ways: []string{"comment"},
	}
	if diff := cmp.Diff(&rule, p.Approvals()); diff != "" {
		t.Error(diff)
	}
}

// Every field of type config.Raw is a word that is not built: a new one that
// unavailable() forgets would be ignored.
func TestNoKnownWordIsIgnored(t *testing.T) {
	raw := reflect.TypeFor[config.Raw]()
	var walk func(t reflect.Type, path string) []string
	walk = func(t reflect.Type, path string) []string {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			t = t.Elem()
		}
		if t == raw {
			return []string{path}
		}
		var out []string
		if t.Kind() == reflect.Struct {
			for i := range t.NumField() {
				out = append(out, walk(t.Field(i).Type, path+"/"+t.Field(i).Name)...)
			}
		}
		return out
	}
	var set func(v reflect.Value, given reflect.Value)
	set = func(v, given reflect.Value) {
		switch {
		case v.Type() == raw:
			v.Set(given)
		case v.Kind() == reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			set(v.Elem(), given)
		case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			set(v.Index(0), given)
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				set(v.Field(i), given)
			}
		}
	}
	var given struct {
		X config.Raw `yaml:"x"`
	}
	if err := config.Decode("f", []byte("x: 1"), &given); err != nil {
		t.Fatal(err)
	}
	var r rules
	set(reflect.ValueOf(&r).Elem(), reflect.ValueOf(given.X))
	r.Sign[0].Method = methodCosign
	if want, got := walk(reflect.TypeFor[rules](), ""), r.unavailable(); len(got) != len(want) {
		t.Errorf("%d words are not built, %d deny: %v", len(want), len(got), want)
	}
}

func TestBoundsOfWhatIsLoaded(t *testing.T) {
	many := func(n int, f func(i int) string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(f(i))
		}
		return b.String()
	}
	head := "apiVersion: sealwright.dev/v1\nproject: p\nrepositories:\n"
	row := func(i int) string {
		return fmt.Sprintf("  - {forge: github.com, name: acme/r%d, id: \"%d\", images: [\"registry.acme.dev/r%d\"]}\n", i, i, i)
	}
	tail := "policies:\n  release:\n    origin: {refs: [a], github: {events: [push]}}\n    sign: [{method: cosign, key: k}]\n"
	item := func(text string) func(int) string { return func(i int) string { return fmt.Sprintf(text, i) } }
	files := map[string][]byte{}
	for i := range MaxFiles + 1 {
		files[fmt.Sprint(i)] = []byte(strict)
	}
	big := map[string][]byte{}
	for i := range 17 {
		big[fmt.Sprint(i)] = []byte(strings.Repeat("#", config.MaxDocument))
	}
	rows := map[string][]byte{}
	for f := range 3 {
		rows[fmt.Sprint(f)] = []byte(strings.Replace(head, "project: p", fmt.Sprintf("project: p%d", f), 1) + many(MaxRepositories/2, func(i int) string { return row(i + f*MaxRepositories/2) }) + tail)
	}
	one := func(text string) map[string][]byte { return map[string][]byte{"f": []byte(text)} }
	for name, c := range map[string]struct {
		files map[string][]byte
		want  string
	}{
		"no files":     {nil, "there is no policy file"},
		"files":        {files, "at most 5000 are read"},
		"bytes":        {big, "at most 16777216 are read"},
		"repositories": {rows, "more than 10000 repositories"},
		"images":       {one(head + strings.Replace(row(1), `"registry.acme.dev/r1"`, many(MaxImages+1, item(`"registry.acme.dev/r%d",`)), 1) + tail), "1 to 100 images, found 101"},
		"policies":     {one(head + row(1) + "policies:\n" + many(MaxPolicies+1, item("  p%d: {}\n"))), "1 to 50 policies, found 51"},
		"refs":         {one(head + row(1) + strings.Replace(tail, "[a]", "["+many(MaxPatterns+1, item("a%d,"))+"]", 1)), "at most 100 are read"},
		"events":       {one(head + row(1) + strings.Replace(tail, "[push]", "["+many(MaxPatterns+1, item("push%d,"))+"]", 1)), "at most 100 are read"},
		"steps":        {one(head + row(1) + strings.Replace(tail, "[{method: cosign, key: k}]", "["+many(MaxSteps+1, item("{method: cosign, key: k%d},"))+"]", 1)), "1 to 16 ways, found 17"},
		"pattern":      {one(head + row(1) + strings.Replace(tail, "[a]", "["+strings.Repeat("a", maxPattern+1)+"]", 1)), "longer than 256"},
		"regex":        {one(head + row(1) + strings.Replace(tail, "[a]", "[\"regex:"+strings.Repeat("a", maxPattern)+"\"]", 1)), "longer than 256"},
		"when":         {one(head + row(1) + tail + "    when: '" + strings.Repeat(" ", MaxWhen) + "true'\n"), "at most 4096"},
		"when nested":  {one(head + row(1) + tail + "    when: '" + strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200) + "'\n"), "recursion"},
		"globs to compare": {one(head + many(1500, func(i int) string {
			return strings.Replace(row(i), fmt.Sprintf("acme.dev/r%d", i), fmt.Sprintf("acme.dev/*r%d", i), 1)
		}) + tail), "too many image patterns"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(c.files)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				text := fmt.Sprint(err)
				t.Errorf("got %s, want %q", text[:min(len(text), 300)], c.want)
			}
		})
	}
}

func TestThousandsOfRepositoriesAreFoundByTheirIDs(t *testing.T) {
	const n = 3000
	files := map[string][]byte{}
	for p := range 3 {
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: sealwright.dev/v1\nproject: p%d\nrepositories:\n", p)
		for i := p; i < n; i += 3 {
			fmt.Fprintf(&b, "  - {forge: github.com, name: acme/r%d, id: \"%d\", images: [\"registry.acme.dev/r%d\", \"registry.acme.dev/r%d/*\"]}\n", i, i+1, i, i)
		}
		b.WriteString("policies:\n  release:\n    origin: {refs: [a], github: {events: [push]}}\n    sign: [{method: cosign, key: k}]\n")
		files[fmt.Sprintf("p%d.yaml", p)] = []byte(b.String())
	}
	s, err := Load(files)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		p, err := s.Find(signing.Origin{Forge: "github.com", SourceRepositoryIdentifier: fmt.Sprint(i + 1)}, "release")
		if err != nil || p.Project() != fmt.Sprintf("p%d", i%3) {
			t.Fatalf("repository %d: %v, %v", i, p, err)
		}
	}
}

func TestEvaluateMayRunInSeveralGoroutines(t *testing.T) {
	p, f := release(t, load(t, strict)), strictFacts(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			f, want := f, signing.Allow
			if i%2 == 0 {
				f.Origin.BuildTrigger, want = "pull_request_target", signing.Deny
			}
			for range 20 {
				if effect, why := p.Evaluate(f); effect != want {
					t.Errorf("%s: %v", effect, why.Failures())
				}
			}
		})
	}
	wg.Wait()
}
