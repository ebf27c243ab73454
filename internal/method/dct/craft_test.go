package dct_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/sealwright/sealwright/internal/devworld/notary"
	"github.com/sealwright/sealwright/internal/method/dct"
)

// body returns what a role's newest document has signed, to be edited.
func (w *world) body(role string) map[string]any {
	w.Helper()
	raw, _ := w.server.Document(string(gun), role)
	var doc struct {
		Signed map[string]any `json:"signed"`
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		w.Fatalf("%s: %v", role, err)
	}
	return doc.Signed
}

// canonical is canonical JSON for what has none of the characters that Go escapes.
func canonical(w *world, v any) []byte {
	w.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		w.Fatal(err)
	}
	return raw
}

// signed signs any body as a role.
func (w *world) signed(role string, body map[string]any, by ...dct.Signer) []byte {
	w.Helper()
	u, err := dct.Draft{Role: role, Bytes: canonical(w, body)}.Seal(by...)
	if err != nil {
		w.Fatal(err)
	}
	return u.Bytes
}

// ours is our key as whoever stole it uses it.
func (w *world) ours() dct.Signer {
	w.Helper()
	k, err := dct.KeyFor(w.key)
	if err != nil {
		w.Fatal(err)
	}
	return dct.Signer{Key: k, Private: w.signer}
}

// serve has the server, whose own keys are in the attacker's hands, serve these
// documents of roles, with a snapshot and a timestamp that belong to them.
func (w *world) serve(docs map[string][]byte) {
	w.Helper()
	meta := w.body("snapshot")["meta"].(map[string]any)
	for role, raw := range docs {
		if role == "snapshot" || role == "timestamp" {
			continue
		}
		meta[role] = notary.Describe(raw)
		sum := sha256.Sum256(raw)
		w.server.Serve(string(gun), role+"."+hex.EncodeToString(sum[:]), raw)
		if role == "root" {
			w.server.Serve(string(gun), role, raw)
		}
	}
	snapshot, ok := docs["snapshot"]
	if !ok {
		snapshot = w.server.Sign(string(gun), "snapshot", w.own("snapshot", "Snapshot", meta))
	}
	sum := sha256.Sum256(snapshot)
	w.server.Serve(string(gun), "snapshot."+hex.EncodeToString(sum[:]), snapshot)
	timestamp, ok := docs["timestamp"]
	if !ok {
		timestamp = w.server.Sign(string(gun), "timestamp", w.own("timestamp", "Timestamp", map[string]any{"snapshot": notary.Describe(snapshot)}))
	}
	w.server.Serve(string(gun), "timestamp", timestamp)
}

// own is the next document of the server itself.
func (w *world) own(role, kind string, meta map[string]any) map[string]any {
	_, version := w.server.Document(string(gun), role)
	w.made++
	return map[string]any{"_type": kind, "version": version + 100 + w.made, "expires": w.now.Add(24 * time.Hour).UTC().Format(time.RFC3339), "meta": meta}
}

// refused fails unless neither reading nor signing takes what is served, and returns
// what reading says.
func (w *world) refused() error {
	w.Helper()
	_, err := w.client.Fetch(w.Context(), gun)
	if err == nil {
		w.Error("it is believed")
	}
	if p, err := w.method.Prepare(w.Context(), w.target(change("v9", "nine")), w.now); err == nil {
		w.Errorf("it is signed: %+v", p)
	}
	return err
}
