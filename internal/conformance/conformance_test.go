//go:build conformance

package conformance

import (
	"crypto"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld"
)

// format is one form of signatures, with all that is held against each other.
type format struct {
	name  string
	title string // of its table
	// signers are the programs of others that make it. They come first: they prove
	// the harness. step is how our service makes it, kinds the kinds of key with
	// which it does so when SEALWRIGHT_CONFORMANCE is all.
	signers   []signer
	step      string
	kinds     map[string]func() (crypto.Signer, error)
	verifiers []verifier
	mutations []mutation
	// stranger makes what verifiers need to trust a signer who signed nothing; nil
	// is the public key of a cosign key pair.
	stranger func(*testing.T) string
	// elsewhere says that signatures are not in the registry, whose kind is then all
	// the same.
	elsewhere bool
}

func formats() []format { return []format{legacy(), bundles(), notary(), simpleFormat()} }

// names returns those of the verifiers.
func (f format) names() []string {
	var out []string
	for _, v := range f.verifiers {
		out = append(out, v.name)
	}
	return out
}

// everySigner is the programs of others and our service.
func (f format) everySigner() []signer {
	if f.step == "" { // the format brings our service along
		return f.signers
	}
	out := append(slices.Clone(f.signers), serviceSigner("sealwright", f.step, nil))
	if os.Getenv("SEALWRIGHT_CONFORMANCE") == "all" {
		for _, kind := range slices.Sorted(maps.Keys(f.kinds)) {
			out = append(out, serviceSigner("sealwright-"+kind, f.step, f.kinds[kind]))
		}
	}
	return out
}

func push(t *testing.T, host, content string) devworld.Image {
	t.Helper()
	image, err := devworld.PushImage(t.Context(), host, devworld.ImageSpec{Repository: "payments/app", Content: content})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func check(t *testing.T, v verifier, ref, public string, accept bool) {
	t.Helper()
	if got, said := v.verify(t, ref, public); got != accept {
		t.Errorf("%s: accepted %v, want %v; it said:\n%s", v.name, got, accept, said)
	}
}

func TestSignaturesAreAcceptedAndTheirTamperedTwinsRefusedAsTheTableSays(t *testing.T) {
	_, _, stranger := keyPair(t)
	hosts := registries(t)
	for _, f := range formats() {
		stranger := stranger
		if f.stranger != nil {
			stranger = f.stranger(t)
		}
		for _, kind := range slices.Sorted(maps.Keys(hosts)) {
			if f.elsewhere && kind != "with-referrers" {
				continue
			}
			for _, s := range f.everySigner() {
				host := hosts[kind]
				h := s.open(t, host)
				for _, m := range f.mutations {
					t.Run(f.name+"/"+kind+"/"+s.name+"/"+m.name, func(t *testing.T) {
						content := f.name + " " + s.name + " " + m.name
						x := signed{image: push(t, host, content), other: push(t, host, "not "+content), public: h.public, key: h.key, strangerPublic: stranger, host: host}
						for _, v := range f.verifiers {
							check(t, v, x.image.Reference(), x.public, false) // unsigned
						}
						if err := h.sign(x.image.Reference()); err != nil {
							t.Fatal(err)
						}
						for _, v := range f.verifiers {
							check(t, v, x.image.Reference(), x.public, slices.Contains(f.mutations[0].accepts, v.name)) // before it is tampered with
						}
						ref, key := m.make(t, x)
						for _, v := range f.verifiers {
							check(t, v, ref, key, slices.Contains(m.accepts, v.name))
						}
					})
				}
			}
		}
	}
}

// containers/image's default identity wants the signed tag, which is what
// `docker-reference` with a tag is for.
func TestSignedTagIsWhatTheDefaultIdentityOfContainersImageWants(t *testing.T) {
	byDefault := verifier{name: "image, matchRepoDigestOrExact", verify: imageVerify("matchRepoDigestOrExact")}
	hosts := registries(t)
	for _, kind := range slices.Sorted(maps.Keys(hosts)) {
		for _, s := range legacy().everySigner() {
			t.Run(kind+"/"+s.name, func(t *testing.T) {
				host := hosts[kind]
				h := s.open(t, host)
				for tag, accept := range map[string]bool{"v1.0.0": true, "": false} {
					image, err := devworld.PushImage(t.Context(), host, devworld.ImageSpec{Repository: "payments/app", Tag: "v1.0.0", Content: s.name + " tag " + tag})
					if err != nil {
						t.Fatal(err)
					}
					ref := image.Repository
					if tag != "" {
						ref += ":" + tag
					}
					if err := h.sign(ref + "@" + image.Digest); err != nil {
						t.Fatal(err)
					}
					check(t, byDefault, image.Repository+":v1.0.0", h.public, accept)
				}
			})
		}
	}
}

func TestTheTablesInTheDocumentationAreTheOnesThatWereTested(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range formats() {
		begin, end := "<!-- table "+f.name+": begin -->\n", "<!-- table "+f.name+": end -->\n"
		_, rest, ok := strings.Cut(string(doc), begin)
		got, _, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Errorf("docs/conformance.md has no table between %q and %q", begin, end)
			continue
		}
		if want := f.table(); got != want {
			t.Errorf("docs/conformance.md differs; the table is:\n%s", want)
		}
	}
}

// table renders mutation x verifier as Markdown.
func (f format) table() string {
	var b strings.Builder
	b.WriteString("| " + f.title + " |")
	for _, v := range f.verifiers {
		fmt.Fprintf(&b, " %s |", v.name)
	}
	b.WriteString(" why it may be accepted |\n|---|" + strings.Repeat("---|", len(f.verifiers)+1) + "\n")
	for _, m := range f.mutations {
		fmt.Fprintf(&b, "| **%s**: %s |", m.name, m.what)
		for _, v := range f.verifiers {
			verdict := "refused"
			if slices.Contains(m.accepts, v.name) {
				verdict = "accepted"
			}
			fmt.Fprintf(&b, " %s |", verdict)
		}
		fmt.Fprintf(&b, " %s |\n", m.why)
	}
	b.WriteString("\n")
	for _, v := range f.verifiers {
		fmt.Fprintf(&b, "- %s: %s\n", v.name, v.what)
	}
	return b.String()
}
