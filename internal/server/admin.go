package server

import (
	"archive/tar"
	"context"
	"fmt"
	"net/http"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/store"
)

// PathExport is where the admin socket streams the audit log, as a tar archive
// of the files of an export.
const PathExport = "/export"

// PathReady is where the service says whether it is ready, to everyone and on
// the admin socket.
const PathReady = "/readyz"

// Admin returns the handler for the admin socket. Whoever can connect to it is
// the operator: it must be served on a unix socket that only the service's own
// user can open.
func (s *Server) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+PathReady, s.Handler())
	// An emergency needs both: access to this machine, and the token of a person.
	mux.Handle("POST "+api.PathRequests+"/{id}/approve", byOperator(s.Handler()))
	mux.HandleFunc("GET "+PathExport, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-tar")
		// The bounds on writing are for strangers; a large log takes a while.
		if err := http.NewResponseController(w).SetWriteDeadline(s.Now().AddDate(0, 0, 1)); err != nil {
			s.Log.Warn("exporting the audit log", "error", err)
		}
		// The export shall hold what happened up to now. A log that stands still
		// is exported as it is: that is when it is needed most.
		if err := s.Workflow.Sequence(r.Context()); err != nil {
			s.Log.Error("extending the audit log before its export", "error", err)
		}
		if err := exportTar(r.Context(), s.Store, w); err != nil {
			s.Log.Error("exporting the audit log", "error", err)
			panic(http.ErrAbortHandler) // a cut-off answer must not look whole
		}
	})
	return mux
}

func exportTar(ctx context.Context, db *store.Store, w http.ResponseWriter) error {
	t := tar.NewWriter(w)
	_, err := audit.WriteExport(ctx, db.LogSource(), func(name string, data []byte) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err := t.Write(data)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing the export: %w", err)
	}
	return t.Close()
}
