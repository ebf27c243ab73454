package server

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

// pageSize is how many requests a page has at most: a summary is some 600 bytes.
const pageSize = 50

// list answers GET /v1/requests with a page of summaries, the last submitted
// first. A page may be short, or empty, and have a cursor.
func (s *Server) list(c echo.Context, who caller) error {
	f, before, err := filterOf(c.QueryParams())
	if err != nil {
		return err
	}
	requests, next, err := s.Workflow.List(c.Request().Context(), who.id, f, before, pageSize)
	if err != nil {
		return err
	}
	page := api.Page{Requests: make([]api.Summary, 0, len(requests)), Cursor: cursor(next)}
	for _, r := range requests {
		page.Requests = append(page.Requests, api.Summarize(*r, f.Digest))
	}
	return c.JSON(http.StatusOK, page)
}

// filterOf reads the query. What it does not know is refused: a filter with a
// spelling mistake would list everything.
func filterOf(q url.Values) (f store.Filter, before int64, err error) {
	for name, values := range q {
		known := slices.Contains([]string{"project", "state", "digest", "cursor"}, name)
		if !known || len(values) != 1 {
			return f, 0, &signing.Error{Code: signing.Invalid, Message: "not a query of this route", Expected: "?project=, ?state=, ?digest= and ?cursor=, each once", Found: fmt.Sprintf("%.40q, %s", name, plural(len(values), "time")), Fix: "see /openapi.yaml"}
		}
	}
	f = store.Filter{Project: q.Get("project"), State: signing.RequestState(q.Get("state")), Digest: signing.Digest(q.Get("digest"))}
	if f.State != "" && !f.State.Valid() {
		return f, 0, &signing.Error{Code: signing.Invalid, Message: "?state= is not a state of a request", Expected: "one of those in /openapi.yaml, as in awaiting_approval", Found: fmt.Sprintf("%.40q", f.State), Fix: "leave it away for requests in any state"}
	}
	if f.Digest != "" {
		if err := f.Digest.Validate(); err != nil {
			return f, 0, &signing.Error{Code: signing.Invalid, Message: "?digest= is not a digest", Expected: "sha256: and 64 lower-case hex digits", Found: fmt.Sprintf("%.80q", f.Digest), Fix: "ask by the digest; resolve a tag first"}
		}
	}
	if text := q.Get("cursor"); text != "" {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
		if err != nil || len(raw) != 8 || binary.BigEndian.Uint64(raw) > 1<<62 || binary.BigEndian.Uint64(raw) == 0 {
			return f, 0, &signing.Error{Code: signing.Invalid, Message: "?cursor= is not from a page of this service", Expected: "the cursor of the page before, as it is", Found: fmt.Sprintf("%.40q", text), Fix: "begin again without ?cursor="}
		}
		before = int64(binary.BigEndian.Uint64(raw))
	}
	return f, before, nil
}

// cursor is the place to go on from, in a form that nobody should read. It is no
// secret and grants nothing.
func cursor(next int64) string {
	if next == 0 {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(next)))
}
