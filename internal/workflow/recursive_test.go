package workflow_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/method/methodtest"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// everything signs what is below an index as well, in both formats of cosign.
var everything = strings.Replace(testenv.Policy, "key: release}", "key: release, recursive: true, formats: [legacy, bundle]}", 1)

// shelf puts manifests into the repository of an Env by hand.
type shelf struct {
	*testing.T
	world *methodtest.World
}

func newShelf(t *testing.T, e *testenv.Env) shelf {
	return shelf{t, &methodtest.World{Host: e.World.Registry.Host}}
}

func (s shelf) blob(mediaType, content string) methodtest.Descriptor {
	return s.world.Blob(s, "payments/web", mediaType, content)
}

func (s shelf) put(mediaType string, manifest map[string]any) (signing.Artifact, methodtest.Descriptor) {
	a, d := s.world.Put(s, "payments/web", mediaType, manifest)
	a.MediaType, a.Size = "", 0 // as a job submits it
	return a, d
}

// artifact puts a manifest that is no container image.
func (s shelf) artifact(artifactType, config, content string) (signing.Artifact, methodtest.Descriptor) {
	m := map[string]any{"config": s.blob(config, "{}"), "layers": []any{s.blob("application/octet-stream", content)}}
	if artifactType != "" {
		m["artifactType"] = artifactType
	}
	return s.put(registry.MediaTypeImage, m)
}

func TestRecursiveRequestSignsWhatIsBelowAnIndex(t *testing.T) {
	for _, referrers := range []bool{true, false} {
		t.Run(fmt.Sprintf("referrers=%t", referrers), func(t *testing.T) {
			e := testenv.New(t, testenv.Options{Policy: everything, NoReferrers: !referrers})
			s := e.Start(nil)
			put := newShelf(t, e)
			_, chart := put.artifact("", "application/vnd.cncf.helm.config.v1+json", "chart")
			_, sbom := put.artifact("application/spdx+json", registry.MediaTypeEmpty, "sbom")
			_, inner := put.put(registry.MediaTypeIndex, map[string]any{"manifests": []any{sbom, chart}})
			foreign := methodtest.Descriptor{MediaType: "application/vnd.acme.notes", Digest: signing.DigestOf([]byte("notes")), Size: 5}
			index, _ := put.put(registry.MediaTypeIndex, map[string]any{"manifests": []any{chart, inner, foreign}})

			r, capability := submit(t, s, "k", index)
			if r = finish(t, s, r.ID, capability); r.State != signing.Completed {
				t.Fatalf("%s: %+v", r.State, r.Failure)
			}
			// Index, inner index, chart and SBOM, each in two formats.
			var below []string
			for _, k := range r.Tasks {
				if k.Below {
					below = append(below, k.Artifact.Digest+" "+k.Format)
				}
			}
			var want []string
			for _, d := range []signing.Digest{chart.Digest, inner.Digest, sbom.Digest} {
				want = append(want, string(d)+" ", string(d)+" bundle")
			}
			if len(r.Tasks) != 8 || !slices.Equal(below, want) {
				t.Errorf("%d tasks, below %v, want %v", len(r.Tasks), below, want)
			}
			for _, d := range []signing.Digest{index.Digest, inner.Digest, chart.Digest, sbom.Digest} {
				if n := verified(t, s, "release", signing.Artifact{Repository: index.Repository, Digest: d}); n != 2 {
					t.Errorf("%s has %d signatures", d, n)
				}
			}
			if n := e.Signatures(signing.Artifact{Repository: index.Repository, Digest: foreign.Digest}); n != 0 {
				t.Error("what is no manifest was signed")
			}
			stored, _, err := state(t, s, r.ID)
			ok(t, err)
			if !slices.ContainsFunc(stored.Decision.Observations, func(o signing.Observation) bool {
				return strings.Contains(o.What, string(foreign.Digest)) && strings.Contains(o.What, "left alone")
			}) {
				t.Errorf("nobody is told what was left alone: %+v", stored.Decision.Observations)
			}
			// The log names every digest that the key signed.
			logged := map[string]int{}
			for _, ev := range s.VerifyLog() {
				if ev.Kind == audit.TaskPublished {
					logged[ev.Attrs["digest"]]++
				}
			}
			if len(logged) != 4 || logged[string(sbom.Digest)] != 2 {
				t.Errorf("logged: %v", logged)
			}
			quiet(t, e, s)

			// The same again finds everything there.
			uses := e.KeyUses()
			r, capability = ask(t, s, runOf(1), "k", "release", index)
			if r = finish(t, s, r.ID, capability); r.State != signing.Completed || e.KeyUses() != uses {
				t.Errorf("ended %s after %d more key uses", r.State, e.KeyUses()-uses)
			}
		})
	}
}

func TestOnlyRecursiveStepsReachBelowAnIndex(t *testing.T) {
	policy := strings.Replace(testenv.Policy, "      - {method: cosign, key: release}", "      - {method: cosign, key: release}\n      - {method: cosign, key: k0, recursive: true}", 1)
	e := testenv.New(t, testenv.Options{Policy: policy, Keys: `
  - {id: release, file: "file:DIR/release.key", methods: [cosign], allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]}
  - {id: k0, file: "file:DIR/k0.key", methods: [cosign], allow: [{project: payments, policy: release, repositories: ["HOST/payments/*"]}]}
`})
	e.MakeKey("k0.key")
	s := e.Start(nil)
	index := e.Image("an index of two images")
	r, capability := submit(t, s, "k", index)
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed || len(r.Tasks) != 4 {
		t.Fatalf("%s with %d tasks: %+v", r.State, len(r.Tasks), r.Failure)
	}
	for _, k := range r.Tasks {
		if k.Below && k.Key != "k0" {
			t.Errorf("%s was signed with %s", k.Artifact.Digest, k.Key)
		}
	}
}

func TestIndexWhosePartsAreMissingIsDeniedOnlyIfTheyAreNeeded(t *testing.T) {
	for policy, want := range map[string]signing.RequestState{
		everything:     signing.RequestDenied,
		testenv.Policy: signing.Completed,
		testenv.Policy + "    when: 'facts.images.all(i, i.manifests.exists(m, m.kind == \"image\"))'\n": signing.RequestDenied,
	} {
		e := testenv.New(t, testenv.Options{Policy: policy})
		s := e.Start(nil)
		put := newShelf(t, e)
		_, there := put.artifact("application/spdx+json", registry.MediaTypeEmpty, "sbom")
		gone, d := put.artifact("application/spdx+json", registry.MediaTypeEmpty, "gone")
		index, _ := put.put(registry.MediaTypeIndex, map[string]any{"manifests": []any{there, d}})
		put.world.Delete(t, gone)
		r, capability := submit(t, s, "k", index)
		if r = finish(t, s, r.ID, capability); r.State != want {
			t.Errorf("ended %s: %+v", r.State, r.Failure)
		}
		if want == signing.RequestDenied && (e.KeyUses() != 0 || r.Failure.Expected != string(d.Digest) || !strings.Contains(r.Failure.Message, string(index.Digest))) {
			t.Errorf("%d key uses: %+v", e.KeyUses(), r.Failure)
		}
	}
}

func TestRequestForTooManySignaturesIsDenied(t *testing.T) {
	sign, keys := "", ""
	for i := range 8 {
		sign += fmt.Sprintf("\n      - {method: cosign, key: k%d, recursive: true, formats: [legacy, bundle]}", i)
		keys += fmt.Sprintf("\n  - {id: k%d, file: \"file:DIR/k%d.key\", methods: [cosign], allow: [{project: payments, policy: release, repositories: [\"HOST/payments/*\"]}]}", i, i)
	}
	e := testenv.New(t, testenv.Options{Policy: strings.Replace(testenv.Policy, "\n      - {method: cosign, key: release}", sign, 1), Keys: keys + "\n"})
	for i := range 8 {
		e.MakeKey(fmt.Sprintf("k%d.key", i))
	}
	s := e.Start(nil)
	put := newShelf(t, e)
	index := func(from, to int) signing.Artifact {
		var entries []any
		for i := from; i < to; i++ {
			_, d := put.artifact("application/spdx+json", registry.MediaTypeEmpty, fmt.Sprint(i))
			entries = append(entries, d)
		}
		a, _ := put.put(registry.MediaTypeIndex, map[string]any{"manifests": entries})
		return a
	}
	r, capability := submit(t, s, "k", index(0, 128), index(128, 255))
	r = finish(t, s, r.ID, capability)
	if r.State != signing.RequestDenied || e.KeyUses() != 0 || len(r.Tasks) != 0 {
		t.Fatalf("%s with %d tasks", r.State, len(r.Tasks))
	}
	found := ""
	for _, leaf := range r.Decision.Reasons.Failures() {
		found += leaf.Rule + ": " + leaf.Found + ". " + leaf.Fix
	}
	if !strings.Contains(found, "4112: 2 artifacts in 16 ways, and 255 manifests below them in 16") || !strings.Contains(found, "split the submission") {
		t.Errorf("found %s", found)
	}
}

// Helm pushes a chart as a manifest with a config and a layer of its own; an
// artifact by ORAS has an empty config.
func TestEveryKindOfManifestIsSigned(t *testing.T) {
	e := testenv.New(t, testenv.Options{Policy: everything})
	s := e.Start(nil)
	put := newShelf(t, e)
	chart, _ := put.artifact("", "application/vnd.cncf.helm.config.v1+json", "chart")
	sbom, _ := put.artifact("application/spdx+json", registry.MediaTypeEmpty, "sbom")
	docker, _ := put.put(registry.MediaTypeDockerImage, map[string]any{
		"config": put.blob("application/vnd.docker.container.image.v1+json", `{"os":"linux","architecture":"amd64"}`),
		"layers": []any{put.blob("application/vnd.docker.image.rootfs.diff.tar.gzip", "layer")},
	})
	list := []signing.Artifact{chart, sbom, docker}
	r, capability := submit(t, s, "k", list...)
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed {
		t.Fatalf("%s: %+v", r.State, r.Failure)
	}
	for _, a := range list {
		if n := verified(t, s, "release", a); n != 2 {
			t.Errorf("%s has %d signatures", a, n)
		}
	}
	if len(r.Tasks) != 6 || slices.ContainsFunc(r.Tasks, func(k api.Task) bool { return k.Below }) {
		t.Errorf("%d tasks", len(r.Tasks))
	}
}
