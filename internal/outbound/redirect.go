package outbound

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// RefuseRedirects is an http.Client's CheckRedirect that follows none.
func RefuseRedirects(req *http.Request, via []*http.Request) error {
	return &signing.Error{Code: signing.Denied, Message: via[0].URL.Host + " redirects", Expected: "an answer at the address that is configured", Found: "a redirect to " + clip(req.URL.Scheme+"://"+req.URL.Host), Fix: "configure the address that it redirects to, if you trust it"}
}

// FollowRedirects returns an http.Client's CheckRedirect that follows at most
// most redirects of GET and HEAD. It never leads from https to http, nor from
// another machine to a loopback host, and headers that hold credentials stay with
// the host that they were made for: once a chain has left it, they are gone.
func FollowRedirects(most int) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		first := via[0]
		refuse := func(why string) error {
			return &signing.Error{Code: signing.Denied, Message: first.URL.Host + " redirects " + why, Expected: fmt.Sprintf("at most %d redirects of a read, to https", most), Found: "a redirect to " + clip(req.URL.Scheme+"://"+req.URL.Host)}
		}
		switch {
		case len(via) > most:
			return refuse("too often")
		case req.Method != http.MethodGet && req.Method != http.MethodHead:
			return refuse("a request that writes")
		case first.URL.Scheme == "https" && req.URL.Scheme != "https":
			return refuse("from https to plain text")
		case IsLoopback(req.URL.Hostname()) && !IsLoopback(first.URL.Hostname()):
			return refuse("into this machine")
		}
		req.URL.User = nil // the client would turn it into an Authorization header
		left := !sameHost(req, first)
		for _, v := range via {
			left = left || !sameHost(v, first)
		}
		if left {
			// net/http keeps these for subdomains of the first host; we do not.
			for _, h := range []string{"Authorization", "Cookie", "Proxy-Authorization", "Www-Authenticate"} {
				req.Header.Del(h)
			}
		}
		return nil
	}
}

func sameHost(a, b *http.Request) bool {
	return a.URL.Scheme == b.URL.Scheme && strings.EqualFold(a.URL.Host, b.URL.Host)
}

// RetryAfter reads the Retry-After header (RFC 9110, section 10.2.3) in either
// form, seconds or a date held against now. The wait is between 0 and
// MaxRetryAfter; ok is false where the header is missing or malformed.
func RetryAfter(h http.Header, now time.Time) (wait time.Duration, ok bool) {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0, false
	}
	if seconds, err := strconv.ParseUint(v, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(MaxRetryAfter/time.Second))) * time.Second, true
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	return min(max(at.Sub(now), 0), MaxRetryAfter), true
}
