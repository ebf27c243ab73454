package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/sealwright/sealwright/internal/signing"
)

// oracle is the meaning of a glob, written as plainly as possible.
func oracle(glob, s string) bool {
	switch {
	case glob == "":
		return s == ""
	case strings.HasPrefix(glob, "**"):
		return oracle(glob[2:], s) || s != "" && oracle(glob, s[1:])
	case glob[0] == '*':
		return oracle(glob[1:], s) || s != "" && s[0] != '/' && oracle(glob, s[1:])
	default:
		return s != "" && s[0] == glob[0] && oracle(glob[1:], s[1:])
	}
}

// words returns every text of up to n characters of the alphabet.
func words(alphabet string, n int) []string {
	out := []string{""}
	for level := out; n > 0; n-- {
		var next []string
		for _, w := range level {
			for _, c := range alphabet {
				next = append(next, w+string(c))
			}
		}
		out, level = append(out, next...), next
	}
	return out
}

func TestGlobsMatchLikeTheirDefinition(t *testing.T) {
	texts := words("a/.", 5)
	for _, g := range words("a/*.", 4) {
		p, err := compileGlob(g)
		if err != nil {
			continue
		}
		for _, s := range texts {
			if got, want := p.match(s), oracle(g, s); got != want {
				t.Fatalf("%q on %q: got %v, want %v", g, s, got, want)
			}
		}
	}
}

func TestGlobsOverlapExactlyWhenATextMatchesBoth(t *testing.T) {
	texts := words("a/b", 6)
	globs := slices.DeleteFunc(words("a/*b", 3), func(g string) bool { return g == "" || strings.Contains(g, "***") })
	globs = append(globs, "a**b", "**a*", "*/**", "**/a", "a*b*", "*a*b", "a/**/b", "b**/a")
	for i, a := range globs {
		for _, b := range globs[i:] {
			want := slices.ContainsFunc(texts, func(s string) bool { return oracle(a, s) && oracle(b, s) })
			if got, mirrored := overlap(a, b), overlap(b, a); got != want || mirrored != want {
				t.Fatalf("%q and %q: got %v and %v, want %v", a, b, got, mirrored, want)
			}
		}
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("refs/heads/*", "refs/heads/main")
	f.Add("registry.acme.dev/**/web", "registry.acme.dev/a/b/web")
	f.Add("**", "\n/\xff")
	f.Add("a.b", "axb")
	f.Add("***", "")
	f.Fuzz(func(t *testing.T, glob, s string) {
		p, err := compileGlob(glob)
		if err != nil || len(s) > 40 || strings.Count(glob, "*") > 8 {
			return
		}
		if got, want := p.match(s), oracle(glob, s); got != want {
			t.Fatalf("%q on %q: got %v, want %v", glob, s, got, want)
		}
		if p.match(s) && p.re == nil && s != glob {
			t.Fatalf("literal %q matches %q", glob, s)
		}
		if other, err := compileGlob(s); err == nil && other.re == nil && overlap(glob, s) != oracle(glob, s) {
			t.Fatalf("overlap of %q with the literal %q is not its match", glob, s)
		}
	})
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(strict))
	for _, name := range []string{"load/patterns", "load/overlaps", "load/events", "evaluate/unavailable", "evaluate/gitlab", "evaluate/when", "evaluate/kind", "evaluate/github-builder-foreign", "evaluate/owner", "evaluate/group", "evaluate/freeze", "evaluate/revision-label", "evaluate/kinds-other", "load/rows", "load/freeze", "load/kinds"} {
		ar, err := txtar.ParseFile("testdata/" + name + ".txtar")
		if err != nil {
			f.Fatal(err)
		}
		for _, text := range policies(ar) {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Load(map[string][]byte{"f": data})
		if err != nil {
			return
		}
		again, err := Load(map[string][]byte{"g": data})
		if err != nil || again.Digest() != s.Digest() {
			t.Fatalf("not the same twice: %v", err)
		}
		for _, p := range s.Policies() {
			if effect, why := p.Evaluate(signing.Facts{}); effect != signing.Deny || why.Pass {
				t.Fatal("no facts, and allowed")
			}
			if len(p.Steps()) == 0 || p.Digest().Validate() != nil {
				t.Fatal("a policy without steps or digest")
			}
		}
	})
}

// required returns the texts without which the strict policy must deny.
func required(f *signing.Facts) []*string {
	o, a := &f.Origin, &f.Images[0].Artifact
	return []*string{
		&f.Policy, (*string)(&f.Identity.Role), &o.Forge, &o.Kind, &o.SourceRepository, &o.SourceRepositoryIdentifier, &o.SourceRepositoryOwnerIdentifier,
		&o.SourceRepositoryRef, &o.BuildConfigURI, &o.BuildSignerURI, &o.BuildTrigger, &o.RunnerEnvironment, &o.DeploymentEnvironment, &o.RunAttempt,
		(*string)(&a.Repository), (*string)(&a.Digest),
	}
}

func TestEveryRequiredFactThatIsMissingDenies(t *testing.T) {
	p := release(t, load(t, strict))
	f := strictFacts(t)
	if effect, why := p.Evaluate(f); effect != signing.Allow {
		t.Fatal(why.Failures())
	}
	for i := range required(&f) {
		f := strictFacts(t)
		field := required(&f)[i]
		was := *field
		for _, text := range []string{"", " ", was + " ", " " + was, was + "\x00", was + "/", was[:len(was)-1]} {
			*field = text
			if effect, _ := p.Evaluate(f); effect != signing.Deny {
				t.Errorf("%q in place of %q: allowed", text, was)
			}
		}
	}
	f.Origin.RefProtected = false
	if effect, _ := p.Evaluate(f); effect != signing.Deny {
		t.Error("not protected: allowed")
	}
}

// FuzzEvaluate changes one fact of an allowed build to any text. The decision
// must be what a plain comparison says.
func FuzzEvaluate(f *testing.F) {
	for i := range 18 {
		f.Add(uint8(i), "")
		f.Add(uint8(i), "refs/tags/v1")
		f.Add(uint8(i), "release")
		f.Add(uint8(i), "v1")
	}
	f.Add(uint8(7), "refs/heads/main\n")
	f.Add(uint8(8), "https://github.com/acme/payments-web/.github/workflows/release.yml.evil@refs/heads/main")
	f.Add(uint8(10), "pull_request_target")
	p := release(f, load(f, strict))
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		facts := strictFacts(t)
		fields := append(required(&facts), &facts.Images[0].Artifact.Tag)
		i := int(which) % (len(fields) + 1)
		allowed := false
		if i == len(fields) {
			facts.Images[0].Labels["stage"] = text
			allowed = text == "prod"
		} else {
			was := *fields[i]
			*fields[i] = text
			allowed = text == was
			switch fields[i] {
			case &facts.Origin.SourceRepository, &facts.Origin.DeploymentEnvironment:
				allowed = fold(text) == fold(was)
			case &facts.Origin.BuildTrigger:
				allowed = text == "push" || text == "release"
			case (*string)(&facts.Images[0].Artifact.Digest):
				allowed = signing.Digest(text).Validate() == nil
			case &facts.Images[0].Artifact.Tag:
				allowed = text == "" || signing.ValidateTag(text) == nil && (text[0] == 'v' || strings.HasPrefix(text, "20"))
			case &facts.Origin.BuildConfigURI, &facts.Origin.BuildSignerURI:
				// The two must be equal: each alone can only stay as it was.
			}
		}
		effect, why := p.Evaluate(facts)
		if (effect == signing.Allow) != allowed || why.Pass != allowed {
			t.Fatalf("fact %d is %q: %s, %v", i, text, effect, why.Failures())
		}
		if effect != signing.Allow && effect != signing.Deny {
			t.Fatalf("effect %q", effect)
		}
		for _, r := range why.Failures() {
			if len(r.Found) > 3*maxFound || strings.ContainsAny(r.Found, "\n\x1b\x00") {
				t.Fatalf("strangers' text is not bounded: %q", r.Found)
			}
		}
	})
}

// FuzzExtends puts a policy on top of a base. Whatever loads allows nothing that
// the base refuses.
func FuzzExtends(f *testing.F) {
	for _, r := range relations() {
		for _, own := range []string{r.tighter, r.looser} {
			f.Add("{"+r.base+"}", "{"+own+"}")
		}
	}
	f.Add("{}", "{origin: {refs: [a], github: {events: [push]}}, sign: [{method: cosign, key: k}]}")
	f.Fuzz(func(t *testing.T, base, own string) {
		files, plain := withBase(base, own)
		child, err := Load(files)
		if err != nil {
			return
		}
		parent, err := Load(plain)
		if err != nil {
			return // it leaves something to the project: there is nothing to compare with
		}
		c, ok := child.Policy("payments", "release")
		b, ok2 := parent.Policy("payments", "release")
		if !ok || !ok2 {
			return
		}
		noWider(t, b, c)
	})
}
