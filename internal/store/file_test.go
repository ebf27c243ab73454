package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

// childEnv makes the test binary a process that the tests run and kill.
const childEnv = "SEALWRIGHT_STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	role, path, ok := strings.Cut(os.Getenv(childEnv), ":")
	if !ok {
		os.Exit(m.Run())
	}
	children := map[string]func(*Store) error{"write": writeForEver, "open": (*Store).Close, "limit": writeAgainstLimit}
	s, err := Open(context.Background(), Options{Path: path, Secrets: [][]byte{testSecret}})
	if err == nil {
		err = children[role](s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(t *testing.T, role, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childEnv+"="+role+":"+path)
	return cmd
}

// writeForEver prints the number of every request after its Update returned.
func writeForEver(s *Store) error {
	base := 0 // above everything that an earlier child wrote
	if err := s.View(context.Background(), func(tx *Tx) error {
		_, err := tx.row([]any{&base}, "SELECT ifnull(max(cast(substr(id, 4) AS INTEGER)), 0) + 1 FROM requests")
		return err
	}); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := base + w; ; n += 8 {
				if err := s.Update(context.Background(), "insert", inserting(n)); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				fmt.Printf("%d\n", n) // one write each: a line is whole or not there
				if n%5 == 0 {
					if _, err := s.Sequence(context.Background(), 7, nil); err != nil {
						fmt.Fprintln(os.Stderr, err)
						os.Exit(1)
					}
				}
			}
		})
	}
	wg.Wait()
	return nil
}

func TestEveryAcknowledgedUpdateIsThereAfterKill9(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	const least = 150
	acknowledged := map[int]bool{}
	// The second round goes on from what the first kill left.
	for range 2 {
		cmd := child(t, "write", path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		seen := 0
		for lines.Scan() {
			var n int
			if _, err := fmt.Sscanf(lines.Text(), "%d", &n); err == nil {
				acknowledged[n] = true
				seen++
			}
			if seen == least { // in the middle of its writing
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed
		if seen < least {
			t.Fatalf("the child ended after %d updates", seen)
		}
		checkAfterKill(t, path, acknowledged)
	}
}

func checkAfterKill(t *testing.T, path string, acknowledged map[int]bool) {
	t.Helper()
	s := open(t, Options{Path: path})
	view(t, s, func(tx *Tx) error {
		for n := range acknowledged {
			if _, err := tx.Request(requestID(n)); err != nil {
				t.Errorf("acknowledged request %d: %v", n, err)
			}
			if _, err := tx.Capability(requestID(n)); err != nil {
				t.Errorf("its capability: %v", err)
			}
		}
		var check string
		if _, err := tx.row([]any{&check}, "PRAGMA integrity_check"); err != nil || check != "ok" {
			t.Errorf("integrity check: %s, %v", check, err)
		}
		return nil
	})
	// Nothing is half-done: as many events, keys and capabilities as requests.
	n := count(t, s, "requests")
	for _, table := range []string{"events", "replays", "idempotency", "capabilities"} {
		if got := count(t, s, table); got != n {
			t.Errorf("%d rows in %s for %d requests", got, table, n)
		}
	}
	for sequence(t, s, 1000, nil) > 0 {
	}
	if size := checkLog(t, s); size != uint64(n) {
		t.Errorf("log of %d entries for %d requests", size, n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// writeAgainstLimit lets every COMMIT fail for a while: the log cannot grow.
func writeAgainstLimit(s *Store) error {
	signal.Ignore(syscall.SIGXFSZ)
	ctx := context.Background()
	if err := s.Update(ctx, "first", inserting(1)); err != nil {
		return err
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4096, Max: old.Max}); err != nil {
		return err
	}
	var errs [20]error
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = s.Update(ctx, "full", inserting(i+2)) })
	}
	wg.Wait()
	for i, err := range errs {
		if !errors.Is(err, signing.Unavailable) {
			return fmt.Errorf("update %d on a full disk: %v, want unavailable", i, err)
		}
	}
	if err := s.View(ctx, func(tx *Tx) error { _, err := tx.Request(requestID(1)); return err }); err != nil {
		return fmt.Errorf("reading on a full disk: %w", err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	for i := range errs {
		if err := s.Update(ctx, "space again", inserting(i+2)); err != nil {
			return fmt.Errorf("update %d with space again: %w", i, err)
		}
	}
	if err := s.Close(); err != nil {
		return err
	}
	fmt.Println("done")
	return nil
}

func TestCommitThatTheDiskRefusesIsUnavailableToAllAndTheStoreGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	out, err := child(t, "limit", path).CombinedOutput()
	if err != nil || string(out) != "done\n" {
		t.Fatalf("child: %v, output %q", err, out)
	}
	s := open(t, Options{Path: path})
	if n := count(t, s, "requests"); n != 21 {
		t.Errorf("%d requests, want 21", n)
	}
}

func TestFullDatabaseIsUnavailableKeepsWhatItHasAndGoesOnWithSpace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path, MaxPages: 60})
	n := 0
	for ; n < 10000; n++ {
		if err := s.Update(context.Background(), "insert", inserting(n)); err != nil {
			wantCode(t, err, signing.Unavailable)
			e := signing.Public(err)
			if e.Expected == "" || e.Found == "" || e.Fix == "" || e.RetryAfter == 0 {
				t.Errorf("error without expected, found, fix or retry: %+v", e)
			}
			break
		}
	}
	// In a batch, too, all get a clear answer and nobody a wrong one.
	for i, err := range together(t, s, inserting(20000), inserting(20001), func(*Tx) error { return nil }) {
		if err != nil {
			wantCode(t, err, signing.Unavailable)
		} else if i < 2 {
			t.Error("a full database took a request")
		}
	}
	check := func(want int) {
		t.Helper()
		for _, table := range []string{"requests", "events", "replays", "idempotency", "capabilities"} {
			if got := count(t, s, table); got != want {
				t.Errorf("%d rows in %s, want %d", got, table, want)
			}
		}
		view(t, s, func(tx *Tx) error { _, err := tx.Request(requestID(n - 1)); return err })
	}
	check(n)
	update(t, s, func(tx *Tx) error { _, err := tx.exec("PRAGMA max_page_count = 10000"); return err })
	for i := range 50 {
		update(t, s, inserting(n+i))
	}
	check(n + 50)
	s = reopen(t, s, Options{Path: path})
	check(n + 50)
}

func TestSecondServerOnTheFileIsRefusedUnderAnyName(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	s := open(t, Options{Path: path})
	link := filepath.Join(dir, "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, link, filepath.Join(dir, ".", "x", "..", "state.db")} {
		_, err := Open(context.Background(), Options{Path: name, Secrets: [][]byte{testSecret}})
		wantCode(t, err, signing.Conflict)
		if !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
			t.Errorf("the error does not name the holder: %v", err)
		}
	}
	insert(t, s, 1) // the first one is not disturbed
	// Another process, as it really happens.
	if err := child(t, "open", path).Run(); err == nil {
		t.Error("a second process opened the database")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := child(t, "open", path).CombinedOutput(); err != nil {
		t.Errorf("a process after the first has closed: %v, %s", err, out)
	}
}

func TestNewerSchemaAndForeignDatabasesAreRefused(t *testing.T) {
	for name, prepare := range map[string]string{
		"newer version":       fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = 9999", applicationID),
		"another application": "CREATE TABLE theirs (id INTEGER)",
		"another's version":   "PRAGMA user_version = 1",
	} {
		path := filepath.Join(t.TempDir(), "state.db")
		if _, err := rawDB(t, path).Exec(prepare); err != nil {
			t.Fatal(err)
		}
		_, err := Open(context.Background(), Options{Path: path, Secrets: [][]byte{testSecret}})
		if !errors.Is(err, signing.Conflict) || signing.Public(err).Fix == "" {
			t.Errorf("%s: %v, want a conflict with a way out", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(context.Background(), Options{Path: path, Secrets: [][]byte{testSecret}})
	wantCode(t, err, signing.Unavailable)
}

func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a folder?mode=memory#%41")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Path: filepath.Join(dir, "state.db")})
	insert(t, s, 1)
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range names {
		info, err := e.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if len(names) != 4 {
		t.Errorf("%v, want database, -wal, -shm and .lock", names)
	}
}

func TestReopenedDatabaseHasEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, Options{Path: path})
	task, _ := prepared(t, s, 1)
	s = reopen(t, s, Options{Path: path})
	view(t, s, func(tx *Tx) error {
		got, err := tx.Task(task.ID)
		if err == nil && (got.State != signing.Prepared || string(got.Intent.Bytes) != "bytes") {
			t.Errorf("task after reopening: %+v", got)
		}
		return err
	})
}
