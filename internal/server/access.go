package server

import (
	"errors"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/identity"
	"github.com/sealwright/sealwright/internal/signing"
)

// access says who may use a route. Its zero value lets nobody in.
type access struct {
	anyone     bool // nothing that a client sends to prove itself is looked at
	job        bool // a token of a CI job
	capability bool // the capability of the request in the path; the handler compares it
	people     []signing.PeopleRole
}

func anyone() access     { return access{anyone: true} }
func job() access        { return access{job: true} }
func capability() access { return access{capability: true} }

// people lets persons in who have one of roles.
func people(roles ...signing.PeopleRole) access { return access{people: roles} }

// or adds persons with one of roles.
func (a access) or(roles ...signing.PeopleRole) access {
	a.people = append(a.people, roles...)
	return a
}

// String names what a client must send.
func (a access) String() string {
	var ways []string
	if a.anyone {
		ways = append(ways, "nothing")
	}
	if a.job {
		ways = append(ways, "the token of a CI job")
	}
	if a.capability {
		ways = append(ways, "the header "+api.HeaderCapability+" of the answer to the submission")
	}
	if len(a.people) > 0 {
		ways = append(ways, "the token of a person with the role "+roleList(a.people))
	}
	return strings.Join(ways, ", or ")
}

func roleList(roles []signing.PeopleRole) string {
	names := make([]string, 0, len(roles))
	for _, r := range roles {
		names = append(names, string(r))
	}
	return strings.Join(names, " or ")
}

// caller is who uses a route: what the token proved, or the capability that was
// sent, which the handler must still compare; nothing where anyone may.
type caller struct {
	id         signing.Identity
	origin     signing.Origin
	capability string
}

// handler answers a request of somebody who may use the route.
type handler func(c echo.Context, who caller) error

// Route is a route and who may use it.
type Route struct{ Method, Path, Access string }

// route adds a route, on r, for those whom a lets in. It is the only way to add
// one: every handler runs behind demand.
func (s *Server) route(r interface {
	Add(method, path string, h echo.HandlerFunc, m ...echo.MiddlewareFunc) *echo.Route
}, method, path string, a access, h handler) {
	r.Add(method, path, func(c echo.Context) error {
		who, err := s.demand(c, a)
		if err != nil {
			return err
		}
		return h(c, who)
	})
	s.routes = append(s.routes, Route{method, path, a.String()})
}

// demand is the one place that decides whether a client may use a route. A job's
// token and a person's are never taken for each other: which of the two a token
// is follows from its issuer, and a person's roles from the issuer's row, so that
// nothing in a request can raise them.
func (s *Server) demand(c echo.Context, a access) (caller, error) {
	if a.anyone {
		return caller{}, nil
	}
	sent, tokens := c.Request().Header.Get(api.HeaderCapability), c.Request().Header.Values(echo.HeaderAuthorization)
	switch {
	case a.capability && sent != "" && len(tokens) > 0:
		return caller{}, &signing.Error{Code: signing.Invalid, Message: "two proofs of who asks", Expected: "one of them: " + a.String(), Found: "both a capability and a token", Fix: "leave one away"}
	case a.capability && sent != "" && api.ValidCapability(sent):
		return caller{capability: sent}, nil
	case a.capability && (sent != "" || len(tokens) == 0):
		return caller{}, &signing.Error{Code: signing.Unauthenticated, Message: "no capability", Expected: a.String(), Found: "neither", Fix: "submit again with the same Idempotency-Key for a new capability"}
	case !a.job && len(a.people) == 0:
		return caller{}, &signing.Error{Code: signing.Unauthenticated, Message: "this route takes no token", Expected: a.String(), Found: "a token", Fix: "send what is expected"}
	}
	who, err := s.authenticate(c, tokens)
	if err != nil {
		return caller{}, err
	}
	if a.job && who.id.Role == signing.RoleCI || who.id.Has(a.people...) {
		return who, nil
	}
	return caller{}, s.refuseToken(c, who, denied(a, who.id))
}

// denied says what a token that is good is lacking.
func denied(a access, id signing.Identity) error {
	e := &signing.Error{Code: signing.Denied, Message: "this token may not be used here", Expected: a.String(), Found: "the token of a CI job", Fix: "use the token of a person"}
	if id.Role == signing.RolePeople {
		e.Found, e.Fix = "the token of a person without a role", "ask the operator of this service for the role (`roles` of the issuer)"
		if len(id.Roles) > 0 {
			e.Found = "the token of a person with the role " + strings.ReplaceAll(roleList(id.Roles), " or ", " and ")
		}
		if len(a.people) == 0 {
			e.Fix = "ask from a CI job, with its own token"
		}
	}
	return e
}

// authenticate verifies the bearer token. Refused tokens with a good signature
// are events in the audit log, all others are counted.
func (s *Server) authenticate(c echo.Context, header []string) (caller, error) {
	const fix = "send the OIDC token of the running job, or of a person where a person may ask"
	if len(header) != 1 {
		s.Metrics.refused("missing")
		return caller{}, &signing.Error{Code: signing.Unauthenticated, Message: "no token", Expected: "one Authorization: Bearer header", Found: plural(len(header), "header"), Fix: fix}
	}
	scheme, token, ok := strings.Cut(header[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		s.Metrics.refused("malformed")
		return caller{}, &signing.Error{Code: signing.Unauthenticated, Message: "not a bearer token", Expected: "Authorization: Bearer TOKEN", Found: "another scheme or no token", Fix: fix}
	}
	id, origin, err := s.Identity.Verify(c.Request().Context(), token)
	if err != nil {
		var good *identity.Refusal
		if errors.As(err, &good) {
			if lerr := s.Workflow.RecordRefusedToken(c.Request().Context(), good.Identity, signing.Origin{}, signing.CodeOf(err)); lerr != nil {
				s.Log.Error("logging a refused token", "error", lerr)
			}
		}
		s.Metrics.refused(string(signing.CodeOf(err)))
		return caller{}, err
	}
	who := caller{id: id, origin: origin}
	c.Set(keyIdentity, who)
	return who, nil
}

// refuseToken puts the refusal of a verified token into the audit log. A
// refusal that could not be logged is still a refusal.
func (s *Server) refuseToken(c echo.Context, who caller, err error) error {
	code := signing.CodeOf(err)
	if code == signing.Internal || signing.Temporary(err) {
		return err
	}
	s.Metrics.refused(string(code))
	if lerr := s.Workflow.RecordRefusedToken(c.Request().Context(), who.id, who.origin, code); lerr != nil {
		s.Log.Error("logging a refused token", "error", lerr)
	}
	return err
}

// Routes returns every route and who may use it.
func (s *Server) Routes() []Route { return append([]Route(nil), s.routes...) }

// Served returns "METHOD /path" of every route that the router knows, for the
// test that none was added past the rule.
func (s *Server) Served() []string {
	var out []string
	for _, r := range s.echo.Routes() {
		if r.Method != echo.RouteNotFound {
			out = append(out, r.Method+" "+r.Path)
		}
	}
	return out
}

// static answers with the same bytes always.
func static(contentType string, body []byte) handler {
	return func(c echo.Context, _ caller) error { return c.Blob(http.StatusOK, contentType, body) }
}
