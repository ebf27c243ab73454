package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// Bounds of the device flow: what the identity provider says is followed within them.
const (
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"
	// maxDiscovery bounds an answer of the identity provider; a token is at most 16 KB.
	maxDiscovery = 256 << 10
	// defaultInterval is that of RFC 8628 where the answer names none; slowDown is
	// what it wants added for each slow_down.
	defaultInterval = 5 * time.Second
	slowDown        = 5 * time.Second
	maxInterval     = time.Minute
	// maxLogin bounds how long a person may take, whatever the provider allows.
	maxLogin = 30 * time.Minute
	// maxShown bounds what of the provider's texts is shown to a person.
	maxShown = 512
)

// device logs a person in by the device flow of OAuth (RFC 8628): the program
// shows a code, which the person enters on a page of the identity provider.
type device struct {
	http   *http.Client
	now    func() time.Time
	wait   func(context.Context, time.Duration) error
	show   func(verification) error
	issuer api.LoginIssuer
}

// endpoints are what discovery says of an issuer.
type endpoints struct {
	Issuer string `json:"issuer"`
	Device string `json:"device_authorization_endpoint"`
	Token  string `json:"token_endpoint"`
}

// verification is what a person needs to log in.
type verification struct {
	DeviceCode string `json:"device_code"`
	UserCode   string `json:"user_code"`
	URI        string `json:"verification_uri"`
	Complete   string `json:"verification_uri_complete"`
	ExpiresIn  int64  `json:"expires_in"`
	Interval   int64  `json:"interval"`
}

// session is a token and what it says of itself.
type session struct {
	token           string
	issuer, subject string
	expires         time.Time
}

// login returns the ID token of the person who logs in. What else the provider
// gives, a refresh token above all, is dropped.
func (d device) login(ctx context.Context) (session, error) {
	at, err := d.discover(ctx)
	if err != nil {
		return session{}, err
	}
	scopes := slices.Compact(append([]string{"openid"}, d.issuer.Scopes...))
	var v verification
	if problem, err := d.post(ctx, at.Device, url.Values{"client_id": {d.issuer.ClientID}, "scope": {strings.Join(scopes, " ")}}, &v); err != nil {
		return session{}, err
	} else if problem != nil {
		return session{}, d.refused("the identity provider starts no login", *problem, "register a public client "+d.issuer.ClientID+" there with the device flow (RFC 8628) on")
	}
	if err := v.check(); err != nil {
		return session{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, min(time.Duration(v.ExpiresIn)*time.Second, maxLogin))
	defer cancel()
	if err := d.show(v); err != nil {
		return session{}, err
	}
	return d.poll(ctx, at.Token, v)
}

// discover reads the provider's endpoints. They must be of the issuer that was
// asked for, so that another provider's tokens cannot be fetched in its name.
func (d device) discover(ctx context.Context) (endpoints, error) {
	if err := d.issuer.Check(); err != nil {
		return endpoints{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(d.issuer.Issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return endpoints{}, err
	}
	raw, status, err := d.do(req)
	if err != nil {
		return endpoints{}, err
	}
	var e endpoints
	bad := func(expected, found string) (endpoints, error) {
		return endpoints{}, &signing.Error{Code: signing.Invalid, Message: "no login at " + d.issuer.Issuer, Expected: expected, Found: found, Fix: "turn the device flow on at the identity provider, or save an ID token yourself and give --token-file to the other commands"}
	}
	switch {
	case status != http.StatusOK || json.Unmarshal(raw, &e) != nil:
		return bad("a discovery document (OpenID Connect)", fmt.Sprintf("HTTP %d", status))
	case e.Issuer != d.issuer.Issuer:
		return bad("the issuer "+d.issuer.Issuer, shown(e.Issuer))
	case !secure(e.Device):
		return bad("device_authorization_endpoint, https", shown(e.Device))
	case !secure(e.Token):
		return bad("token_endpoint, https", shown(e.Token))
	}
	return e, nil
}

// check refuses what nobody could enter, or should open.
func (v verification) check() error {
	bad := func(expected, found string) error {
		return &signing.Error{Code: signing.Invalid, Message: "the identity provider's answer cannot be used", Expected: expected, Found: shown(found)}
	}
	switch {
	case v.DeviceCode == "" || v.UserCode == "" || len(v.UserCode) > maxShown:
		return bad("device_code and user_code", v.UserCode)
	case !secure(v.URI):
		return bad("a verification_uri with https", v.URI)
	case v.Complete != "" && !secure(v.Complete):
		return bad("a verification_uri_complete with https", v.Complete)
	case v.ExpiresIn <= 0 || v.Interval < 0:
		return bad("expires_in above 0, interval not below", fmt.Sprintf("%d and %d", v.ExpiresIn, v.Interval))
	}
	return nil
}

// poll asks for the token as often as it may, until the person has logged in.
func (d device) poll(ctx context.Context, endpoint string, v verification) (session, error) {
	interval := defaultInterval
	if v.Interval > 0 {
		interval = time.Duration(v.Interval) * time.Second
	}
	form := url.Values{"grant_type": {deviceGrant}, "device_code": {v.DeviceCode}, "client_id": {d.issuer.ClientID}}
	for {
		interval = min(interval, maxInterval)
		if err := d.wait(ctx, interval); err != nil {
			return session{}, d.late(ctx, err)
		}
		var answer struct {
			IDToken string `json:"id_token"`
		}
		problem, err := d.post(ctx, endpoint, form, &answer)
		switch {
		case err != nil && signing.Temporary(err) && ctx.Err() == nil:
			interval *= 2 // as the standard wants it for a connection that timed out
		case err != nil:
			return session{}, d.late(ctx, err)
		case problem == nil:
			return readSession(answer.IDToken, d.issuer, d.now())
		case problem.Code == "authorization_pending":
		case problem.Code == "slow_down":
			interval += slowDown
		case problem.Code == "access_denied":
			return session{}, &signing.Error{Code: signing.Denied, Message: "the login was refused", Found: "no, on the page of the identity provider"}
		case problem.Code == "expired_token":
			return session{}, d.late(ctx, context.DeadlineExceeded)
		default:
			return session{}, d.refused("the identity provider gives no token", *problem, "run `sealwright login` again")
		}
	}
}

// late says what it means that the time is over.
func (d device) late(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &signing.Error{Code: signing.Expired, Message: "nobody logged in in time", Fix: "run `sealwright login` again and enter the new code"}
	}
	return err
}

// oauthProblem is an error answer of OAuth.
type oauthProblem struct {
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

func (d device) refused(message string, p oauthProblem, fix string) error {
	return &signing.Error{Code: signing.Invalid, Message: message, Found: shown(p.Code + " " + p.Description), Fix: fix}
}

// post sends a form and reads the answer into v, or returns OAuth's error.
func (d device) post(ctx context.Context, to string, form url.Values, v any) (*oauthProblem, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	raw, status, err := d.do(req)
	if err != nil {
		return nil, err
	}
	var p oauthProblem
	switch {
	case status == http.StatusOK && json.Unmarshal(raw, v) == nil:
		return nil, nil
	case (status == http.StatusBadRequest || status == http.StatusUnauthorized) && json.Unmarshal(raw, &p) == nil && p.Code != "":
		return &p, nil
	case status >= 500:
		return nil, &signing.Error{Code: signing.Unavailable, Message: req.URL.Host + " is not available at the moment", Found: fmt.Sprintf("HTTP %d", status)}
	}
	return nil, &signing.Error{Code: signing.Invalid, Message: "the identity provider's answer is not understood", Expected: "JSON as in RFC 8628", Found: fmt.Sprintf("HTTP %d", status)}
}

// do returns the body of an answer in JSON; of any other, the status alone.
func (d device) do(req *http.Request) ([]byte, int, error) {
	req.Header.Set("Accept", "application/json")
	resp, err := d.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, 0, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	raw, err := io.ReadAll(resp.Body)        // bounded by the client
	if err != nil {
		return nil, 0, err
	}
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media != "application/json" {
		raw = nil
	}
	return raw, resp.StatusCode, nil
}

// readSession reads an ID token that came from the token endpoint itself, whose
// TLS vouches for it; the service verifies the signature. It must be of this
// issuer, for this client, and not over.
func readSession(token string, from api.LoginIssuer, now time.Time) (session, error) {
	bad := func(expected, found string) (session, error) {
		return session{}, &signing.Error{Code: signing.Invalid, Message: "the ID token cannot be used", Expected: expected, Found: shown(found), Fix: "compare the client " + from.ClientID + " at the identity provider with `audience` of the service's issuer row"}
	}
	parts := strings.Split(token, ".")
	if len(token) > maxToken || len(parts) != 3 {
		return bad("an ID token (the scope openid)", fmt.Sprintf("%d bytes, %d parts", len(token), len(parts)))
	}
	var c struct {
		Issuer   string          `json:"iss"`
		Subject  string          `json:"sub"`
		Audience json.RawMessage `json:"aud"`
		Expires  float64         `json:"exp"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(raw, &c) != nil {
		return bad("claims", "something else")
	}
	var one string
	many := []string{}
	if json.Unmarshal(c.Audience, &one) == nil {
		many = []string{one}
	} else if json.Unmarshal(c.Audience, &many) != nil {
		return bad("an audience", "something else")
	}
	s := session{token: token, issuer: c.Issuer, subject: c.Subject, expires: time.Unix(int64(c.Expires), 0)}
	switch {
	case from.Issuer != "" && c.Issuer != from.Issuer:
		return bad("the issuer "+from.Issuer, c.Issuer)
	case from.ClientID != "" && !slices.Contains(many, from.ClientID):
		return bad("the audience "+from.ClientID, strings.Join(many, " "))
	case !s.expires.After(now):
		return bad("a token that has not expired", "expired at "+s.expires.UTC().Format(time.RFC3339))
	}
	return s, nil
}

// secure reports whether a person, or a code, may be sent to a URL.
func secure(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && len(raw) <= maxShown && raw == shown(raw) && u.Hostname() != "" && u.User == nil &&
		(u.Scheme == "https" || u.Scheme == "http" && outbound.IsLoopback(u.Hostname()))
}

// shown makes a stranger's text fit for a terminal: printable ASCII, cut.
func shown(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), maxShown)])
}
