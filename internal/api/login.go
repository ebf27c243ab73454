package api

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"

	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// PathLogin says where persons log in.
const PathLogin = "/v1/login"

// maxScopes bounds what one issuer's row may ask for.
const maxScopes = 16

// Login lists the identity providers whose persons the service knows.
type Login struct {
	Issuers []LoginIssuer `json:"issuers"`
}

// LoginIssuer is one of them: what a program must know to have a person log in.
// None of it is a secret.
type LoginIssuer struct {
	Issuer string `json:"issuer"`
	// ClientID is the audience that the service wants in an ID token.
	ClientID string `json:"clientID"`
	// Scopes to ask for besides openid, such as groups.
	Scopes []string `json:"scopes,omitempty"`
}

// Login asks the service where persons log in.
func (c *Client) Login(ctx context.Context) (Login, error) {
	h, raw, err := c.send(ctx, callTimeout, http.MethodGet, PathLogin, nil, http.Header{}, nil)
	if err != nil {
		return Login{}, fmt.Errorf("asking where to log in: %w", err)
	}
	media, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	var l Login
	if media != "application/json" || json.Unmarshal(raw, &l) != nil || l.Issuers == nil {
		return Login{}, fmt.Errorf("asking where to log in: %w", notOurs("a list of issuers", "another document"))
	}
	for _, i := range l.Issuers {
		if err := i.Check(); err != nil {
			return Login{}, err
		}
	}
	return l, nil
}

// Check refuses what no person should be sent to.
func (i LoginIssuer) Check() error {
	u, err := url.Parse(i.Issuer)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && (u.Scheme != "http" || !outbound.IsLoopback(u.Hostname())):
		return &signing.Error{Code: signing.Invalid, Message: "not an issuer to log in at", Expected: "https://HOST[/PATH] (http for loopback only)", Found: quote(i.Issuer), Fix: "correct `issuers` of the service, or --issuer"}
	case i.ClientID == "":
		return &signing.Error{Code: signing.Invalid, Message: "no client to log in as at " + i.Issuer, Expected: "a client id", Found: "none", Fix: "give --client-id, the audience of the service's issuer row"}
	case len(i.Scopes) > maxScopes:
		return &signing.Error{Code: signing.Invalid, Message: "too many scopes", Expected: fmt.Sprintf("at most %d", maxScopes), Found: fmt.Sprint(len(i.Scopes))}
	}
	return nil
}
