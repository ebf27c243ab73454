package server

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/sealwright/sealwright/internal/evidence"
	"github.com/sealwright/sealwright/internal/signing"
)

// evidence answers GET /v1/requests/{id}/evidence with the evidence file of a
// Request that is over. It is verified here the way an auditor will, and signed
// only then: the log's key never vouches for what does not verify.
func (s *Server) evidence(c echo.Context, who caller) error {
	since, err := sinceOf(c)
	if err != nil {
		return err
	}
	ctx, id := c.Request().Context(), c.Param("id")
	if who.capability == "" {
		_, err = s.Workflow.ReadAs(ctx, id, who.id)
	} else {
		_, err = s.Workflow.Read(ctx, id, who.capability)
	}
	if err != nil {
		return err
	}
	raw, err := s.EvidenceOf(ctx, id, since)
	if err != nil {
		return err
	}
	c.Response().Header().Set(echo.HeaderContentDisposition, fmt.Sprintf("attachment; filename=%q", id+".evidence.json"))
	return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, raw)
}

func sinceOf(c echo.Context) (uint64, error) {
	v := c.QueryParam("since")
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 63)
	if err != nil {
		return 0, &signing.Error{Code: signing.Invalid, Message: "?since= is not the size of a log", Expected: "a number", Found: fmt.Sprintf("%.40q", v)}
	}
	return n, nil
}

// EvidenceOf returns the evidence file of a Request, whoever asks. Since, if not
// 0, is the size of an older log to prove consistency with.
func (s *Server) EvidenceOf(ctx context.Context, id string, since uint64) ([]byte, error) {
	r, err := s.Workflow.RecordOf(ctx, id)
	if err != nil {
		return nil, err
	}
	src := evidence.Source{Log: s.LogKey.Origin(), Request: *r.Request, Keys: r.Keys, Checkpoint: r.Checkpoint, Nodes: s.Store.LogSource().Nodes, Since: since}
	for _, t := range r.Tasks {
		src.Tasks = append(src.Tasks, *t)
	}
	for _, ev := range r.Events {
		src.Events = append(src.Events, evidence.Leaf{Index: ev.Leaf, Data: ev.Body})
	}
	e, err := evidence.Build(ctx, src)
	if err != nil {
		return nil, err
	}
	options := evidence.Options{LogKey: s.LogKey.String(), Envelope: s.Workflow.CheckTask}
	if _, err := evidence.Check(e, options); err != nil {
		// What the service itself wrote does not fit together.
		return nil, fmt.Errorf("verifying the evidence of %s before signing it: %w", id, &signing.Error{Code: signing.Internal, Err: err})
	}
	return evidence.Write(e, s.Workflow.SignStatement)
}
