package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// places is where signatures are looked for.
type places struct {
	registry *registry.Client
	// lookaside is a base for simple signatures, in place of what the service says.
	lookaside string
	insecure  bool // plain http to loopback hosts
}

// technologies returns every method whose published signatures this program lists,
// for what t trusts.
func (p places) technologies(t api.Trust) (map[string]method.Finder, error) {
	out := map[string]method.Finder{cosign.Name: cosign.New(p.registry), notation.Name: notation.New(p.registry)}
	if list := itemOf(t, dct.Name, dct.PlacesFile); list != nil {
		m, err := dct.Read(list, time.Now)
		if err != nil {
			return nil, err
		}
		out[dct.Name] = m
	}
	document, err := p.document(t)
	if err != nil || document == nil {
		return out, err
	}
	m, err := simple.Read(document, p.registry, p.insecure, time.Now)
	if err != nil {
		return nil, err
	}
	out[simple.Name] = m
	return out, nil
}

// itemOf returns a trust item of a method, nil if there is none.
func itemOf(t api.Trust, name, file string) []byte {
	for _, m := range t.Methods {
		for _, item := range m.Items {
			if m.Method == name && item.Name == file {
				return item.Content
			}
		}
	}
	return nil
}

// document is the list of lookasides, nil if t trusts no simple signatures.
func (p places) document(t api.Trust) ([]byte, error) {
	trusted := false
	for _, m := range t.Methods {
		if m.Method != simple.Name {
			continue
		}
		trusted = true
		for _, item := range m.Items {
			if item.Name == simple.PlacesFile && p.lookaside == "" {
				return item.Content, nil
			}
		}
	}
	switch {
	case p.lookaside != "":
		return simple.Lookaside(p.lookaside)
	case trusted:
		return nil, &signing.Error{Code: signing.Invalid, Message: "it is not known where simple signatures are", Expected: "the trust item " + simple.PlacesFile + " of the service, or --lookaside", Found: "neither"}
	}
	return nil, nil
}

// offline returns every method whose envelopes this program verifies, in evidence
// files, without asking anybody.
func offline() map[string]method.Method {
	return map[string]method.Method{cosign.Name: cosign.New(nil), notation.Name: notation.New(nil), dct.Name: dct.New(nil), simple.Name: simple.Offline()}
}

// checkEnvelope verifies one signature of an evidence file, offline.
func checkEnvelope(t *signing.Task, key signing.KeyInfo, origin signing.Origin) error {
	m, ok := offline()[t.Step.Method]
	if !ok {
		return &signing.Error{Code: signing.Invalid, Message: "this version cannot verify signatures of the method", Found: t.Step.Method, Fix: "use a sealwright of the version of the service"}
	}
	return method.CheckTask(m, t, key, origin)
}

// image reads the IMAGE argument of a command.
func image(text string) (signing.Artifact, error) {
	a, err := signing.ParseReference(text)
	if err == nil && a.Digest == "" && a.Tag == "" {
		err = &signing.Error{Code: signing.Invalid, Message: "neither a tag nor a digest", Expected: "REPOSITORY@sha256:... or REPOSITORY:TAG", Found: text}
	}
	return a, err
}

// openRegistry returns a client of an image's registry, with the credentials that
// the user's other tools have.
func openRegistry(a signing.Artifact, insecure bool) (*registry.Client, error) {
	row := registry.Config{Host: a.Repository.Host(), InsecureHTTP: insecure}
	if home, err := os.UserHomeDir(); err == nil {
		if path := filepath.Join(home, ".docker", "config.json"); exists(path) {
			row.DockerConfig = path
		}
	}
	if err := registry.Check([]registry.Config{row}).Err(); err != nil {
		return nil, err
	}
	return registry.New([]registry.Config{row}, registry.Options{})
}

// described returns a as the registry has it: by digest, with media type and size.
func described(ctx context.Context, reg *registry.Client, a signing.Artifact) (signing.Artifact, error) {
	ref := string(a.Digest)
	if ref == "" {
		ref = a.Tag
	}
	d, err := reg.Resolve(ctx, a.Repository, ref)
	if err != nil {
		return a, err
	}
	return signing.Artifact{Repository: a.Repository, Digest: d.Digest, MediaType: d.MediaType, Size: d.Size}, nil
}

// readTrust reads what verifiers need from a file that was kept, or else from
// the service.
func readTrust(ctx context.Context, file string, o online) (api.Trust, error) {
	if file == "" {
		client, err := o.client()
		if err != nil {
			return api.Trust{}, err
		}
		return client.Trust(ctx)
	}
	f, err := os.Open(file)
	if err != nil {
		return api.Trust{}, err
	}
	t, err := api.ReadTrust(f)
	return t, errors.Join(err, f.Close())
}

// seen is a signature in the registry, judged with every key.
type seen struct {
	method.Found
	Method string
	// Keys are the ids of the keys by which it is valid. Found.Err is the last
	// refusal, if there are none.
	Keys []string
}

// published lists the signatures of an image by every method and key of t. Two
// keys see the same signature; it is listed once.
func (p places) published(ctx context.Context, a signing.Artifact, t api.Trust, more ...signing.KeyRecord) ([]seen, error) {
	known, err := p.technologies(t)
	if err != nil {
		return nil, err
	}
	var out []seen
	at := map[string]int{}
	done := map[string]bool{}
	for _, way := range ways(t, more) {
		m, ok := known[way.method]
		name := way.method + " " + way.key.ID + " " + way.key.Version
		if !ok || done[name] {
			continue // a method of a newer service: verify says so
		}
		done[name] = true
		info, err := way.key.Info()
		if err != nil {
			return nil, err
		}
		found, err := m.Find(ctx, a, info)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			id := strings.Join([]string{way.method, f.Location.URI, string(f.Envelope)}, " ")
			i, ok := at[id]
			if !ok {
				i = len(out)
				at[id], out = i, append(out, seen{Found: f, Method: way.method})
			}
			if f.Err == nil {
				out[i].Keys, out[i].Err = append(out[i].Keys, info.ID), nil
			}
		}
	}
	return out, nil
}

type way struct {
	method string
	key    signing.KeyRecord
}

// ways returns every pair of method and key of t, and each method with the keys
// in more, which are those of old evidence.
func ways(t api.Trust, more []signing.KeyRecord) []way {
	var out []way
	methods := map[string]bool{}
	for _, m := range t.Methods {
		for _, k := range t.Keys {
			if k.ID == m.Key {
				out = append(out, way{m.Method, k})
			}
		}
	}
	for _, w := range out {
		methods[w.method] = true
	}
	for _, k := range more {
		for name := range methods {
			if fits(name, k) {
				out = append(out, way{name, k})
			}
		}
	}
	return out
}

// fits reports whether a key can have signed with a method: some need certificates.
func fits(method string, k signing.KeyRecord) bool {
	switch method {
	case notation.Name:
		return len(k.Chain) > 0
	case simple.Name:
		return k.OpenPGP != ""
	}
	return true
}
