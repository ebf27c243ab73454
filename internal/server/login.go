package server

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/sealwright/sealwright/internal/api"
)

// login answers where persons log in.
func (s *Server) login(c echo.Context, _ caller) error {
	out := api.Login{Issuers: []api.LoginIssuer{}}
	for _, l := range s.Identity.Logins() {
		out.Issuers = append(out.Issuers, api.LoginIssuer{Issuer: l.Issuer, ClientID: l.Audience, Scopes: l.Scopes})
	}
	return c.JSON(http.StatusOK, out)
}
