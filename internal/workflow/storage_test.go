package workflow_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/testenv"
)

// signOne has an image of this content signed.
func signOne(t *testing.T, e *testenv.Env, s *testenv.Service, content string) {
	t.Helper()
	r, capability := submit(t, s, content, e.Image(t.Name()+content))
	if r = finish(t, s, r.ID, capability); r.State != signing.Completed {
		t.Fatalf("ended %s: %+v", r.State, r.Failure)
	}
}

// newest returns the size of the newest checkpoint in the database.
func newest(t *testing.T, s *testenv.Service) (size uint64) {
	t.Helper()
	ok(t, s.Store.View(t.Context(), func(tx *store.Tx) (err error) {
		_, size, err = tx.Checkpoint()
		return err
	}))
	return size
}

// TestRestoredOlderDatabaseGetsNoCheckpoint: neither a shorter log nor one that
// grew another way is ever signed after the checkpoint that is kept elsewhere.
func TestRestoredOlderDatabaseGetsNoCheckpoint(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	kept := filepath.Join(e.Dir, "checkpoint")
	s := e.Start(nil)
	signOne(t, e, s, "one")
	s.VerifyLog()
	s.Stop()
	backup, err := os.ReadFile(e.Database()) // whole: the last to close it empties the WAL
	ok(t, err)
	s = e.Start(nil)
	signOne(t, e, s, "two")
	s.VerifyLog()
	s.Stop()
	want, err := os.ReadFile(kept)
	ok(t, err)

	ok(t, os.WriteFile(e.Database(), backup, 0o600))
	s = e.Start(nil)
	before := newest(t, s)
	for _, content := range []string{"", "three", "four"} { // shorter, then longer
		if content != "" {
			signOne(t, e, s, content)
		}
		if err := s.Workflow.Sequence(t.Context()); !isCode(err, signing.Conflict) {
			t.Errorf("after %q: %v", content, err)
		}
		if got := notReady(s.Workflow.Ready(t.Context())); len(got) == 0 {
			t.Errorf("after %q: ready, with a log that cannot be signed", content)
		}
	}
	if n := newest(t, s); n != before {
		t.Errorf("checkpoint %d was signed", n)
	}
	if got, err := os.ReadFile(kept); err != nil || string(got) != string(want) {
		t.Errorf("the kept checkpoint changed: %v", err)
	}
}

// TestFullDatabaseRefusesSubmissionsAndLosesNothing fills the database (PRAGMA
// max_page_count), then gives it room.
func TestFullDatabaseRefusesSubmissionsAndLosesNothing(t *testing.T) {
	e := testenv.New(t, testenv.Options{MaxPages: 100})
	s := e.Start(nil)
	type asked struct {
		id       string
		artifact signing.Artifact
	}
	var acknowledged []asked
	full := 0
	for i := 0; i < 500 && full < 3; i++ {
		a := e.Image(fmt.Sprint(t.Name(), i))
		ans := s.Post("/v1/requests", e.GitHub(runOf(i)), "k", testenv.Body("release", a))
		switch ans.Status {
		case http.StatusCreated:
			var r api.Request
			ans.JSON(t, &r)
			acknowledged = append(acknowledged, asked{r.ID, a})
		case http.StatusServiceUnavailable:
			if full++; ans.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		default:
			t.Fatalf("submission answered %d: %s", ans.Status, ans.Body)
		}
	}
	if full == 0 || len(acknowledged) == 0 {
		t.Fatalf("%d refused, %d acknowledged", full, len(acknowledged))
	}
	t.Logf("%d acknowledged before it was full", len(acknowledged))
	// It is full, not dead.
	if ans := s.Get("/healthz", ""); ans.Status != http.StatusOK {
		t.Errorf("/healthz answered %d", ans.Status)
	}
	th := steal(t, e)
	if n := th.count("SELECT count(*) FROM requests"); n != len(acknowledged) {
		t.Errorf("%d requests in the database, %d acknowledged", n, len(acknowledged))
	}
	s.Stop()
	e.Options.MaxPages = 0
	e.Clock.Add(int64(time.Minute)) // past the pauses that a full database makes
	s = e.Start(nil)
	for i, r := range acknowledged {
		eventually(t, fmt.Sprint("request ", i, " completed"), func() bool {
			got, _, err := state(t, s, r.id)
			return err == nil && got.State == signing.Completed
		})
		if n := e.Signatures(r.artifact); n != 1 {
			t.Errorf("%d signatures of image %d", n, i)
		}
	}
	var whole string
	ok(t, th.db.QueryRow("PRAGMA integrity_check").Scan(&whole))
	if whole != "ok" {
		t.Errorf("integrity_check: %s", whole)
	}
	// A key may have been used whose result could not be stored.
	attempts := th.count("SELECT count(*) FROM attempts")
	if uses := e.KeyUses(); uses > attempts || uses < len(acknowledged) {
		t.Errorf("%d key uses, %d attempts, %d requests", uses, attempts, len(acknowledged))
	}
	s.VerifyLog()
	signOne(t, e, s, "with-room-again")
}

func TestSecondServiceOnTheDatabaseIsRefused(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	if second, err := e.TryStart(nil); !isCode(err, signing.Conflict) {
		t.Errorf("%v %v", second, err)
	}
	signOne(t, e, s, "one")
	s.Stop()
	s = e.Start(nil)
	signOne(t, e, s, "two")
}
