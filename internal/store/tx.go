package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Tx is what a closure of Update or View works with. It must not be used
// outside the closure.
type Tx struct {
	conn     *sql.Conn
	seal     *sealer
	now      time.Time
	readOnly bool
	op       *op                   // nil in a View
	seq      int64                 // last event's, 0 before it is known
	changes  []*rowChange          // to be written by flush, in order
	changed  map[string]*rowChange // the same by id
	held     *Claim                // the claim that was last found to hold, in this transaction
	follows  func(*signing.Request) []Job
	// broken is the first failure of SQLite, or of a write that was half-done.
	// After it nothing is run any more: SQLite may have ended the transaction, and
	// a statement would commit alone.
	broken error
}

var errTxOver = errors.New("a transaction was used after its function returned")

// Now returns the time of the transaction, the same for all that it writes.
func (tx *Tx) Now() time.Time { return tx.now }

// View runs fn on a snapshot of the database; writes fail.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) (err error) {
	conn, err := s.readDB.Conn(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for a read connection: %w", ctx.Err())
		}
		if s.isClosed() {
			return errClosed()
		}
		return dbError("opening a read connection", err)
	}
	defer func() { _ = conn.Close() }() // read only
	// Without a context: its cancellation would interrupt statements that are
	// bounded anyway, at the price of a goroutine for each.
	if _, err := conn.ExecContext(context.Background(), "BEGIN"); err != nil {
		return dbError("beginning to read", err)
	}
	tx := &Tx{conn: conn, seal: s.seal, now: s.now().UTC(), readOnly: true}
	defer func() {
		tx.broken = errTxOver
		if _, e := conn.ExecContext(context.Background(), "ROLLBACK"); e != nil && err == nil {
			err = dbError("ending to read", e)
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.broken
}

func (s *Store) isClosed() bool {
	s.closing.RLock()
	defer s.closing.RUnlock()
	return s.closed
}

// exec runs a statement that writes and returns the number of rows it changed.
func (tx *Tx) exec(query string, args ...any) (int64, error) {
	if tx.broken != nil {
		return 0, tx.broken
	}
	if tx.readOnly {
		return 0, errors.New("a View cannot write")
	}
	res, err := tx.conn.ExecContext(context.Background(), query, args...)
	if err != nil {
		return 0, tx.fail(err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, tx.fail(err)
	}
	return n, nil
}

// row scans the first row of a query into dest and reports whether there was one.
func (tx *Tx) row(dest []any, query string, args ...any) (bool, error) {
	if tx.broken != nil {
		return false, tx.broken
	}
	err := tx.conn.QueryRowContext(context.Background(), query, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, tx.fail(err)
	}
	return true, nil
}

// rows calls each for every row of a query. each must not use tx.
func (tx *Tx) rows(each func(scan func(dest ...any) error) error, query string, args ...any) error {
	if tx.broken != nil {
		return tx.broken
	}
	rows, err := tx.conn.QueryContext(context.Background(), query, args...)
	if err != nil {
		return tx.fail(err)
	}
	defer func() { _ = rows.Close() }() // read only
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return tx.fail(err)
	}
	return nil
}

func (tx *Tx) fail(err error) error {
	tx.broken = dbError("database", err)
	return tx.broken
}

// whole is deferred by methods that write several rows: if one fails halfway,
// the transaction is lost, whatever the closure makes of the error.
func (tx *Tx) whole(err *error) {
	if *err != nil && tx.broken == nil {
		tx.broken = *err
	}
}

// set assigns *p = v now, and puts the old value back if the transaction does
// not become durable.
func set[T any](tx *Tx, p *T, v T) {
	old := *p
	tx.op.undo = append(tx.op.undo, func() { *p = old })
	*p = v
}

func conflict(message, expected, found, fix string) *signing.Error {
	return &signing.Error{Code: signing.Conflict, Message: message, Expected: expected, Found: found, Fix: fix}
}
