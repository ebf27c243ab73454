package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/workflow"
)

// putContent answers PUT /v1/requests/{id}/content/{digest}: a manifest or an
// image configuration of a request that its job publishes.
func (s *Server) putContent(c echo.Context, who caller) error {
	body := http.MaxBytesReader(c.Response(), c.Request().Body, workflow.MaxContent+1)
	raw, err := io.ReadAll(body)
	var cut *http.MaxBytesError
	switch {
	case errors.As(err, &cut):
		raw = make([]byte, workflow.MaxContent+1) // refused with its bound
	case err != nil:
		return &signing.Error{Code: signing.Invalid, Message: "the body ended early", Expected: "the whole content", Found: fmt.Sprintf("%d bytes", len(raw)), Fix: "send it again", Err: err}
	}
	if err := s.Workflow.PutContent(c.Request().Context(), c.Param("id"), who.capability, signing.Digest(c.Param("digest")), raw); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// envelopes answers GET /v1/requests/{id}/envelopes with the signatures that the
// job has to write.
func (s *Server) envelopes(c echo.Context, who caller) error {
	after := 0
	if v := c.QueryParam("after"); v != "" {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil {
			return &signing.Error{Code: signing.Invalid, Message: "?after= is not the number of a task", Expected: "`next` of the page before", Found: fmt.Sprintf("%.40q", v)}
		}
		after = int(n)
	}
	released, next, err := s.Workflow.Envelopes(c.Request().Context(), c.Param("id"), who.capability, after)
	if err != nil {
		return err
	}
	out := api.Envelopes{Envelopes: make([]api.Envelope, 0, len(released)), Next: next}
	for _, r := range released {
		out.Envelopes = append(out.Envelopes, api.Envelope{Task: r.Task.ID, Attachment: r.Attachment})
	}
	return c.JSON(http.StatusOK, out)
}

// lease answers POST /v1/requests/{id}/lease.
func (s *Server) lease(c echo.Context, who caller) error {
	r, err := api.ReadLease(http.MaxBytesReader(c.Response(), c.Request().Body, api.MaxLease+1))
	if err != nil {
		return err
	}
	until, err := s.Workflow.LeaseDigest(c.Request().Context(), c.Param("id"), who.capability, place(r))
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.Lease{Until: until.UTC(), Seconds: int(until.Sub(s.Now()) / time.Second)})
}

// published answers POST /v1/requests/{id}/published.
func (s *Server) published(c echo.Context, who caller) error {
	r, err := api.ReadPublished(http.MaxBytesReader(c.Response(), c.Request().Body, api.MaxPublished+1))
	if err != nil {
		return err
	}
	written := make([]workflow.Written, 0, len(r.Tasks))
	for _, t := range r.Tasks {
		written = append(written, workflow.Written{Task: t.ID, Locations: t.Locations})
	}
	snap, err := s.Workflow.Published(c.Request().Context(), c.Param("id"), who.capability, place(r.LeaseRequest), written)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s.wire(snap))
}

func place(r api.LeaseRequest) workflow.Place {
	return workflow.Place{Repository: signing.Repository(r.Repository), Digest: signing.Digest(r.Digest), Holder: r.Holder}
}
