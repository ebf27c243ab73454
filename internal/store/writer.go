package store

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/mattn/go-sqlite3"
)

// maxBatch bounds the closures of one transaction: beyond it the wait of the
// first grows while the cost of a commit is already shared enough.
const maxBatch = 64

// tidyEvery is how many commits there are between two checkpoints: some hundred
// pages of the write-ahead log.
const tidyEvery = 64

// op is one Update on its way. The writer owns all fields from the moment that
// started is set until done is closed.
type op struct {
	ctx  context.Context
	name string
	fn   func(*Tx) error

	started atomic.Bool // set by the writer when it runs the op, or by the caller who gives up
	undo    []func()    // puts structs of the caller back to what they were
	err     error
	done    chan struct{}
}

func (o *op) finish(err error) {
	o.err = err
	close(o.done)
}

// Update runs fn in a transaction and returns when what fn did is durable. fn
// may be run together with closures of other callers in one transaction; if it
// returns an error or panics, what it did alone is undone and that error is
// returned. fn runs on another goroutine, must be quick and must not wait for
// anything else. A context that ends before fn was started keeps it from
// running; once started, Update waits for the outcome.
//
// After an error other than fn's own, the change did not happen, save for one
// case that no database can rule out: a disk that failed while syncing. Callers
// that care load the row again.
func (s *Store) Update(ctx context.Context, name string, fn func(*Tx) error) error {
	o := &op{ctx: ctx, name: name, fn: fn, done: make(chan struct{})}
	var err error
	if s.interpose == nil {
		err = s.run(o)
	} else {
		err = s.runInterposed(o)
	}
	if err != nil {
		// The caller must not go on with versions that the database may not have.
		for i := len(o.undo) - 1; i >= 0; i-- {
			o.undo[i]()
		}
	}
	return err
}

func (s *Store) runInterposed(o *op) error {
	ran, result := false, error(nil)
	err := s.interpose(o.ctx, o.name, func() error {
		ran, result = true, s.run(o) // a second call finds o started and gets its outcome
		return result
	})
	if err == nil && !ran {
		return fmt.Errorf("%s: the interposer neither committed nor failed", o.name)
	}
	if err == nil {
		return result
	}
	return err
}

// run hands o to the writer and waits for the outcome.
func (s *Store) run(o *op) error {
	if err := s.send(o); err != nil {
		return err
	}
	select {
	case <-o.done:
	case <-o.ctx.Done():
		if o.started.CompareAndSwap(false, true) {
			return fmt.Errorf("%s: %w", o.name, o.ctx.Err())
		}
		<-o.done
	}
	return o.err
}

func (s *Store) send(o *op) error {
	s.closing.RLock()
	defer s.closing.RUnlock()
	if s.closed {
		return errClosed()
	}
	if err := o.ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", o.name, err)
	}
	select {
	case s.ops <- o:
		return nil
	case <-o.ctx.Done():
		return fmt.Errorf("%s: %w", o.name, o.ctx.Err())
	}
}

// write is the only writer. It takes what has queued up while the last commit
// was syncing into the next transaction.
func (s *Store) write() {
	batch := make([]*op, 0, s.maxBatch)
	running := false
	defer func() {
		if !running {
			close(s.tidy)
			close(s.stopped)
			return
		}
		// A closure ended this goroutine (runtime.Goexit, as testing's FailNow
		// does): nothing of its batch is kept, and the next ones get a new writer.
		s.rollback()
		for _, o := range batch {
			o.finish(fmt.Errorf("%s: a closure ended its goroutine", o.name))
		}
		go s.write()
	}()
	for first := range s.ops {
		batch = append(batch[:0], first)
	more:
		for len(batch) < s.maxBatch {
			select {
			case o, ok := <-s.ops:
				if !ok {
					break more
				}
				batch = append(batch, o)
			default:
				break more
			}
		}
		batch = start(batch)
		if len(batch) > 0 {
			running = true
			s.commit(batch)
			running = false
		}
	}
}

// start keeps of batch what is still wanted.
func start(batch []*op) []*op {
	live := batch[:0]
	for _, o := range batch {
		if !o.started.CompareAndSwap(false, true) {
			continue // its caller has gone
		}
		if err := o.ctx.Err(); err != nil {
			o.finish(fmt.Errorf("%s: %w", o.name, err))
			continue
		}
		live = append(live, o)
	}
	return live
}

// commit runs batch in one transaction and tells every caller the outcome.
func (s *Store) commit(batch []*op) {
	results, err := s.transact(batch)
	for i, o := range batch {
		switch {
		case results[i] != nil:
			o.finish(results[i])
		case err != nil:
			o.finish(fmt.Errorf("%s: %w", o.name, err))
		default:
			o.finish(nil)
		}
	}
}

// transact returns the closures' own errors, and the error that befell all.
func (s *Store) transact(batch []*op) (results []error, err error) {
	results = make([]error, len(batch))
	if err := s.control("BEGIN IMMEDIATE"); err != nil {
		return results, err
	}
	now, good, seq := s.now().UTC(), 0, int64(0)
	for i, o := range batch {
		s.updates.Add(1)
		if results[i], err = s.runOne(o, now, &seq, len(batch) > 1); err != nil {
			s.rollback()
			return results, err
		}
		if results[i] == nil {
			good++
		}
	}
	if good == 0 {
		s.rollback()
		return results, nil
	}
	if err := s.control("COMMIT"); err != nil {
		s.rollback()
		return results, err
	}
	// From here on what the good closures did survives the death of the machine.
	if s.commits.Add(1)%tidyEvery == 0 {
		select {
		case s.tidy <- struct{}{}:
		default: // one is asked for already
		}
	}
	return results, nil
}

// tidyUp moves pages of the write-ahead log into the database file beside the
// writer, which then has few left to move in the commit that begins the log anew:
// moving all of them there would keep everybody waiting. Nothing depends on it.
func (s *Store) tidyUp() {
	defer close(s.tidied)
	for range s.tidy {
		if _, err := s.tidyDB.ExecContext(context.Background(), "PRAGMA wal_checkpoint(PASSIVE)"); err != nil {
			s.log.Warn("moving the write-ahead log into the database", "error", err)
		}
	}
}

// runOne runs o inside the open transaction. own is o's own failure, undone
// here; err means that the whole transaction is lost. seq is the number of the last
// event, 0 before it was read in this transaction.
func (s *Store) runOne(o *op, now time.Time, seq *int64, shared bool) (own, err error) {
	if shared {
		if err := s.control("SAVEPOINT one"); err != nil {
			return nil, err
		}
	}
	tx := &Tx{conn: s.writer, seal: s.seal, now: now, op: o, seq: *seq}
	if jobs := s.follows.Load(); jobs != nil {
		tx.follows = *jobs
	}
	own = call(o, tx)
	if tx.broken != nil {
		own = tx.broken // also where the closure swallowed it
	}
	tx.broken = errTxOver
	if own == nil {
		*seq = tx.seq
		if shared {
			err = s.control("RELEASE one")
		}
		return nil, err
	}
	if s.autoCommit() {
		// SQLite gave the transaction up by itself, as it may on a full disk.
		return own, fmt.Errorf("the transaction was lost: %w", own)
	}
	if shared {
		err = s.control("ROLLBACK TO one; RELEASE one")
	}
	return own, err
}

// call turns a panic of the closure into its error.
func call(o *op, tx *Tx) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: panic: %v\n%s", o.name, r, debug.Stack())
		}
	}()
	if err := o.fn(tx); err != nil || tx.broken != nil {
		return err
	}
	return tx.flush()
}

func (s *Store) control(statement string) error {
	if _, err := s.writer.ExecContext(context.Background(), statement); err != nil {
		return dbError(statement, err)
	}
	return nil
}

// rollback ends the transaction if SQLite has not done so by itself.
func (s *Store) rollback() {
	if s.autoCommit() {
		return
	}
	if err := s.control("ROLLBACK"); err != nil {
		s.log.Error("rolling back", "error", err)
	}
}

// autoCommit reports whether no transaction is open.
func (s *Store) autoCommit() bool {
	open := false
	err := s.writer.Raw(func(driver any) error {
		c, ok := driver.(*sqlite3.SQLiteConn)
		if !ok {
			return errors.New("not an SQLite connection")
		}
		open = !c.AutoCommit()
		return nil
	})
	return err == nil && !open
}
