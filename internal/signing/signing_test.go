package signing

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestRepositoriesNeedAHostThatCannotBeMistaken(t *testing.T) {
	good := []string{"registry.acme.dev/payments/web", "localhost/a", "127.0.0.1:5000/a/b", "[::1]:5000/a", "r.io/a__b/c-d.e"}
	for _, r := range good {
		if err := Repository(r).Validate(); err != nil {
			t.Errorf("%q refused: %v", r, err)
		}
	}
	bad := []string{"", "web", "payments/web", "r.io", "r.io/", "r.io//web", "r.io/Web", "r.io/../x", "r.io/a/", "/a", "r.io/a:b", "r.io/a@sha256:0", "r.io:port/a", "-r.io/a", "r.io/" + strings.Repeat("a", 255), "r.io/a\nb", "http://r.io/a"}
	for _, r := range bad {
		if err := Repository(r).Validate(); !errors.Is(err, Invalid) {
			t.Errorf("%q: got %v, want invalid", r, err)
		}
	}
}

func TestDigestsAreLowerCaseSHA256Only(t *testing.T) {
	h := strings.Repeat("0a", 32)
	if err := Digest("sha256:" + h).Validate(); err != nil {
		t.Error(err)
	}
	for _, d := range []string{"", h, "sha256:" + strings.ToUpper(h), "sha256:" + h[1:], "sha256:" + h + "0", "sha512:" + h + h, "sha256:" + h + "\n"} {
		if err := Digest(d).Validate(); !errors.Is(err, Invalid) {
			t.Errorf("%q: got %v, want invalid", d, err)
		}
	}
}

func TestReferencesSplitIntoWhatTheyName(t *testing.T) {
	h := "sha256:" + strings.Repeat("0a", 32)
	for in, want := range map[string]Artifact{
		"r.io/a":                {Repository: "r.io/a"},
		"r.io:5000/a/b":         {Repository: "r.io:5000/a/b"},
		"r.io/a:v1":             {Repository: "r.io/a", Tag: "v1"},
		"localhost:5000/a:v1":   {Repository: "localhost:5000/a", Tag: "v1"},
		"r.io/a@" + h:           {Repository: "r.io/a", Digest: Digest(h)},
		"r.io:5000/a:v1.2@" + h: {Repository: "r.io:5000/a", Tag: "v1.2", Digest: Digest(h)},
	} {
		got, err := ParseReference(in)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "a", "r.io/a:", "r.io/a@", "r.io/a@" + h + "@" + h, "r.io/a:v1:v2", "r.io/a:-x", strings.Repeat("a", 1000)} {
		if got, err := ParseReference(in); err == nil {
			t.Errorf("%q was read as %+v", in, got)
		}
	}
}

func FuzzReference(f *testing.F) {
	f.Add("r.io:5000/a/b:v1@sha256:" + strings.Repeat("0a", 32))
	f.Add("localhost/a@")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseReference(s)
		if err != nil {
			return
		}
		back := string(a.Repository)
		if a.Tag != "" {
			back += ":" + a.Tag
		}
		if a.Digest != "" {
			back += "@" + string(a.Digest)
		}
		if back != s {
			t.Errorf("%q was read as %q", s, back)
		}
	})
}

func TestEveryStateIsReachableAndEndsSomewhere(t *testing.T) {
	seen := map[RequestState]bool{}
	var walk func(RequestState)
	walk = func(s RequestState) {
		if seen[s] {
			return
		}
		seen[s] = true
		for _, to := range RequestStates() {
			if s.CanBecome(to) {
				walk(to)
			}
		}
	}
	walk(Pending)
	for _, s := range RequestStates() {
		if !seen[s] {
			t.Errorf("%s cannot be reached from pending", s)
		}
	}
	terminal := map[RequestState]bool{Completed: true, Failed: true, RequestDenied: true, Canceled: true, RequestExpired: true}
	for _, s := range RequestStates() {
		if s.Terminal() != terminal[s] {
			t.Errorf("%s: terminal is %v", s, s.Terminal())
		}
	}
}

// The table of the design, section 5, written down a second time on purpose.
func TestNoOtherMoveThanTheDesignsIsLegal(t *testing.T) {
	requests := "pending>ready pending>awaiting_approval pending>denied pending>canceled pending>expired " +
		"awaiting_approval>ready awaiting_approval>denied awaiting_approval>canceled awaiting_approval>expired " +
		"ready>signing ready>denied ready>canceled ready>expired signing>completed signing>failed "
	for _, from := range RequestStates() {
		for _, to := range RequestStates() {
			want := strings.Contains(requests, fmt.Sprintf("%s>%s ", from, to))
			if from.CanBecome(to) != want {
				t.Errorf("%s -> %s: got %v", from, to, !want)
			}
		}
	}
	tasks := "queued>prepared queued>published queued>failed prepared>signed prepared>queued prepared>failed " +
		"signed>published signed>delivered signed>signed signed>queued signed>failed delivered>published "
	for _, from := range TaskStates() {
		for _, to := range TaskStates() {
			want := strings.Contains(tasks, fmt.Sprintf("%s>%s ", from, to))
			if from.CanBecome(to) != want {
				t.Errorf("task %s -> %s: got %v", from, to, !want)
			}
		}
	}
	if RequestState("signed").Valid() || TaskState("pending").Valid() || RequestState("x").CanBecome(Ready) {
		t.Error("an unknown state is accepted")
	}
}

func TestAStatementMustEqualTheArtifactInEveryPart(t *testing.T) {
	a := Artifact{Repository: "r.io/a", Digest: DigestOf([]byte("a")), Tag: "v1"}
	same := Statement{Repository: a.Repository, Digest: a.Digest, Tag: a.Tag}
	if err := same.Matches(a); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Statement){
		func(s *Statement) { s.Repository = "r.io/b" },
		func(s *Statement) { s.Digest = DigestOf([]byte("b")) },
		func(s *Statement) { s.Tag = "" },
		func(s *Statement) { s.Tag = "v2" },
		func(s *Statement) { s.MediaType = "application/vnd.oci.image.index.v1+json" },
		func(s *Statement) { s.Size = 1 },
	} {
		other := same
		change(&other)
		if err := other.Matches(a); !errors.Is(err, Denied) {
			t.Errorf("%+v: got %v, want denied", other, err)
		}
	}
}

func TestTheBasisDigestChangesWithEveryPartOfTheBasis(t *testing.T) {
	base := func() Basis {
		return Basis{Format: 1, Project: "p", Policy: "release", PolicyDigest: "sha256:1", Artifacts: []Artifact{{Repository: "r.io/a", Digest: "sha256:2"}},
			Steps: []Step{{Method: "cosign", Key: "k", KeyVersion: "1"}}, Origin: Origin{SourceRepositoryIdentifier: "74"}}
	}
	want, err := base().Digest()
	if err != nil {
		t.Fatal(err)
	}
	again, _ := base().Digest()
	if want != again {
		t.Error("the digest of the same basis differs")
	}
	for name, change := range map[string]func(*Basis){
		"project":     func(b *Basis) { b.Project = "q" },
		"policy":      func(b *Basis) { b.Policy = "test" },
		"rules":       func(b *Basis) { b.PolicyDigest = "sha256:9" },
		"artifact":    func(b *Basis) { b.Artifacts[0].Digest = "sha256:9" },
		"tag":         func(b *Basis) { b.Artifacts[0].Tag = "v1" },
		"child":       func(b *Basis) { b.Children = []Artifact{{Repository: "r.io/a", Digest: "sha256:3"}} },
		"recursion":   func(b *Basis) { b.Steps[0].Recursive = true },
		"method":      func(b *Basis) { b.Steps[0].Method = "notation" },
		"key version": func(b *Basis) { b.Steps[0].KeyVersion = "2" },
		"options":     func(b *Basis) { b.Steps[0].Options = map[string]string{"a": "b"} },
		"origin":      func(b *Basis) { b.Origin.SourceRepositoryDigest = "c" },
	} {
		b := base()
		change(&b)
		if got, _ := b.Digest(); got == want {
			t.Errorf("another %s leaves the digest as it was", name)
		}
	}
}

func TestTasksAreEveryStepForArtifactsAndRecursiveOnesForWhatIsBelow(t *testing.T) {
	b := Basis{
		Artifacts: []Artifact{{Digest: "sha256:a"}, {Digest: "sha256:b"}},
		Children:  []Artifact{{Digest: "sha256:c"}},
		Steps:     []Step{{Method: "cosign", Key: "k"}, {Method: "notation", Key: "x", Recursive: true}},
	}
	var got []string
	for _, task := range b.Tasks("sr_1") {
		if task.State != Queued || task.RequestID != "sr_1" {
			t.Errorf("%+v", task)
		}
		got = append(got, fmt.Sprintf("%s %s %s", task.ID, task.Step.Method, task.Artifact.Digest))
	}
	want := "sr_1.1 cosign sha256:a, sr_1.2 notation sha256:a, sr_1.3 cosign sha256:b, sr_1.4 notation sha256:b, sr_1.5 notation sha256:c"
	if strings.Join(got, ", ") != want {
		t.Errorf("got %s", strings.Join(got, ", "))
	}
}

func TestARequestHasABoundedNumberOfTasks(t *testing.T) {
	b := Basis{Artifacts: make([]Artifact, 1), Children: make([]Artifact, MaxTasks-2), Steps: []Step{{Recursive: true}, {}}}
	if n := len(b.Tasks("sr_1")); n != MaxTasks || b.CheckSize() != nil {
		t.Errorf("%d tasks: %v", n, b.CheckSize())
	}
	b.Children = append(b.Children, Artifact{})
	err := b.CheckSize()
	if !errors.Is(err, TooLarge) || !strings.Contains(err.Error(), "4097: 1 artifacts in 2 ways, and 4095 manifests below them in 1") {
		t.Errorf("got %v", err)
	}
	if n := len(b.Tasks("sr_1")); n != MaxTasks+1 {
		t.Errorf("the size that is checked is not that of the list, %d", n)
	}
}

func TestWhatIsBelowIndexesIsListedOnce(t *testing.T) {
	m := func(digest Digest, kind string) Manifest {
		return Manifest{Artifact: Artifact{Repository: "r.io/a", Digest: digest}, Kind: kind}
	}
	f := Facts{Images: []Image{
		{Artifact: Artifact{Repository: "r.io/a", Digest: "sha256:1"}, Kind: KindIndex, Manifests: []Manifest{m("sha256:2", KindImage), m("sha256:3", KindForeign), m("sha256:4", KindIndex), m("sha256:5", KindAttestation), m("sha256:6", KindImage)}},
		{Artifact: Artifact{Repository: "r.io/a", Digest: "sha256:7"}, Kind: KindIndex, Manifests: []Manifest{m("sha256:2", KindImage)}},
		{Artifact: Artifact{Repository: "r.io/a", Digest: "sha256:2", Tag: "v1"}, Kind: KindImage}, // signed with its tag: another task
		{Artifact: Artifact{Repository: "r.io/a", Digest: "sha256:6"}, Kind: KindImage},
		{Artifact: Artifact{Repository: "r.io/b", Digest: "sha256:4"}, Kind: KindImage},
	}}
	var got []string
	for _, a := range f.Children() {
		got = append(got, a.String())
	}
	if s := strings.Join(got, " "); s != "r.io/a@sha256:2 r.io/a@sha256:4 r.io/a@sha256:5" {
		t.Errorf("got %s", s)
	}
	var parts []string
	for _, p := range append(f.Images[0].Parts(), f.Images[3].Parts()...) {
		parts = append(parts, string(p.Artifact.Digest))
	}
	// What is foreign counts: nothing is known of it, so that rules refuse it.
	if s := strings.Join(parts, " "); s != "sha256:2 sha256:3 sha256:6 sha256:6" {
		t.Errorf("got %s", s)
	}
	if n := len((Image{Kind: KindIndex}).Parts()); n != 0 {
		t.Errorf("an index that nobody looked into has %d parts", n)
	}
}

func TestErrorsShowTheirCodeAndHideTheirCause(t *testing.T) {
	cause := errors.New("secret detail")
	err := fmt.Errorf("doing x: %w", &Error{Code: Denied, Message: "no", Expected: "a", Found: "b", Fix: "c", Err: cause})
	if !errors.Is(err, Denied) || errors.Is(err, NotFound) || !errors.Is(err, cause) {
		t.Error("errors.Is does not see code and cause")
	}
	shown, _ := json.Marshal(Public(err))
	if strings.Contains(string(shown), "secret") || Public(err).Code != Denied {
		t.Errorf("shown: %s", shown)
	}
	if p := Public(cause); p.Code != Internal || strings.Contains(p.Error(), "secret") {
		t.Errorf("shown: %v", p)
	}
	if Temporary(err) || !Temporary(&Error{Code: RateLimited}) || !Temporary(&Error{Code: Unavailable}) || Temporary(cause) {
		t.Error("wrong errors are temporary")
	}
}

func TestRequestIDsUseAllTheirRandomnessAndNoAmbiguousLetter(t *testing.T) {
	id, err := NewRequestID(bytes.NewReader(bytes.Repeat([]byte{31}, 16)))
	if err != nil || id != "sr_ZZZZZZZZZZZZZZZZ" || !ValidRequestID(id) {
		t.Errorf("got %q, %v", id, err)
	}
	if _, err := NewRequestID(bytes.NewReader(make([]byte, 15))); err == nil {
		t.Error("too little randomness is accepted")
	}
	for _, bad := range []string{"", "sr_", "sr_ZZZZZZZZZZZZZZZ", "sr_zzzzzzzzzzzzzzzz", "sr_ZZZZZZZZZZZZZZZI", "sr_ZZZZZZZZZZZZZZZZZ", "sr_ZZZZZZZZZZZZZZZ/"} {
		if ValidRequestID(bad) {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestAReasonNamesTheLeavesThatFailed(t *testing.T) {
	r := Reason{Rule: "policy", Children: []Reason{
		{Rule: "a", Pass: true},
		{Rule: "b", Children: []Reason{{Rule: "b.1", Pass: true}, {Rule: "b.2"}}},
		{Rule: "c"},
	}}
	var got []string
	for _, f := range r.Failures() {
		got = append(got, f.Rule)
	}
	if strings.Join(got, " ") != "b.2 c" {
		t.Errorf("got %v", got)
	}
	odd := Reason{Rule: "x", Children: []Reason{{Rule: "y", Pass: true}}}
	if f := odd.Failures(); len(f) != 1 || f[0].Rule != "x" {
		t.Errorf("a node that fails by itself is lost: %v", f)
	}
}

func TestTheVersionOfAKeyIsThatOfItsPublicHalf(t *testing.T) {
	k1, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	k2, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	v1, err := KeyInfo{ID: "a", Public: k1.Public()}.Version()
	if err != nil || len(v1) != 64 {
		t.Fatal(v1, err)
	}
	if v, _ := (KeyInfo{ID: "b", Public: k1.Public()}).Version(); v != v1 {
		t.Error("the id changes the version")
	}
	if v, _ := (KeyInfo{ID: "a", Public: k2.Public()}).Version(); v == v1 {
		t.Error("another key has the same version")
	}
	if _, err := (KeyInfo{ID: "a", Public: "no key"}).Version(); err == nil {
		t.Error("something that is no key has a version")
	}
}
