//go:build conformance

package conformance

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/devworld"
)

// signers are held against every mutation and verifier. The cosign CLIs come
// first: they prove the harness. SEALWRIGHT_CONFORMANCE=all adds our service with
// every kind of key.
func signers() []signer {
	out := []signer{
		cosignSigner("cosign2"),
		cosignSigner("cosign3", "--new-bundle-format=false", "--use-signing-config=false"),
		serviceSigner("sealwright", nil),
	}
	if os.Getenv("SEALWRIGHT_CONFORMANCE") == "all" {
		for _, kind := range slices.Sorted(maps.Keys(keyKinds)) {
			out = append(out, serviceSigner("sealwright-"+kind, keyKinds[kind]))
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
	_, stranger := keyPair(t)
	hosts := registries(t)
	for _, kind := range slices.Sorted(maps.Keys(hosts)) {
		for _, s := range signers() {
			host := hosts[kind]
			sign, public := s.open(t, host)
			for _, m := range mutations() {
				t.Run(kind+"/"+s.name+"/"+m.name, func(t *testing.T) {
					content := s.name + " " + m.name
					x := signed{image: push(t, host, content), other: push(t, host, "not "+content), public: public, strangerPublic: stranger, host: host}
					for _, v := range verifiers() {
						check(t, v, x.image.Reference(), public, false) // unsigned
					}
					if err := sign(x.image.Reference()); err != nil {
						t.Fatal(err)
					}
					for _, v := range verifiers() {
						check(t, v, x.image.Reference(), public, true) // before it is tampered with
					}
					ref, key := m.make(t, x)
					for _, v := range verifiers() {
						check(t, v, ref, key, slices.Contains(m.accepts, v.name))
					}
				})
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
		for _, s := range signers() {
			t.Run(kind+"/"+s.name, func(t *testing.T) {
				host := hosts[kind]
				sign, public := s.open(t, host)
				for tag, accept := range map[string]bool{"v1.0.0": true, "": false} {
					image, err := devworld.PushImage(t.Context(), host, devworld.ImageSpec{Repository: "payments/app", Tag: "v1.0.0", Content: s.name + " tag " + tag})
					if err != nil {
						t.Fatal(err)
					}
					ref := image.Repository
					if tag != "" {
						ref += ":" + tag
					}
					if err := sign(ref + "@" + image.Digest); err != nil {
						t.Fatal(err)
					}
					check(t, byDefault, image.Repository+":v1.0.0", public, accept)
				}
			})
		}
	}
}

func TestTheTableInTheDocumentationIsTheOneThatWasTested(t *testing.T) {
	const begin, end = "<!-- table: begin -->\n", "<!-- table: end -->\n"
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(doc), begin)
	got, _, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("docs/conformance.md has no table between %q and %q", begin, end)
	}
	if want := table(); got != want {
		t.Errorf("docs/conformance.md differs; the table is:\n%s", want)
	}
}

// table renders mutation x verifier as Markdown.
func table() string {
	var b strings.Builder
	b.WriteString("| tampered twin |")
	for _, v := range verifiers() {
		fmt.Fprintf(&b, " %s |", v.name)
	}
	b.WriteString(" why it may be accepted |\n|---|" + strings.Repeat("---|", len(verifiers())+1) + "\n")
	for _, m := range mutations() {
		fmt.Fprintf(&b, "| **%s**: %s |", m.name, m.what)
		for _, v := range verifiers() {
			verdict := "refused"
			if slices.Contains(m.accepts, v.name) {
				verdict = "accepted"
			}
			fmt.Fprintf(&b, " %s |", verdict)
		}
		fmt.Fprintf(&b, " %s |\n", m.why)
	}
	b.WriteString("\n")
	for _, v := range verifiers() {
		fmt.Fprintf(&b, "- %s: %s\n", v.name, v.what)
	}
	return b.String()
}
