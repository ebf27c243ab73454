// Package store keeps the service's state in one SQLite file: requests, tasks,
// jobs, leases and the audit log, changed together in one transaction.
//
// It guarantees: an Update that returned nil is on the disk (WAL, synchronous
// FULL) and survives the death of process and machine; one that returned an
// error is not half-done; state is changed by Transition alone, and only from
// the row that the caller has seen; a row whose content this service did not
// write is refused when it is loaded (ErrTampered).
//
// It does not guarantee: that a row was not put back to what this service wrote
// there earlier. Whoever does that makes the service repeat what was decided, no
// more, since rechecks and attempts come again.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mattn/go-sqlite3"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// busyTimeout is how long SQLite waits for another process's lock: an
	// administrator's sqlite3 shell, a backup. Milliseconds.
	busyTimeout = 5000
	// statementCache holds every statement of this package per connection.
	statementCache = 96
	// walPages is the length of the write-ahead log, 16 MiB, at which the writer
	// moves pages into the database file: four times SQLite's default, since the
	// same few pages are written by every commit and moved once.
	walPages = 4096
	// readers bounds the read connections. Reads are short and CPU-bound, so
	// more than a few only compete.
	readers = 4
)

// Options says where the database is and what it trusts.
type Options struct {
	Path string // of the database file; made with mode 0600 if it is not there
	// Secrets are the state secrets, MinSecret bytes or more each: the first
	// makes HMACs, all verify, so that they can be rotated.
	Secrets [][]byte
	Now     func() time.Time // nil for time.Now
	Log     *slog.Logger     // nil for none
	// MaxPages, if not 0, bounds the file: how tests fill a disk.
	MaxPages int
	// Interpose, in tests, stands around the whole effect of each Update: commit
	// runs the closure alone in its transaction and makes it durable. What
	// Interpose returns is what Update returns, so that a write can fail, or
	// happen and seem to have failed.
	Interpose func(ctx context.Context, name string, commit func() error) error
}

// Store is an open database. Its methods may be called from many goroutines.
type Store struct {
	now       func() time.Time
	log       *slog.Logger
	interpose func(context.Context, string, func() error) error
	seal      *sealer
	lock      *os.File

	writeDB *sql.DB
	writer  *sql.Conn // owned by the goroutine of write
	readDB  *sql.DB
	tidyDB  *sql.DB       // for checkpoints of the write-ahead log
	tidy    chan struct{} // asks for one; closed by write
	tidied  chan struct{} // closed when the last one is done

	ops      chan *op
	stopped  chan struct{} // closed when write has returned
	maxBatch int

	closing sync.RWMutex // held for reading while an op is sent
	closed  bool         // under closing

	sequencing sync.Mutex // one Sequence at a time

	follows atomic.Pointer[func(*signing.Request) []Job] // nil: nothing follows

	updates, commits atomic.Int64
}

// Follow has jobs asked, from now on, in the transaction of each change of a
// Request, with the Request as it then is: the jobs that it returns are written
// with the change. jobs must be quick, and change nothing.
func (s *Store) Follow(jobs func(*signing.Request) []Job) { s.follows.Store(&jobs) }

// Stats counts what a Store has done since it was opened.
type Stats struct {
	Updates int64 // closures that were run
	Commits int64 // transactions that made them durable
}

// Open opens the database, makes it if it is not there, and brings its schema
// up to date. It refuses (signing.Conflict) a file that another process holds
// open and a schema that is newer than this program.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{now: o.Now, log: o.Log, interpose: o.Interpose, ops: make(chan *op, maxBatch), stopped: make(chan struct{}), maxBatch: maxBatch, tidy: make(chan struct{}, 1), tidied: make(chan struct{})}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.interpose != nil {
		s.maxBatch = 1
	}
	var err error
	if s.seal, err = newSealer(o.Secrets); err != nil {
		return nil, err
	}
	path, err := createFile(o.Path)
	if err != nil {
		return nil, err
	}
	if s.lock, err = lockFile(path); err != nil {
		return nil, err
	}
	// From here on this process is the only server on the file.
	if err := s.openFile(ctx, path, o.MaxPages); err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	go s.write()
	go s.tidyUp()
	return s, nil
}

func (s *Store) openFile(ctx context.Context, path string, maxPages int) error {
	var err error
	shared := fmt.Sprintf("_busy_timeout=%d&_foreign_keys=on&_stmt_cache_size=%d", busyTimeout, statementCache)
	if s.writeDB, err = sql.Open("sqlite3", dsn(path, "_journal_mode=WAL&_synchronous=FULL&_txlock=immediate&"+shared)); err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	s.writeDB.SetMaxOpenConns(1)
	if s.writer, err = s.writeDB.Conn(ctx); err != nil {
		return dbError("opening "+path, err)
	}
	if err := checkPragmas(ctx, s.writer); err != nil {
		return err
	}
	if maxPages > 0 {
		if _, err := s.writer.ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", maxPages)); err != nil {
			return dbError("bounding "+path, err)
		}
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if err := s.forgetClaims(ctx); err != nil {
		return err
	}
	if s.readDB, err = sql.Open("sqlite3", dsn(path, "mode=ro&_query_only=1&"+shared)); err != nil {
		return fmt.Errorf("opening %s for reading: %w", path, err)
	}
	if s.tidyDB, err = sql.Open("sqlite3", dsn(path, "_synchronous=FULL&"+shared)); err != nil {
		return fmt.Errorf("opening %s for checkpoints: %w", path, err)
	}
	s.tidyDB.SetMaxOpenConns(1)
	s.readDB.SetMaxOpenConns(readers)
	s.readDB.SetMaxIdleConns(readers)
	if err := s.readDB.PingContext(ctx); err != nil {
		return dbError("opening "+path+" for reading", err)
	}
	return nil
}

// checkPragmas makes sure that the durability that was asked for is the one we
// got: a file system without shared memory silently leaves WAL off.
func checkPragmas(ctx context.Context, c *sql.Conn) error {
	// An altered schema must not run functions with side effects.
	if _, err := c.ExecContext(ctx, "PRAGMA trusted_schema = OFF"); err != nil {
		return dbError("setting trusted_schema", err)
	}
	if _, err := c.ExecContext(ctx, fmt.Sprintf("PRAGMA wal_autocheckpoint = %d", walPages)); err != nil {
		return dbError("setting wal_autocheckpoint", err)
	}
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := c.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(&got); err != nil {
			return dbError("reading "+pragma, err)
		}
		if got != want {
			return &signing.Error{Code: signing.Unavailable, Message: "the database cannot be made durable", Expected: pragma + " = " + want, Found: got, Fix: "put the database on a local file system"}
		}
	}
	return nil
}

// forgetClaims frees jobs and leases of earlier processes, so that work goes on
// at once after a crash. They are dead: this process holds the lock file. Leases
// of jobs stay: those run elsewhere.
func (s *Store) forgetClaims(ctx context.Context) error {
	if _, err := s.writer.ExecContext(ctx, "UPDATE jobs SET owner = '', due = min(due, ?) WHERE owner <> ''; DELETE FROM leases WHERE substr(owner, 1, length(?)) <> ?", nanos(s.now()), ClientOwner, ClientOwner); err != nil {
		return dbError("freeing the claims of earlier processes", err)
	}
	return nil
}

// createFile makes the database file with mode 0600 (SQLite gives its -wal and
// -shm files the same) and returns its name without symbolic links, so that two
// names of one file share one lock.
func createFile(path string) (string, error) {
	if path == "" {
		return "", &signing.Error{Code: signing.Invalid, Message: "no database file", Expected: "a path in store.sqlite"}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", &signing.Error{Code: signing.Unavailable, Message: "the database file cannot be opened", Expected: "a file that this user may read and write, in a folder that is there", Found: err.Error(), Err: err}
	}
	// Close before SQLite opens the file: closing later would drop its locks.
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("creating %s: %w", path, err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", fmt.Errorf("resolving database path: %w", err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", fmt.Errorf("resolving database path: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("opening the database's folder: %w", err)
	}
	defer func() { _ = dir.Close() }() // its Sync reports
	// From here on the name of a new file survives a crash of the machine.
	if err := dir.Sync(); err != nil {
		return "", fmt.Errorf("syncing the database's folder: %w", err)
	}
	return path, nil
}

// dsn returns the data source name of path; options are already escaped.
func dsn(path, options string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + options
}

// Stats returns the counts since Open.
func (s *Store) Stats() Stats {
	return Stats{Updates: s.updates.Load(), Commits: s.commits.Load()}
}

// Close finishes the Updates that were accepted, refuses new ones and closes
// the files. It may be called more than once.
func (s *Store) Close() error {
	s.closing.Lock()
	already := s.closed
	s.closed = true
	if !already {
		close(s.ops)
	}
	s.closing.Unlock()
	<-s.stopped
	<-s.tidied
	if already {
		return nil
	}
	return s.closeFiles()
}

// closeFiles closes what is open, the lock last: until then nobody else may
// open the database.
func (s *Store) closeFiles() error {
	var errs []error
	if s.readDB != nil {
		errs = append(errs, s.readDB.Close())
	}
	if s.tidyDB != nil {
		errs = append(errs, s.tidyDB.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
	}
	if s.writeDB != nil {
		errs = append(errs, s.writeDB.Close())
	}
	errs = append(errs, s.lock.Close())
	return errors.Join(errs...)
}

// retryFull is what a client is told to wait when the disk is full or busy.
const retryFull = 10 * time.Second

// dbError turns an error of SQLite into one of ours. What an operator can mend
// is signing.Unavailable; the rest is a fault of this program.
func dbError(doing string, err error) error {
	if errors.Is(err, sql.ErrConnDone) {
		return errClosed()
	}
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	out := &signing.Error{Code: signing.Unavailable, Found: e.Error(), RetryAfter: retryFull, Err: fmt.Errorf("%s: %w", doing, err)}
	switch e.Code {
	case sqlite3.ErrFull:
		out.Message, out.Expected = "the database is full", "room for it to grow"
		out.Fix = "free space on the volume of the database file; nothing was half-done and the service goes on by itself"
	case sqlite3.ErrIoErr, sqlite3.ErrCantOpen, sqlite3.ErrReadonly, sqlite3.ErrPerm, sqlite3.ErrNomem:
		out.Message, out.Expected = "the database cannot be written", "a volume that this user may write, with free space"
		out.Fix = "look at the volume of the database file; the service goes on by itself"
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		out.Message, out.Expected = "the database is locked by another process", "this service to be its only writer"
		out.Fix = "end the sqlite3 shell or backup that holds it"
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
		out.Message, out.Expected = "the database file is damaged", "an SQLite database"
		out.Fix = "stop the service, keep the file, and restore a backup"
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
	return out
}

func errClosed() error {
	return &signing.Error{Code: signing.Unavailable, Message: "the service is shutting down", RetryAfter: retryFull}
}

// nanos is the column form of a time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// fromNanos is the inverse of nanos.
func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
