package hub

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxJWT is the longest life of an App's JWT, and skew how far its iat may be
	// ahead.
	maxJWT = 10 * time.Minute
	skew   = 60 * time.Second
	// tokenLife is how long an installation token works.
	tokenLife = time.Hour
	// innerHeader marks a request that a Fault carries out before it spoils the answer.
	innerHeader = "X-Hub-Inner"
)

// token is an installation access token.
type token struct {
	in          *Installation
	expires     time.Time
	permissions map[string]string
	only        []int64 // repository ids; nil is all of the installation
}

// sees reports whether the token is for r.
func (t *token) sees(r *Repo) bool {
	return t.in.on(r) && (t.only == nil || slices.Contains(t.only, r.ID))
}

// authenticate reads the Authorization header.
func (c *call) authenticate(app bool) bool {
	scheme, value, found := strings.Cut(c.r.Header.Get("Authorization"), " ")
	if !found || !strings.EqualFold(scheme, "bearer") && !strings.EqualFold(scheme, "token") {
		return false
	}
	if app {
		c.app = c.h.appOf(value)
		return c.app != nil
	}
	t := c.h.tokens[value]
	if t == nil || !c.h.now().Before(t.expires) || t.in.Suspended || t.in.removed {
		return false
	}
	c.token, c.app = t, t.in.App
	return true
}

// appOf returns the App that signed a JWT, nil if it is not good.
func (h *Hub) appOf(jwt string) *App {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return nil
	}
	var head struct{ Alg string }
	var claims struct {
		Iss any    `json:"iss"`
		Iat *int64 `json:"iat"`
		Exp *int64 `json:"exp"`
	}
	if !decodePart(parts[0], &head) || head.Alg != "RS256" || !decodePart(parts[1], &claims) || claims.Iat == nil || claims.Exp == nil {
		return nil
	}
	iss, text := claims.Iss.(string)
	if n, number := claims.Iss.(float64); number {
		iss = strconv.FormatInt(int64(n), 10)
	} else if !text {
		return nil
	}
	at := slices.IndexFunc(h.apps, func(a *App) bool { return strconv.FormatInt(a.ID, 10) == iss || a.ClientID == iss })
	if at < 0 {
		return nil
	}
	now, iat, exp := h.now(), time.Unix(*claims.Iat, 0), time.Unix(*claims.Exp, 0)
	if iat.After(now.Add(skew)) || !exp.After(now) || exp.After(now.Add(maxJWT)) {
		return nil
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err != nil || rsa.VerifyPKCS1v15(&h.apps[at].Key.PublicKey, crypto.SHA256, sum[:], sig) != nil {
		return nil
	}
	return h.apps[at]
}

func decodePart(s string, v any) bool {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && json.Unmarshal(b, v) == nil
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails: the program ends instead
	return hex.EncodeToString(b)
}

// appRoutes are those that the App itself asks.
func (h *Hub) appRoutes() {
	h.on("GET /app", appItself, func(c *call) reply { return ok(c.app.doc()) })
	h.on("GET /app/installations", appItself, func(c *call) reply {
		var out []obj
		for _, i := range c.app.Installations {
			if !i.removed {
				out = append(out, i.doc())
			}
		}
		return c.page(out, "")
	})
	h.on("GET /app/installations/{id}", appItself, func(c *call) reply {
		if i := c.app.installation(c.number("id")); i != nil {
			return ok(i.doc())
		}
		return notFound()
	})
	installed := func(f func(*call, *Installation) bool) func(*call) reply {
		return func(c *call) reply {
			for _, i := range c.app.Installations {
				if !i.removed && f(c, i) {
					return ok(i.doc())
				}
			}
			return notFound()
		}
	}
	h.on("GET /repos/{owner}/{repo}/installation", appItself, installed(func(c *call, i *Installation) bool { return i.on(c.repo) }))
	h.on("GET /orgs/{org}/installation", appItself, installed(func(c *call, i *Installation) bool { return i.Account == c.org.User }))
	h.on("GET /users/{login}/installation", appItself, installed(func(c *call, i *Installation) bool { return strings.EqualFold(i.Account.Login, c.r.PathValue("login")) }))
	h.on("POST /app/installations/{id}/access_tokens", appItself, h.giveToken)
	h.on("GET /app/hook/config", appItself, func(c *call) reply {
		of := c.app.Hook
		out := obj{"url": of.URL, "content_type": "json", "insecure_ssl": "0"}
		if of.Form {
			out["content_type"] = "form"
		}
		if of.Insecure {
			out["insecure_ssl"] = "1"
		}
		if of.Secret != "" {
			out["secret"] = "********"
		}
		return ok(out)
	})
	h.on("GET /app/hook/deliveries", appItself, h.listDeliveries)
	h.on("GET /app/hook/deliveries/{id}", appItself, h.oneDelivery)
	h.on("POST /app/hook/deliveries/{id}/attempts", appItself, h.attempt)
	h.on("GET /installation/repositories", anyToken, func(c *call) reply {
		var out []obj
		for _, r := range h.repos {
			if c.token.sees(r) && !r.gone {
				out = append(out, c.repoDoc(r))
			}
		}
		return c.page(out, "repositories")
	})
}

func (h *Hub) giveToken(c *call) reply {
	i := c.app.installation(c.number("id"))
	if i == nil {
		return notFound()
	}
	if i.Suspended {
		return failed(403, "This installation has been suspended")
	}
	var in struct {
		Repositories  []string          `json:"repositories"`
		RepositoryIDs []int64           `json:"repository_ids"`
		Permissions   map[string]string `json:"permissions"`
	}
	if len(bytes.TrimSpace(c.raw)) > 0 && string(bytes.TrimSpace(c.raw)) != "null" {
		if r, fine := c.decode(&in); !fine {
			return r
		}
	}
	t := &token{in: i, expires: h.second().Add(tokenLife), permissions: map[string]string{}}
	for k, v := range i.Permissions {
		t.permissions[k] = v
	}
	if in.Permissions != nil {
		for k, v := range in.Permissions {
			if has := i.Permissions[k]; has != v && has != "write" {
				return failed(422, "The permissions requested are not granted to this installation.")
			}
		}
		t.permissions = in.Permissions
	}
	t.permissions["metadata"] = "read"
	for _, id := range in.RepositoryIDs {
		if r := h.repoID(id); r == nil || !i.on(r) {
			return failed(422, "There is at least one repository that does not exist or is not accessible to the parent installation.")
		}
		t.only = append(t.only, id)
	}
	for _, name := range in.Repositories {
		r := h.repoNamed(i.Account.Login, name)
		if r == nil || !i.on(r) {
			return failed(422, "There is at least one repository that does not exist or is not accessible to the parent installation.")
		}
		t.only = append(t.only, r.ID)
	}
	text := "ghs_" + randomHex(18)
	h.tokens[text] = t
	return created(obj{"token": text, "expires_at": stamp(t.expires), "permissions": t.permissions, "repository_selection": i.selection()})
}

// carryOut runs a request without its fault and without its answer.
func (h *Hub) carryOut(r *http.Request, raw []byte) {
	again := r.Clone(r.Context())
	again.Body = io.NopCloser(bytes.NewReader(raw))
	again.Header.Set(innerHeader, "1")
	h.ServeHTTP(&discard{header: http.Header{}}, again)
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
