package devworld

import (
	"maps"
	"net/http"
	"time"
)

// personLifetime is how long an identity provider's ID tokens live.
const personLifetime = time.Hour

// Person is whom an identity provider knows. Start from NewPerson.
type Person struct {
	Subject string   `json:"subject"`
	Email   string   `json:"email"`
	Groups  []string `json:"groups"`
	// Overrides replaces claims; null leaves a claim out.
	Overrides map[string]any `json:"claims"`
}

// NewPerson returns ann, who is in the group auditors.
func NewPerson() Person {
	return Person{Subject: "00u1ann", Email: "ann@acme.test", Groups: []string{"auditors"}}
}

// PersonClaims returns the claims of an ID token for p if it were issued now.
func (i *Issuer) PersonClaims(p Person, audience string) map[string]any {
	now := i.now()
	c := map[string]any{
		"iss": i.url, "aud": audience, "sub": p.Subject, "iat": now.Unix(), "exp": now.Add(personLifetime).Unix(), "auth_time": now.Unix(),
		"email": p.Email, "email_verified": true, "groups": p.Groups,
	}
	maps.Copy(c, p.Overrides)
	return c
}

// PersonToken returns an ID token for p.
func (i *Issuer) PersonToken(p Person, audience string) (string, error) {
	return i.Mint(i.PersonClaims(p, audience), Flaw{})
}

func (w *World) devPerson(r *http.Request) (string, error) {
	p := NewPerson()
	if err := decode(r, &p); err != nil {
		return "", err
	}
	token, err := w.People.PersonToken(p, r.URL.Query().Get("audience"))
	return token + "\n", err
}
