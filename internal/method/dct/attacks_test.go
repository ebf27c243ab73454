package dct_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/devworld/notary"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestRollbackOfEachRoleIsRefused(t *testing.T) {
	for _, role := range []string{"timestamp", "snapshot", "targets", dct.RoleReleases} {
		t.Run(role, func(t *testing.T) {
			w := newWorld(t)
			w.release("v1", "one")
			old, _ := w.server.Document(string(gun), role)
			if err := w.owner.Tag(t.Context(), w.client); err != nil { // the next targets
				t.Fatal(err)
			}
			w.release("v2", "two")
			w.serve(map[string][]byte{role: old})
			if err := w.refused(); !errors.Is(err, signing.Denied) || !strings.Contains(err.Error(), "rollback") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAnotherDocumentOfAVersionThatWasSeenIsRefused(t *testing.T) {
	w := newWorld(t)
	w.release("v1", "one")
	body := w.body(dct.RoleReleases)
	body["targets"] = map[string]any{}
	w.serve(map[string][]byte{dct.RoleReleases: w.signed(dct.RoleReleases, body, w.ours())})
	if err := w.refused(); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}

func TestADelegationThatLostItsDocumentIsARollback(t *testing.T) {
	w := newWorld(t)
	w.release("v1", "one")
	meta := w.body("snapshot")["meta"].(map[string]any)
	delete(meta, dct.RoleReleases)
	w.serve(map[string][]byte{"snapshot": w.server.Sign(string(gun), "snapshot", w.own("snapshot", "Snapshot", meta))})
	if err := w.refused(); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}

func TestExpiredMetadataIsRefused(t *testing.T) {
	for _, role := range []string{"root", "timestamp", "snapshot", "targets"} {
		t.Run(role, func(t *testing.T) {
			w := newWorld(t)
			body := w.body(role)
			body["version"] = 50
			body["expires"] = w.now.Add(-time.Minute).UTC().Format(time.RFC3339)
			var raw []byte
			switch role {
			case "root":
				body["version"] = 1
				w = w.forgetful()
				raw = w.signed(role, body, w.owner.Root)
			case "targets":
				raw = w.signed(role, body, w.owner.Targets)
			default:
				raw = w.server.Sign(string(gun), role, body)
			}
			w.serve(map[string][]byte{role: raw})
			if err := w.refused(); !errors.Is(err, signing.Denied) || !strings.Contains(err.Error(), "expired") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// forgetful is w with a client that has seen nothing.
func (w *world) forgetful() *world {
	w.Helper()
	w.memory = dct.NewMemory()
	w.client = w.open(w.memory, dct.Pin{Repository: string(gun), RootKeys: []string{w.owner.Root.Key.ID}})
	w.method = dct.New(w.client)
	return w
}

func TestAnExpiredDelegationIsNotBelievedAndNotSignedOn(t *testing.T) {
	w := newWorld(t)
	w.release("v1", "one")
	body := w.body(dct.RoleReleases)
	body["version"], body["expires"] = 2, w.now.Add(-time.Minute).UTC().Format(time.RFC3339)
	w.serve(map[string][]byte{dct.RoleReleases: w.signed(dct.RoleReleases, body, w.ours())})
	s := w.fetch()
	if _, there := s.Lookup("v1"); there {
		t.Error("its tags are believed")
	}
	if _, err := w.method.Prepare(t.Context(), w.target(change("v2", "two")), w.now); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}

func TestPiecesOfDifferentTimesAreRefused(t *testing.T) {
	w := newWorld(t)
	w.release("v1", "one")
	raw, _ := w.server.Document(string(gun), "targets")
	for _, name := range []string{"snapshot", "targets", dct.RoleReleases} {
		w.server.Serve(string(gun), name, append([]byte(" "), raw...)) // under every hash
		if err := w.refused(); !errors.Is(err, signing.Denied) && !errors.Is(err, signing.TooLarge) {
			t.Errorf("%s: got %v", name, err)
		}
		w.server.Serve(string(gun), name, nil)
	}
}

func TestALaterDocumentThanTheSnapshotNamesIsRefused(t *testing.T) {
	w := newWorld(t)
	body := w.body("targets")
	body["version"] = 9 // signed by its owner, and as long as the one that is named
	w.server.Serve(string(gun), "targets", w.signed("targets", body, w.owner.Targets))
	if err := w.refused(); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}

func TestASwappedRootIsRefusedAndItsKeyIsShown(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t) // another owner of a repository of the same name
	if _, err := other.client.Fetch(t.Context(), gun); err != nil {
		t.Fatal(err)
	}
	w.server.Before = func(rw http.ResponseWriter, r *http.Request) bool { other.server.ServeHTTP(rw, r); return true }
	w.forgetful()
	if err := w.refused(); !errors.Is(err, signing.Denied) || !strings.Contains(err.Error(), other.owner.Root.Key.ID) {
		t.Errorf("got %v", err)
	}
}

func TestTheRootOfAnotherRepositoryOfTheSameOwnerIsRefused(t *testing.T) {
	w := newWorld(t)
	const copyTo = signing.Repository("registry.acme.dev/payments/copy")
	// The owner's root key is the same, and pinned without its certificate.
	c := w.open(nil, dct.Pin{Repository: "registry.acme.dev", RootKeys: []string{w.owner.Root.Key.Bare()}})
	if _, err := c.Fetch(t.Context(), gun); err != nil {
		t.Fatal(err)
	}
	w.server.Before = func(rw http.ResponseWriter, r *http.Request) bool {
		r.URL.Path = strings.Replace(r.URL.Path, string(copyTo), string(gun), 1)
		return false
	}
	if _, err := c.Fetch(t.Context(), copyTo); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}

// rotate publishes the next root, with another root key, signed by these.
func (w *world) rotate(by ...dct.Signer) dct.Signer {
	w.Helper()
	next, err := notary.NewSigner(string(gun))
	if err != nil {
		w.Fatal(err)
	}
	s := w.fetch()
	targets, _ := s.Role(dct.RoleTargets)
	u, err := dct.NewRoot(s.Root.Version+1, w.now.AddDate(1, 0, 0), []dct.Key{next.Key}, targets.Keys, s.Snapshot.Keys, s.Timestamp.Keys).Seal(append(by, next)...)
	if err != nil {
		w.Fatal(err)
	}
	if err := w.client.Publish(w.Context(), gun, u); err != nil {
		w.Fatal(err)
	}
	return next
}

func TestARotatedRootIsFollowedFromThePinnedOneAndTheOldKeyDoesNotComeBack(t *testing.T) {
	w := newWorld(t)
	first, _ := w.server.Document(string(gun), "root")
	second := w.rotate(w.owner.Root)
	w.rotate(second)
	s := w.fetch()
	if s.Root.Version != 3 || s.Root.Trusted != dct.ByPin {
		t.Errorf("got %+v", s.Root)
	}
	w.release("v1", "one") // the intent carries all three
	w.forgetful()
	if _, err := w.client.Fetch(t.Context(), gun); err != nil {
		t.Error(err)
	}
	w.serve(map[string][]byte{"root": first})
	if err := w.refused(); !errors.Is(err, signing.Denied) || !strings.Contains(err.Error(), "rollback") {
		t.Errorf("got %v", err)
	}
}

func TestARootThatTheOneBeforeHasNotSignedIsRefused(t *testing.T) {
	w := newWorld(t)
	w.fetch()
	body := w.body("root")
	body["version"] = 2
	stranger, err := notary.NewSigner(string(gun))
	if err != nil {
		t.Fatal(err)
	}
	s := w.fetch()
	targets, _ := s.Role(dct.RoleTargets)
	u, err := dct.NewRoot(2, w.now.AddDate(1, 0, 0), []dct.Key{stranger.Key}, targets.Keys, s.Snapshot.Keys, s.Timestamp.Keys).Seal(stranger)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := w.server.Document(string(gun), "root")
	w.server.Serve(string(gun), "1.root", first)
	w.serve(map[string][]byte{"root": u.Bytes})
	if err := w.refused(); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}

func TestFirstUseIsTrustedOnlyWhereConfiguredAndThenRemembered(t *testing.T) {
	w := newWorld(t)
	if _, err := w.open(nil).Fetch(t.Context(), gun); !errors.Is(err, signing.Denied) {
		t.Errorf("without a memory: %v", err)
	}
	w.memory = dct.NewMemory()
	w.client = w.open(w.memory)
	w.method = dct.New(w.client)
	if s := w.fetch(); s.Root.Trusted != dct.ByFirstUse || s.Root.Keys[0].ID != w.owner.Root.Key.ID {
		t.Errorf("got %+v", s.Root)
	}
	w.release("v1", "one")
	if s := w.fetch(); s.Root.Trusted != dct.ByMemory {
		t.Errorf("got %+v", s.Root)
	}
	w.rotate(w.owner.Root)
	if s := w.fetch(); s.Root.Version != 2 || s.Root.Trusted != dct.ByMemory {
		t.Errorf("got %+v", s.Root)
	}
	w.release("v2", "two") // the intent carries both roots
	other := newWorld(t)
	if said, err := w.method.Inspect(other.prepare(other.target(change("v1", "one")))); !errors.Is(err, signing.Denied) {
		t.Errorf("an intent below another root: %+v, %v", said, err)
	}
	w.server.Before = func(rw http.ResponseWriter, r *http.Request) bool { other.server.ServeHTTP(rw, r); return true }
	if err := w.refused(); !errors.Is(err, signing.Denied) {
		t.Errorf("another root afterwards: %v", err)
	}
}

func TestMetadataOf100MBIsNotRead(t *testing.T) {
	for _, name := range []string{"root.json", "timestamp.json", "snapshot.", "targets.", "targets/releases."} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.release("v1", "one")
			var sent atomic.Int64
			w.server.Before = func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/_trust/tuf/"+name) {
					return false
				}
				chunk := []byte(strings.Repeat(" ", 1<<16))
				for range 100 << 20 >> 16 {
					n, err := rw.Write(chunk)
					if sent.Add(int64(n)); err != nil {
						break
					}
				}
				return true
			}
			if err := w.refused(); !errors.Is(err, signing.TooLarge) {
				t.Errorf("got %v", err)
			}
			if n := sent.Load(); n > 60<<20 { // two reads; the system's own buffers are some of it
				t.Errorf("%d bytes were taken", n)
			}
		})
	}
}

func TestAServerThatAnswersThePreviousVersionForEverGetsNoSecondSignature(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter){
		"and takes every update": func(http.ResponseWriter) {},
		"and refuses every update as old": func(rw http.ResponseWriter) {
			rw.WriteHeader(http.StatusBadRequest)
			_, _ = rw.Write([]byte(`{"errors":[{"code":"VERSION"}]}`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.release("v1", "one")
			w.server.Before = func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodPost {
					answer(rw)
				}
				return r.Method == http.MethodPost
			}
			tg := w.target(change("v2", "two"))
			e := w.envelope(tg)
			for range 3 {
				_, err := w.method.Publish(t.Context(), tg, e)
				if err == nil {
					if _, err = w.method.Verify(t.Context(), tg, e); !errors.Is(err, method.ErrStaleBase) {
						t.Fatalf("got %v, want ErrStaleBase: the same envelope again", err)
					}
				} else if !errors.Is(err, signing.Unavailable) {
					t.Fatalf("got %v", err)
				}
				if errors.Is(err, method.ErrStaleBytes) {
					t.Fatal("the bytes would be signed anew")
				}
			}
		})
	}
}

func TestATokenRealmOnAnotherHostGetsNoCredentials(t *testing.T) {
	var asked atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer elsewhere.Close()
	w := newWorld(t)
	w.server.User, w.server.Password = "sealwright", "secret"
	open := func(realms ...string) *dct.Client {
		c, err := dct.Open([]dct.Config{{URL: w.url, Repositories: []string{"registry.acme.dev"}, TrustOnFirstUse: true, Connection: registry.Connection{Username: "sealwright", Password: config.Secret("env:PASSWORD"), TokenRealm: realms}}},
			dct.Options{Memory: dct.NewMemory(), Registry: registry.Options{Env: func(string) (string, bool) { return "secret", true }}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if _, err := open().Fetch(t.Context(), gun); err != nil {
		t.Errorf("the server's own token service: %v", err)
	}
	w.server.Realm = elsewhere.URL + "/token"
	if _, err := open().Fetch(t.Context(), gun); !errors.Is(err, signing.Denied) || asked.Load() != 0 {
		t.Errorf("got %v, after %d requests to the other host", err, asked.Load())
	}
	w.server.Realm = w.url + "/token"
	if _, err := open(w.url+"/token").Fetch(t.Context(), gun); err != nil {
		t.Errorf("a realm that is configured: %v", err)
	}
}
