package server

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/workflow"
)

// approve answers POST /v1/requests/{id}/approve, for a person where the policy
// names the way.
func (s *Server) approve(c echo.Context, who caller) error {
	body, err := api.ReadApprove(http.MaxBytesReader(c.Response(), c.Request().Body, api.MaxCommand+1))
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	in := workflow.Input{Verb: workflow.VerbApprove, Code: body.Code, Via: signing.ViaAPI}
	if body.Ticket != "" {
		if !isLocal(c.Request().Context()) {
			return s.refuseToken(c, who, &signing.Error{Code: signing.Denied, Message: "the glass is broken on the service's own machine", Expected: "the admin socket of the service", Found: "its public address", Fix: "run `sealwrightd approve --break-glass` where the service runs, or leave `ticket` away"})
		}
		in.Via, in.Ticket = signing.ViaBreakGlass, body.Ticket
	}
	return s.command(c, who, in)
}

// local marks requests that came by the admin socket.
type local struct{}

func isLocal(ctx context.Context) bool { return ctx.Value(local{}) != nil }

// byOperator lets requests of the admin socket through to h, marked.
func byOperator(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), local{}, true)))
	})
}

// deny answers POST /v1/requests/{id}/deny.
func (s *Server) deny(c echo.Context, who caller) error {
	body, err := api.ReadDeny(http.MaxBytesReader(c.Response(), c.Request().Body, api.MaxCommand+1))
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	return s.command(c, who, workflow.Input{Verb: workflow.VerbDeny, Code: body.Code, Reason: body.Reason, Via: signing.ViaAPI})
}

// command carries out what a person asks for with their own token.
func (s *Server) command(c echo.Context, who caller, in workflow.Input) error {
	in.Request, in.Identity, in.At = c.Param("id"), who.id, s.Now()
	out, err := s.Workflow.Command(c.Request().Context(), in)
	if err == nil && !out.Accepted {
		err = &signing.Error{Code: signing.Denied, Message: "the command was refused", Found: out.Message}
	}
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	snap, err := s.Workflow.Answered(c.Request().Context(), in.Request)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, s.wire(snap))
}

// resubmit answers POST /v1/requests/{id}/resubmit with a new request.
func (s *Server) resubmit(c echo.Context, who caller) error {
	body, err := api.ReadResubmit(http.MaxBytesReader(c.Response(), c.Request().Body, api.MaxCommand+1))
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	snap, err := s.Workflow.Resubmit(c.Request().Context(), c.Param("id"), body.Policy, time.Duration(body.DeadlineSeconds)*time.Second, who.id)
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	c.Response().Header().Set(echo.HeaderLocation, api.PathRequests+"/"+snap.Request.ID)
	return c.JSON(http.StatusCreated, s.wire(snap))
}

// retry answers POST /v1/requests/{id}/retry: what it waits for is tried now.
func (s *Server) retry(c echo.Context, who caller) error {
	snap, err := s.Workflow.Retry(c.Request().Context(), c.Param("id"), who.id)
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	return c.JSON(http.StatusOK, s.wire(snap))
}
