package dct_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
)

// target is the entry of a target in a document.
func target() map[string]any {
	return map[string]any{"length": 3, "hashes": map[string]any{"sha256": "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="}}
}

func TestATagOutsideThePathsOfADelegationIsNeitherBelievedNorSigned(t *testing.T) {
	w := newWorld(t)
	body := w.body("targets")
	body["version"] = 50
	roles := body["delegations"].(map[string]any)["roles"].([]any)
	roles[0].(map[string]any)["paths"] = []any{"v"}
	targets := w.signed("targets", body, w.owner.Targets)
	w.serve(map[string][]byte{"targets": targets})
	if _, err := w.method.Prepare(t.Context(), w.target(change("latest", "one")), w.now); !errors.Is(err, signing.Denied) {
		t.Errorf("it would be signed: %v", err)
	}
	if in := w.prepare(w.target(change("v1", "one"))); len(in.Differences) != 1 {
		t.Errorf("got %+v", in)
	}
	// The holder of the key signs it all the same.
	mine := map[string]any{"_type": "Targets", "version": 1, "expires": "2099-01-01T00:00:00Z", "targets": map[string]any{"latest": target(), "v1": target()}, "delegations": map[string]any{"keys": map[string]any{}, "roles": []any{}}}
	w.serve(map[string][]byte{"targets": targets, dct.RoleReleases: w.signed(dct.RoleReleases, mine, w.ours())})
	s := w.fetch()
	if r, _ := s.Role(dct.RoleReleases); !errors.Is(r.Err, signing.Denied) || len(r.Targets) != 0 {
		t.Errorf("got %+v", r)
	}
	if _, there := s.Lookup("v1"); there {
		t.Error("what is beside it is believed")
	}
}

func TestADelegationOfADelegationReachesNoFurtherThanItsParent(t *testing.T) {
	w := newWorld(t)
	body := w.body("targets")
	body["version"] = 50
	d := body["delegations"].(map[string]any)
	d["roles"].([]any)[0].(map[string]any)["paths"] = []any{"v"}
	below := map[string]any{"_type": "Targets", "version": 1, "expires": "2099-01-01T00:00:00Z", "targets": map[string]any{}, "delegations": map[string]any{
		"keys":  d["keys"],
		"roles": []any{map[string]any{"name": "targets/releases/wide", "keyids": d["roles"].([]any)[0].(map[string]any)["keyids"], "threshold": 1, "paths": []any{"", "v1"}}},
	}}
	wide := map[string]any{"_type": "Targets", "version": 1, "expires": "2099-01-01T00:00:00Z", "targets": map[string]any{"latest": target()}, "delegations": map[string]any{"keys": map[string]any{}, "roles": []any{}}}
	w.serve(map[string][]byte{"targets": w.signed("targets", body, w.owner.Targets), dct.RoleReleases: w.signed(dct.RoleReleases, below, w.ours()), "targets/releases/wide": w.signed("targets/releases/wide", wide, w.ours())})
	r, ok := w.fetch().Role("targets/releases/wide")
	if !ok || !errors.Is(r.Err, signing.Denied) || len(r.Paths) != 1 || r.Paths[0] != "v1" {
		t.Errorf("got %+v", r)
	}
}

func TestATargetThatIsNoTagIsRefusedWithEverythingBesideIt(t *testing.T) {
	for _, name := range []string{"..", "../v1", "a/b", "/etc/passwd", "", "v1\\..", "-v", strings.Repeat("v", 129)} {
		w := newWorld(t)
		w.release("v1", "one")
		body := w.body(dct.RoleReleases)
		body["version"] = 2
		body["targets"].(map[string]any)[name] = target()
		w.serve(map[string][]byte{dct.RoleReleases: w.signed(dct.RoleReleases, body, w.ours())})
		if r, _ := w.fetch().Role(dct.RoleReleases); !errors.Is(r.Err, signing.Denied) || len(r.Targets) != 0 {
			t.Errorf("%q in a delegation: %+v", name, r)
		}
		w = newWorld(t)
		body = w.body("targets")
		body["version"] = 50
		body["targets"].(map[string]any)[name] = target()
		w.serve(map[string][]byte{"targets": w.signed("targets", body, w.owner.Targets)})
		if err := w.refused(); !errors.Is(err, signing.Denied) {
			t.Errorf("%q in targets: %v", name, err)
		}
		if _, err := w.method.Prepare(t.Context(), w.target(signing.Change{Tag: name, Digest: change("", "x").Digest, Size: 1}), w.now); err == nil {
			t.Errorf("%q would be signed", name)
		}
	}
}

func TestAThresholdOfZeroIsRefused(t *testing.T) {
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		w := newWorld(t).forgetful()
		body := w.body("root")
		body["roles"].(map[string]any)[role].(map[string]any)["threshold"] = 0
		w.serve(map[string][]byte{"root": w.signed("root", body, w.owner.Root)})
		if err := w.refused(); !errors.Is(err, signing.Denied) || !strings.Contains(err.Error(), "threshold") {
			t.Errorf("%s: %v", role, err)
		}
	}
	w := newWorld(t)
	body := w.body("targets")
	body["version"] = 50
	body["delegations"].(map[string]any)["roles"].([]any)[0].(map[string]any)["threshold"] = 0
	w.serve(map[string][]byte{"targets": w.signed("targets", body, w.owner.Targets)})
	if err := w.refused(); !errors.Is(err, signing.Denied) || !strings.Contains(err.Error(), "threshold") {
		t.Errorf("a delegation: %v", err)
	}
}

func TestADocumentThatNobodyHasSignedIsRefused(t *testing.T) {
	w := newWorld(t)
	body := w.body("targets")
	body["version"] = 50
	stranger, err := dct.KeyFor(w.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, by := range map[string][]dct.Signer{"nobody": nil, "a stranger": {{Key: stranger, Private: w.signer}}} {
		w.serve(map[string][]byte{"targets": w.signed("targets", body, by...)})
		if err := w.refused(); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.serve(map[string][]byte{"targets": w.signed("targets", body, w.owner.Targets)})
	if _, err := w.client.Fetch(t.Context(), gun); err != nil {
		t.Errorf("its owner: %v", err)
	}
}

func TestOneKeyInTwoFormsOrTwiceIsNotTwoSigners(t *testing.T) {
	_, bareInfo := newKey(t, "x", false)
	for name, edit := range map[string]func(t *testing.T, w *world, keys map[string]any, role map[string]any) []dct.Signer{
		"its id twice": func(t *testing.T, w *world, _ map[string]any, role map[string]any) []dct.Signer {
			ids := role["keyids"].([]any)
			role["keyids"] = append(ids, ids[0])
			return []dct.Signer{w.ours(), w.ours()}
		},
		"with and without its certificate": func(t *testing.T, w *world, keys map[string]any, role map[string]any) []dct.Signer {
			info := w.key
			info.Chain = nil
			bare, err := dct.KeyFor(info)
			if err != nil {
				t.Fatal(err)
			}
			keys[bare.ID] = map[string]any{"keytype": bare.Type, "keyval": map[string]any{"private": nil, "public": bare.Bytes}}
			role["keyids"] = append(role["keyids"].([]any), bare.ID)
			return []dct.Signer{w.ours(), {Key: bare, Private: w.signer}}
		},
		"its signature twice, beside a key that has not signed": func(t *testing.T, w *world, keys map[string]any, role map[string]any) []dct.Signer {
			other, err := dct.KeyFor(bareInfo)
			if err != nil {
				t.Fatal(err)
			}
			keys[other.ID] = map[string]any{"keytype": other.Type, "keyval": map[string]any{"private": nil, "public": other.Bytes}}
			role["keyids"] = append(role["keyids"].([]any), other.ID)
			return []dct.Signer{w.ours(), w.ours()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.release("v1", "one")
			body := w.body("targets")
			body["version"] = 50
			d := body["delegations"].(map[string]any)
			role := d["roles"].([]any)[0].(map[string]any)
			role["threshold"] = 2
			by := edit(t, w, d["keys"].(map[string]any), role)
			mine := w.body(dct.RoleReleases)
			mine["version"] = 2
			w.serve(map[string][]byte{"targets": w.signed("targets", body, w.owner.Targets), dct.RoleReleases: w.signed(dct.RoleReleases, mine, by...)})
			s, err := w.client.Fetch(t.Context(), gun)
			if err != nil {
				return // the whole of targets is refused
			}
			if r, _ := s.Role(dct.RoleReleases); r.Err == nil {
				t.Errorf("one signer is believed to be two: %+v", r)
			}
		})
	}
}

func TestAKeyWithTheIDOfAnotherIsRefused(t *testing.T) {
	w := newWorld(t)
	_, stranger := newKey(t, "stranger", false)
	k, err := dct.KeyFor(stranger)
	if err != nil {
		t.Fatal(err)
	}
	body := w.body("targets")
	body["version"] = 50
	keys := body["delegations"].(map[string]any)["keys"].(map[string]any)
	for id := range keys {
		keys[id] = map[string]any{"keytype": k.Type, "keyval": map[string]any{"private": nil, "public": k.Bytes}}
	}
	w.serve(map[string][]byte{"targets": w.signed("targets", body, w.owner.Targets)})
	if err := w.refused(); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}

func TestAFieldThatReadersTakeDifferentlyIsRefused(t *testing.T) {
	for name, edit := range map[string]func(map[string]any){
		"Targets beside targets":   func(b map[string]any) { b["Targets"] = map[string]any{"v1": target()} },
		"a field that is unknown":  func(b map[string]any) { b["more"] = 1 },
		"another type":             func(b map[string]any) { b["_type"] = "Root" },
		"version 0":                func(b map[string]any) { b["version"] = 0 },
		"a version beyond 32 bits": func(b map[string]any) { b["version"] = json.Number("9999999999") },
		"no expiry":                func(b map[string]any) { delete(b, "expires") },
		"no targets":               func(b map[string]any) { delete(b, "targets") },
		"a hash that is short": func(b map[string]any) {
			b["targets"] = map[string]any{"v1": map[string]any{"length": 1, "hashes": map[string]any{"sha256": "AAAA"}}}
		},
		"a target without a hash": func(b map[string]any) {
			b["targets"] = map[string]any{"v1": map[string]any{"length": 1, "hashes": map[string]any{}}}
		},
		"a role above itself": func(b map[string]any) {
			b["delegations"].(map[string]any)["roles"].([]any)[0].(map[string]any)["name"] = "root"
		},
		"a role of another parent": func(b map[string]any) {
			b["delegations"].(map[string]any)["roles"].([]any)[0].(map[string]any)["name"] = "targets/a/b"
		},
		"a key that is not there": func(b map[string]any) { b["delegations"].(map[string]any)["keys"] = map[string]any{} },
	} {
		w := newWorld(t)
		body := w.body("targets")
		body["version"] = 50
		edit(body)
		w.serve(map[string][]byte{"targets": w.signed("targets", body, w.owner.Targets)})
		if err := w.refused(); !errors.Is(err, signing.Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnAnnouncedLengthBeyondTheBoundIsNotAskedFor(t *testing.T) {
	w := newWorld(t)
	w.release("v1", "one")
	meta := w.body("snapshot")["meta"].(map[string]any)
	meta["targets"].(map[string]any)["length"] = 100 << 20
	w.serve(map[string][]byte{"snapshot": w.server.Sign(string(gun), "snapshot", w.own("snapshot", "Snapshot", meta))})
	asked := false
	w.server.Before = func(_ http.ResponseWriter, r *http.Request) bool {
		asked = asked || strings.Contains(r.URL.Path, "/targets")
		return false
	}
	if err := w.refused(); !errors.Is(err, signing.TooLarge) || asked {
		t.Errorf("got %v; asked for it: %t", err, asked)
	}
}
