package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/server"
)

func cmdAuditExport(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("audit export", errs)
	path := configFlag(f)
	dir := f.String("out", "", "`folder` to write, which must be empty or new")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	if *dir == "" {
		return &usageError{"--out is missing"}
	}
	c, err := load(*path)
	if err != nil {
		return err
	}
	put, err := audit.Folder(*dir)
	if err != nil {
		return err
	}
	n, err := exportRunning(ctx, c.Server.AdminSocket, put)
	if errors.Is(err, errNotRunning) {
		n, err = exportStopped(ctx, c, put)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "wrote %d files of the audit log to %s\n", n, *dir)
	return err
}

var errNotRunning = errors.New("no service listens on the admin socket")

// exportRunning copies the export that the running service streams.
func exportRunning(ctx context.Context, socket string, put func(string, []byte) error) (int, error) {
	if socket == "" {
		return 0, errNotRunning
	}
	client := adminClient(socket)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+server.PathExport, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNotRunning, err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return 0, errors.Join(fmt.Errorf("the service answered %s: %s", resp.Status, text), err)
	}
	n := 0
	for r := tar.NewReader(resp.Body); ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, fmt.Errorf("reading the export: %w", err)
		}
		if h.Size > audit.MaxBundle {
			return n, fmt.Errorf("reading the export: %s has %d bytes", h.Name, h.Size)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return n, fmt.Errorf("reading the export: %w", err)
		}
		if err := put(h.Name, data); err != nil {
			return n, err
		}
	}
	return n, nil
}

// exportStopped reads the database itself; it fails while a service has it.
func exportStopped(ctx context.Context, c *loaded, put func(string, []byte) error) (n int, err error) {
	db, err := openStore(ctx, c.Store, slog.New(slog.DiscardHandler))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = audit.WriteExport(ctx, db.LogSource(), func(name string, data []byte) error {
		n++
		return put(name, data)
	})
	return n, err
}
