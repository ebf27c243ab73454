// Package server is the HTTP interface of the service: it authenticates,
// bounds what comes in, hands it to the workflow, and answers with problem
// documents (RFC 9457). It decides nothing. Every handler returns its error;
// one function turns errors into answers, so that none can forget to stop.
package server

import (
	"context"
	_ "embed"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"golang.org/x/time/rate"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/identity"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/workflow"
)

const (
	// MaxHeader bounds a request's header: one token of at most 16 KiB and what
	// proxies add.
	MaxHeader = 32 << 10
	// readTimeout bounds reading a request, header and body: the largest body is a
	// manifest of 4 MiB.
	readTimeout = 15 * time.Second
	// writeTimeout must outlast the longest long poll.
	writeTimeout = api.MaxWait + 15*time.Second
	// idleTimeout keeps connections of waiting jobs open between polls.
	idleTimeout = 2 * time.Minute
	// DefaultRate and burst bound the requests per second of one address: a
	// large build farm behind one address polls with some hundred jobs.
	DefaultRate  = 100
	burstSeconds = 3
	// limiterExpiry is how long an idle address is remembered.
	limiterExpiry = 3 * time.Minute
)

// OpenAPI is the description that a test holds against the handlers.
//
//go:embed openapi.yaml
var OpenAPI []byte

// Options are the parts that a Server is built from. All but the rates and
// PublicLog are required.
type Options struct {
	Workflow *workflow.Workflow
	Store    *store.Store // read only: the audit log is served from it
	Identity *identity.Verifier
	LogKey   *audit.Verifier
	Log      *slog.Logger
	Now      func() time.Time
	Metrics  *Metrics
	// Rate is how many requests a second one address may make; 0 means DefaultRate.
	Rate float64
	// HookRate is how many webhook deliveries; 0 means DefaultHookRate.
	HookRate float64
	// PublicLog serves /log to everyone. Without it auditors and admins can read it.
	PublicLog bool
}

// Server answers the API. Make one with New and serve its Handler.
type Server struct {
	Options
	echo   *echo.Echo
	routes []Route
	hooks  *gate
}

// New returns a Server. It opens nothing.
func New(o Options) *Server {
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	if o.HookRate == 0 {
		o.HookRate = DefaultHookRate
	}
	s := &Server{Options: o, echo: echo.New(), hooks: newGate(o.HookRate)}
	e := s.echo
	e.HideBanner, e.HidePort = true, true
	// X-Forwarded-For is anyone's to write: the peer is who connects.
	e.IPExtractor = echo.ExtractIPDirect()
	e.HTTPErrorHandler = s.fail
	limiter := middleware.NewRateLimiterMemoryStoreWithConfig(middleware.RateLimiterMemoryStoreConfig{
		Rate: rate.Limit(o.Rate), Burst: int(o.Rate * burstSeconds), ExpiresIn: limiterExpiry,
	})
	e.Use(s.observe, middleware.RecoverWithConfig(middleware.RecoverConfig{DisablePrintStack: true, LogErrorFunc: s.panicked}), s.secure)

	limited := e.Group("", middleware.RateLimiterWithConfig(middleware.RateLimiterConfig{
		Store:               limiter,
		IdentifierExtractor: func(c echo.Context) (string, error) { return c.RealIP(), nil },
		DenyHandler: func(echo.Context, string, error) error {
			return &signing.Error{Code: signing.RateLimited, Message: "too many requests from this address", RetryAfter: time.Second, Fix: "use ?wait= instead of polling in a loop"}
		},
		ErrorHandler: func(_ echo.Context, err error) error { return err },
	}))
	reader := []signing.PeopleRole{signing.Auditor, signing.Admin}
	own := append(reader[:2:2], signing.Submitter) // what they submitted themselves
	log := people(reader...)
	if o.PublicLog {
		log = anyone()
	}
	s.route(limited, http.MethodPost, api.PathRequests, job(), s.submit)
	s.route(limited, http.MethodGet, api.PathRequests, people(reader...), s.list)
	s.route(limited, http.MethodGet, api.PathRequests+"/:id", capability().or(own...), s.read)
	s.route(limited, http.MethodGet, api.PathRequests+"/:id/facts", people(own...), s.facts)
	s.route(limited, http.MethodPost, api.PathEvaluate, people(signing.Submitter, signing.Auditor, signing.Admin), s.evaluate)
	s.route(limited, http.MethodGet, api.PathRequests+"/:id/evidence", capability().or(own...), s.evidence)
	s.route(limited, http.MethodPost, api.PathRequests+"/:id/cancel", job().or(signing.Admin), s.cancel)
	s.route(limited, http.MethodPost, api.PathRequests+"/:id/approve", people(signing.Approver), s.approve)
	s.route(limited, http.MethodPost, api.PathRequests+"/:id/deny", people(signing.Approver), s.deny)
	s.route(limited, http.MethodPost, api.PathRequests+"/:id/resubmit", people(signing.Submitter), s.resubmit)
	s.route(limited, http.MethodPost, api.PathLists, people(signing.Submitter), s.submitList)
	s.route(limited, http.MethodPost, api.PathRequests+"/:id/retry", people(signing.Admin), s.retry)
	s.route(limited, http.MethodPut, api.PathRequests+"/:id/content/:digest", capability(), s.putContent)
	s.route(limited, http.MethodGet, api.PathRequests+"/:id/envelopes", capability(), s.envelopes)
	s.route(limited, http.MethodPost, api.PathRequests+"/:id/lease", capability(), s.lease)
	s.route(limited, http.MethodPost, api.PathRequests+"/:id/published", capability(), s.published)
	s.route(limited, http.MethodGet, api.PathLogin, anyone(), s.login)
	s.route(limited, http.MethodGet, api.PathTrust, anyone(), s.trust)
	s.route(limited, http.MethodGet, "/v1/trust/keys", anyone(), s.trustKeys)
	s.route(limited, http.MethodGet, "/v1/trust/keys/:id", anyone(), s.trustKey)
	s.route(limited, http.MethodGet, "/v1/trust/log", anyone(), s.trustLog)
	s.route(limited, http.MethodGet, pathLookaside+"*", anyone(), s.lookaside)
	s.route(limited, http.MethodGet, "/log/checkpoint", log, s.checkpoint)
	s.route(limited, http.MethodGet, "/log/tile/*", log, s.tile)
	s.route(limited, http.MethodGet, "/openapi.yaml", anyone(), static("application/yaml", OpenAPI))
	// Deliveries have a limit of their own, and are authenticated by the workflow.
	s.route(e, http.MethodPost, "/hooks/github/:host", anyone(), s.hook)
	s.route(e, http.MethodPost, "/hooks/gitlab/:host", anyone(), s.hook)
	// Probes and scrapes come from the operator's own machines, often, and
	// must be answered when the limiter is busy.
	s.route(e, http.MethodGet, "/healthz", anyone(), static(echo.MIMETextPlainCharsetUTF8, []byte("ok\n")))
	s.route(e, http.MethodGet, PathReady, anyone(), s.ready)
	metrics := echo.WrapHandler(o.Metrics.Handler())
	s.route(e, http.MethodGet, "/metrics", anyone(), func(c echo.Context, _ caller) error { return metrics(c) })
	return s
}

// Handler returns the handler of every route.
func (s *Server) Handler() http.Handler { return s.echo }

// HTTPServer returns an http.Server with this package's bounds around h. base
// ends long polls when it is canceled.
func HTTPServer(base context.Context, h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, MaxHeaderBytes: MaxHeader,
		ReadTimeout: readTimeout, ReadHeaderTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext: baseContext(base),
	}
}

// secure sets the headers that every answer has.
func (s *Server) secure(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		h := c.Response().Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		return next(c)
	}
}

// observe writes the one log line of a request and counts it. It is the
// outermost middleware: an error has been answered when it logs.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		started := s.Now()
		err := next(c)
		if err != nil {
			c.Error(err)
		}
		took, status := s.Now().Sub(started), c.Response().Status
		route := c.Path()
		if route == "" {
			route = "unknown" // never the path itself: strangers choose it
		}
		s.Metrics.observe(route, c.Request().Method, status, took)
		attrs := []any{"method", c.Request().Method, "route", route, "status", status, "took", took, "peer", c.RealIP()}
		if id := c.Param("id"); signing.ValidRequestID(id) {
			attrs = append(attrs, "request", id)
		}
		if r, ok := c.Get(keyIdentity).(caller); ok {
			attrs = append(attrs, "issuer", r.id.Issuer, "repository_id", r.origin.SourceRepositoryIdentifier, "run", r.origin.RunID)
		}
		level := slog.LevelInfo
		if err != nil {
			attrs = append(attrs, "error", err.Error())
		}
		if status >= http.StatusInternalServerError {
			level = slog.LevelError
		}
		s.Log.Log(c.Request().Context(), level, "http", attrs...)
		return nil
	}
}

func (s *Server) panicked(c echo.Context, err error, stack []byte) error {
	s.Log.Error("panic in a handler", "route", c.Path(), "error", err, "stack", string(stack))
	return errors.New("panic in a handler")
}

// fail answers err as a problem document. What is no signing.Error is internal:
// its text goes to the log, not to the client.
func (s *Server) fail(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	var he *echo.HTTPError
	if errors.As(err, &he) && signing.CodeOf(err) == signing.Internal {
		err = routeError(he)
	}
	p := api.FromError(err)
	p.Instance = c.Request().URL.Path
	if p.Code == signing.Unavailable && p.RetryAfterSeconds == 0 {
		p.RetryAfterSeconds = 5
	}
	if c.Request().Method == http.MethodHead {
		_ = c.NoContent(p.Status) // the status is all that a HEAD can be told
		return
	}
	if err := api.WriteProblem(c.Response(), p); err != nil {
		s.Log.Warn("answering with a problem", "error", err)
	}
}

// routeError shapes what echo itself refuses.
func routeError(he *echo.HTTPError) error {
	switch he.Code {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		// The limiter's catch-all answers for wrong methods too.
		return &signing.Error{Code: signing.NotFound, Message: "no such route, or not for this method", Fix: "see /openapi.yaml"}
	case http.StatusRequestEntityTooLarge:
		return &signing.Error{Code: signing.TooLarge, Message: "the body is too large"}
	default:
		return he
	}
}

// keyIdentity is where the caller is kept for the log line of a request.
const keyIdentity = "identity"
