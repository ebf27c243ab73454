package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/workflow"
)

// submit answers POST /v1/requests: 201 for a new Request, 200 for one that was
// there. When it answers, the Request is durable.
func (s *Server) submit(c echo.Context, who caller) error {
	key := c.Request().Header.Get(api.HeaderIdempotencyKey)
	if err := api.ValidateIdempotencyKey(key); err != nil {
		return s.refuseToken(c, who, err)
	}
	body, err := api.ReadSubmission(http.MaxBytesReader(c.Response(), c.Request().Body, api.MaxSubmission+1))
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	sub := workflow.Submission{Policy: body.Policy, IdempotencyKey: key, Deadline: time.Duration(body.DeadlineSeconds) * time.Second, Publish: body.Publisher(), Untrust: body.Untrusted()}
	for _, a := range body.Artifacts {
		sub.Artifacts = append(sub.Artifacts, a.Artifact())
	}
	receipt, err := s.Workflow.Submit(c.Request().Context(), who.id, who.origin, sub)
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	status := http.StatusOK
	if receipt.Created {
		status = http.StatusCreated
	}
	h := c.Response().Header()
	h.Set(api.HeaderCapability, receipt.Capability)
	h.Set(echo.HeaderLocation, api.PathRequests+"/"+receipt.Request.ID)
	return c.JSON(status, s.wire(receipt.Snapshot))
}

func (s *Server) wire(snap workflow.Snapshot) api.Request {
	r := *snap.Request
	r.Version = snap.Version()
	tasks := make([]signing.Task, 0, len(snap.Tasks))
	for _, t := range snap.Tasks {
		tasks = append(tasks, *t)
	}
	out := api.FromRequest(r, tasks, snap.Checkpoint)
	tally, code := s.Workflow.Standing(snap.Request)
	out.Approval = api.FromApproval(r, tally, code)
	return out
}

// read answers GET /v1/requests/{id}, at once or, with ?wait=, when the version
// is no longer the one given.
func (s *Server) read(c echo.Context, who caller) error {
	wait, version, err := waitOf(c)
	if err != nil {
		return err
	}
	ctx, id := c.Request().Context(), c.Param("id")
	var snap workflow.Snapshot
	switch {
	case who.capability == "" && wait == 0:
		snap, err = s.Workflow.ReadAs(ctx, id, who.id)
	case who.capability == "":
		snap, err = s.Workflow.WaitAs(ctx, id, who.id, version, wait)
	case wait == 0:
		snap, err = s.Workflow.Read(ctx, id, who.capability)
	default:
		snap, err = s.Workflow.Wait(ctx, id, who.capability, version, wait)
	}
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s.wire(snap))
}

func waitOf(c echo.Context) (wait time.Duration, version int64, err error) {
	if v := c.QueryParam("wait"); v != "" {
		wait, err = time.ParseDuration(v)
		if err != nil || wait < 0 {
			return 0, 0, &signing.Error{Code: signing.Invalid, Message: "?wait= is not a duration", Expected: "as in 30s, at most " + api.MaxWait.String(), Found: fmt.Sprintf("%.40q", v)}
		}
		wait = min(wait, api.MaxWait)
	}
	if v := c.QueryParam("version"); v != "" {
		version, err = strconv.ParseInt(v, 10, 64)
		if err != nil {
			return 0, 0, &signing.Error{Code: signing.Invalid, Message: "?version= is not a number", Found: fmt.Sprintf("%.40q", v)}
		}
	}
	return wait, version, nil
}

// cancel answers POST /v1/requests/{id}/cancel, which needs a fresh token of
// the run that submitted, or an admin's.
func (s *Server) cancel(c echo.Context, who caller) error {
	snap, err := s.Workflow.Cancel(c.Request().Context(), c.Param("id"), who.id, who.origin)
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	return c.JSON(http.StatusOK, s.wire(snap))
}

func (s *Server) checkpoint(c echo.Context, _ caller) error {
	var note []byte
	err := s.Store.View(c.Request().Context(), func(tx *store.Tx) (err error) {
		note, _, err = tx.Checkpoint()
		return err
	})
	if err != nil {
		return err
	}
	if len(note) == 0 {
		return &signing.Error{Code: signing.NotFound, Message: "no checkpoint was signed yet"}
	}
	return c.Blob(http.StatusOK, "text/plain; charset=utf-8", note)
}

// tile answers with a tile or an entry bundle by C2SP tlog-tiles. Full ones
// never change.
func (s *Server) tile(c echo.Context, _ caller) error {
	t, err := audit.ParseTile("tile/" + c.Param("*"))
	if err != nil {
		return err
	}
	var out []byte
	err = s.Store.View(c.Request().Context(), func(tx *store.Tx) error {
		_, size, err := tx.Checkpoint()
		if err != nil {
			return err
		}
		if !t.In(size) {
			return &signing.Error{Code: signing.NotFound, Message: "the log has no such tile", Expected: fmt.Sprintf("a tile of a log of %d entries", size), Found: t.Path()}
		}
		out, err = tileBytes(tx, t)
		return err
	})
	if err != nil {
		return err
	}
	if t.Width == audit.TileWidth {
		c.Response().Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	return c.Blob(http.StatusOK, "application/octet-stream", out)
}

func tileBytes(tx *store.Tx, t audit.Tile) ([]byte, error) {
	if t.Level == audit.Entries {
		from, to := t.Range()
		entries, err := tx.LogEntries(from, to)
		if err != nil {
			return nil, err
		}
		return audit.MarshalBundle(entries)
	}
	hashes, err := tx.Nodes(t.Nodes())
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, h := range hashes {
		out = append(out, h...)
	}
	return out, nil
}

// ready answers 200 if this process can decide, sign and log, 503 if not.
func (s *Server) ready(c echo.Context, _ caller) error {
	status := http.StatusOK
	type line struct {
		Name    string `json:"name"`
		OK      bool   `json:"ok"`
		Warning bool   `json:"warning,omitempty"`
		Detail  string `json:"detail,omitempty"`
	}
	var lines []line
	for _, check := range s.Workflow.Ready(c.Request().Context()) {
		if !check.OK {
			status = http.StatusServiceUnavailable
		}
		lines = append(lines, line{check.Name, check.OK, check.Warning, check.Detail})
	}
	return c.JSON(status, struct {
		Ready  bool   `json:"ready"`
		Checks []line `json:"checks"`
	}{status == http.StatusOK, lines})
}

func baseContext(base context.Context) func(net.Listener) context.Context {
	return func(net.Listener) context.Context { return base }
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
