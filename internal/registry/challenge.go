package registry

import (
	"errors"
	"net/url"
	"strings"
)

const (
	// maxChallenge bounds a WWW-Authenticate header; real ones have 200 bytes.
	maxChallenge = 8 << 10
	// maxChallengeParams bounds the parameters of one challenge.
	maxChallengeParams = 32
)

// challenge is one demand of a WWW-Authenticate header. Scheme and the keys of
// params are in lower case.
type challenge struct {
	scheme string
	params map[string]string
}

// parseChallenges reads the WWW-Authenticate header (RFC 9110, section 11.6.1):
// several challenges in one value, each with parameters or one token68.
func parseChallenges(values []string) ([]challenge, error) {
	var out []challenge
	for _, v := range values {
		if len(v) > maxChallenge {
			return nil, errors.New("the challenge is too long")
		}
		p := scanner{rest: v}
		for {
			p.skip(" \t,")
			if p.rest == "" {
				break
			}
			c, err := p.challenge()
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	return out, nil
}

type scanner struct{ rest string }

func (p *scanner) skip(set string) { p.rest = strings.TrimLeft(p.rest, set) }

// token reads a token of RFC 9110, which may be empty.
func (p *scanner) token() string {
	n := 0
	for n < len(p.rest) && isTokenChar(p.rest[n]) {
		n++
	}
	t := p.rest[:n]
	p.rest = p.rest[n:]
	return t
}

func isTokenChar(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

func (p *scanner) challenge() (challenge, error) {
	c := challenge{scheme: strings.ToLower(p.token()), params: map[string]string{}}
	if c.scheme == "" {
		return c, errors.New("the challenge has no scheme")
	}
	for {
		p.skip(" \t,")
		before := p.rest
		key := strings.ToLower(p.token())
		p.skip(" \t")
		if key == "" || !strings.HasPrefix(p.rest, "=") {
			// The next scheme, the end, or a token68 such as Negotiate's.
			p.rest = before
			if key == "" && p.rest != "" {
				return c, errors.New("the challenge has an unexpected character")
			}
			return c, nil
		}
		p.rest = p.rest[1:]
		p.skip(" \t")
		value, err := p.value()
		if err != nil {
			return c, err
		}
		if _, twice := c.params[key]; twice || len(c.params) == maxChallengeParams {
			return c, errors.New("the challenge has a parameter twice, or too many")
		}
		c.params[key] = value
	}
}

// value reads a token or a quoted string.
func (p *scanner) value() (string, error) {
	if !strings.HasPrefix(p.rest, `"`) {
		// Some registries leave the quotes away from URLs and scopes.
		n := strings.IndexAny(p.rest, " \t,\"")
		if n < 0 {
			n = len(p.rest)
		}
		v := p.rest[:n]
		p.rest = p.rest[n:]
		return v, nil
	}
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch p.rest[i] {
		case '"':
			p.rest = p.rest[i+1:]
			return b.String(), nil
		case '\\':
			if i++; i == len(p.rest) {
				return "", errors.New("the challenge ends within a quoted string")
			}
		}
		b.WriteByte(p.rest[i])
	}
	return "", errors.New("the challenge ends within a quoted string")
}

// parseRealm reads the URL of a token service: absolute, http or https, with
// nothing in it that hides where it leads.
func parseRealm(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("it is not a URL") // not err: it quotes the stranger's text
	case u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "", u.Opaque != "":
		return nil, errors.New("it is not an absolute https URL")
	case u.User != nil || u.Fragment != "":
		return nil, errors.New("it has a user name or a fragment")
	}
	return u, nil
}

// origin returns scheme, host and port of u in one form for comparison.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}
