package server

import (
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
	return s.command(c, who, workflow.Input{Verb: workflow.VerbApprove, Code: body.Code})
}

// deny answers POST /v1/requests/{id}/deny.
func (s *Server) deny(c echo.Context, who caller) error {
	body, err := api.ReadDeny(http.MaxBytesReader(c.Response(), c.Request().Body, api.MaxCommand+1))
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	return s.command(c, who, workflow.Input{Verb: workflow.VerbDeny, Code: body.Code, Reason: body.Reason})
}

// command carries out what a person asks for with their own token.
func (s *Server) command(c echo.Context, who caller, in workflow.Input) error {
	in.Request, in.Via, in.Identity, in.At = c.Param("id"), signing.ViaAPI, who.id, s.Now()
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
