package ask

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

// Path joins segments into the path of a request, each escaped: a branch and the
// path of a group may have slashes.
func Path(segments ...string) string {
	out := make([]string, len(segments))
	for i, s := range segments {
		out[i] = url.PathEscape(s)
	}
	return strings.Join(out, "/")
}

// IsNumber reports whether s is an id as forges write it: a positive number in
// its only form.
func IsNumber(s string) bool {
	n, err := strconv.ParseInt(s, 10, 64)
	return err == nil && n > 0 && strconv.FormatInt(n, 10) == s
}

// IsCommit reports whether s is a whole object id, SHA-1 or SHA-256. Forges would
// take a branch in its place.
func IsCommit(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	for _, b := range []byte(s) {
		if (b < '0' || b > '9') && (b < 'a' || b > 'f') {
			return false
		}
	}
	return true
}

// Clip shortens text of strangers before it is quoted in an error.
func Clip(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// Garbled is for an answer that says 200 and is not what was asked for. It may be
// a proxy's: asking again may help, and it is never an answer.
func Garbled(what, why string) error {
	return &signing.Error{Code: signing.Unavailable, Message: what + ": the answer cannot be read", Found: Clip(why)}
}

// TooMany is for a list with more entries than are read: what is beyond could
// decide.
func TooMany(path string, most int) error {
	return &signing.Error{Code: signing.TooLarge, Message: "there are more entries than this service reads: GET /" + path, Expected: fmt.Sprintf("at most %d", most)}
}

// Lacks is for a question that needs what the build's token does not say.
func Lacks(what string) error {
	return &signing.Error{Code: signing.Invalid, Message: "the build's token does not name " + what}
}

// Limited is for a forge that wants no requests for a time.
func Limited(host, found string, wait time.Duration) *signing.Error {
	return &signing.Error{Code: signing.RateLimited, Message: host + " limits the requests of this service", Found: found, RetryAfter: wait, Fix: "wait, or raise the limits of this account"}
}

// OfForge refuses what is of another forge than host: a build, an account.
func OfForge(host, what, found string) error {
	if found == host {
		return nil
	}
	return &signing.Error{Code: signing.Invalid, Message: what + " of another forge", Expected: host, Found: Clip(found)}
}

// Words are what one forge calls the things that a refusal is about.
type Words struct {
	Holder      string // whom it refuses: "this App"
	Credentials string // what it did not accept: "our access token"
	Renew       string // what to do about that
	Grant       string // what to do about a missing right
	Give        string // how a Fix begins that names the right: "the token"
}

// Answered says what an HTTP answer means that is no success and no limit. need is
// the right that the request takes, for the refusal where it is missing.
func (w Words) Answered(status int, message, what, need string) *signing.Error {
	found := fmt.Sprintf("HTTP %d", status)
	if message != "" {
		found += " " + strconv.Quote(Clip(message))
	}
	switch {
	case status == http.StatusUnauthorized:
		return &signing.Error{Code: signing.Denied, Message: what + " does not accept " + w.Credentials, Found: found, Fix: w.Renew}
	case status == http.StatusForbidden:
		return &signing.Error{Code: signing.Denied, Message: what + " is not allowed to " + w.Holder, Expected: need, Found: found, Fix: w.Grant}
	case status == http.StatusNotFound, status == http.StatusGone:
		e := &signing.Error{Code: signing.NotFound, Message: what + ": there is no such thing, or " + w.Holder + " may not see it", Found: found}
		if need != "" {
			e.Fix = "if it is there, give " + w.Give + " " + need
		}
		return e
	case status == http.StatusConflict:
		return &signing.Error{Code: signing.Conflict, Message: what + " is refused", Found: found}
	case status >= 300 && status < 400, status == http.StatusTooManyRequests, status >= 500:
		return &signing.Error{Code: signing.Unavailable, Message: what + " failed", Found: found}
	}
	return &signing.Error{Code: signing.Invalid, Message: what + " is refused", Found: found}
}

// Writable refuses the body of a comment that a forge would not keep.
func Writable(body string) error {
	if len(body) > forge.MaxComment {
		return &signing.Error{Code: signing.TooLarge, Message: "the comment is too long", Expected: fmt.Sprintf("at most %d bytes", forge.MaxComment), Found: strconv.Itoa(len(body))}
	}
	if strings.TrimSpace(body) == "" {
		return &signing.Error{Code: signing.Invalid, Message: "the comment is empty"}
	}
	return nil
}

// FirstLine is the first line of a text, without space around it.
func FirstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.TrimSpace(line)
}

// Marked reports whether the first line of a comment is marker.
func Marked(body, marker string) bool {
	return FirstLine(body) == strings.TrimSpace(marker)
}
