package hub

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// route is a pattern of on. http.ServeMux cannot hold GitHub's paths: it finds
// that issues/{n}/comments and issues/comments/{id} conflict.
type route struct {
	method   string
	segments []string // "{name}" is any segment, "{name...}" the rest
	f        http.HandlerFunc
}

func (h *Hub) handle(pattern string, f http.HandlerFunc) {
	method, path, _ := strings.Cut(pattern, " ")
	h.routes = append(h.routes, route{method, strings.Split(strings.Trim(path, "/"), "/"), f})
}

// route finds who answers r, and sets the path values: of the routes that match,
// the one with the most literal segments.
func (h *Hub) route(r *http.Request) http.HandlerFunc {
	segments := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/")
	for i, s := range segments {
		plain, err := url.PathUnescape(s)
		if err != nil {
			return nil
		}
		segments[i] = plain
	}
	var best *route
	literals := -1
	for i, t := range h.routes {
		if n, fits := t.match(r.Method, segments); fits && n > literals {
			best, literals = &h.routes[i], n
		}
	}
	if best == nil {
		return nil
	}
	for i, s := range best.segments {
		name, wild := strings.CutPrefix(s, "{")
		if !wild {
			continue
		}
		if rest, all := strings.CutSuffix(name, "...}"); all {
			r.SetPathValue(rest, strings.Join(segments[i:], "/"))
			break
		}
		r.SetPathValue(strings.TrimSuffix(name, "}"), segments[i])
	}
	return best.f
}

func (t route) match(method string, segments []string) (literals int, fits bool) {
	if t.method != method {
		return 0, false
	}
	all := strings.HasSuffix(t.segments[len(t.segments)-1], "...}")
	if !all && len(segments) != len(t.segments) || all && len(segments) < len(t.segments) || slices.Contains(segments[:len(segments)-1], "") {
		return 0, false
	}
	for i, s := range t.segments {
		switch {
		case strings.HasPrefix(s, "{"):
		case s == segments[i]:
			literals++
		default:
			return 0, false
		}
	}
	return literals, true
}
