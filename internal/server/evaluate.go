package server

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

// facts answers GET /v1/requests/{id}/facts.
func (s *Server) facts(c echo.Context, who caller) error {
	f, err := s.Workflow.Facts(c.Request().Context(), c.Param("id"), who.id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, f)
}

// evaluate answers POST /v1/policies/evaluate with what would be decided. A
// recorded request may be asked about only by those who may read it.
func (s *Server) evaluate(c echo.Context, who caller) error {
	body, err := api.ReadEvaluate(http.MaxBytesReader(c.Response(), c.Request().Body, api.MaxEvaluate+1))
	if err != nil {
		return err
	}
	var f signing.Facts
	if body.Facts != nil {
		f = *body.Facts
	} else if f, err = s.Workflow.Facts(c.Request().Context(), body.Request, who.id); err != nil {
		return err
	}
	if body.Policy != "" {
		f.Policy = body.Policy
	}
	e, err := s.Workflow.Evaluate(f)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, api.Evaluation{Effect: e.Effect, Project: e.Project, Policy: e.Policy, Generation: e.Generation, Reasons: e.Reasons})
}
