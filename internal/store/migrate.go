package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"slices"

	"github.com/sealwright/sealwright/internal/signing"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// applicationID marks the file as ours ("Seal" in ASCII; PRAGMA application_id).
const applicationID = 0x5365616c

// migrations returns the embedded files in order; migration N makes schema version N.
func migrations() ([]string, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("listing migrations: %w", err)
	}
	slices.Sort(names)
	out := make([]string, 0, len(names))
	for _, name := range names {
		b, err := migrationFiles.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading migration: %w", err)
		}
		out = append(out, string(b))
	}
	return out, nil
}

// migrate brings the schema up to date, each step in a transaction of its own.
func (s *Store) migrate(ctx context.Context) error {
	steps, err := migrations()
	if err != nil {
		return err
	}
	var app, version, tables int
	row := s.writer.QueryRowContext(ctx, "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)")
	if err := row.Scan(&app, &version, &tables); err != nil {
		return dbError("reading the schema version", err)
	}
	if app != applicationID && (tables > 0 || version > 0) {
		return &signing.Error{Code: signing.Conflict, Message: "this is not a database of Sealwright", Expected: fmt.Sprintf("an empty file, or application_id %d", applicationID), Found: fmt.Sprintf("application_id %d with %d tables and indexes", app, tables), Fix: "give store.sqlite a file of its own"}
	}
	if version > len(steps) {
		return &signing.Error{Code: signing.Conflict, Message: "the database was written by a newer version", Expected: fmt.Sprintf("schema version %d or less", len(steps)), Found: fmt.Sprintf("schema version %d", version), Fix: "start the newer version of sealwrightd, or restore a backup from before the upgrade"}
	}
	for i := version; i < len(steps); i++ {
		script := fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT", steps[i], applicationID, i+1)
		if _, err := s.writer.ExecContext(ctx, script); err != nil {
			_, _ = s.writer.ExecContext(ctx, "ROLLBACK") // SQLite may have done it already
			return dbError(fmt.Sprintf("migrating to schema version %d", i+1), err)
		}
		// From here on the schema is at version i+1, whatever happens to the next step.
		s.log.InfoContext(ctx, "database schema migrated", "version", i+1)
	}
	return nil
}
