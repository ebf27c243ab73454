package server

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/workflow"
)

// submitList answers POST /v1/lists with the request for a person's list.
func (s *Server) submitList(c echo.Context, who caller) error {
	body, err := api.ReadList(http.MaxBytesReader(c.Response(), c.Request().Body, api.MaxSubmission+1))
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	in := workflow.ListSubmission{
		Policy: body.Policy, Repository: body.Repository, Deadline: time.Duration(body.DeadlineSeconds) * time.Second,
		List: signing.List{Digest: signing.Digest(body.List.Digest), Made: body.List.Made},
	}
	for _, a := range body.Artifacts {
		in.Artifacts = append(in.Artifacts, a.Artifact())
	}
	snap, err := s.Workflow.SubmitList(c.Request().Context(), in, who.id)
	if err != nil {
		return s.refuseToken(c, who, err)
	}
	c.Response().Header().Set(echo.HeaderLocation, api.PathRequests+"/"+snap.Request.ID)
	return c.JSON(http.StatusCreated, s.wire(snap))
}
