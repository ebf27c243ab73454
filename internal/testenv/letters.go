package testenv

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

// Letters is a Memory that delivers webhooks, signed as GitHub signs them. Its
// payloads are forge.Events: real ones are tested with the adapters.
type Letters struct {
	*Memory
	Secret string

	mu      sync.Mutex
	comment func(forge.Comment) forge.Comment // guarded by mu; what Comment answers instead
	reads   int                               // guarded by mu; calls of Comment
	fail    error                             // guarded by mu; of Comment
	said    []string                          // guarded by mu; reactions
}

// NewLetters returns a forge with nobody in it.
func NewLetters(host string, now func() time.Time) *Letters {
	return &Letters{Memory: NewMemory(host, now), Secret: "It's a Secret to Everybody"}
}

// Letter returns the delivery of e: its headers and body.
func (l *Letters) Letter(e forge.Event) (http.Header, []byte) {
	body, err := json.Marshal(e)
	if err != nil {
		panic(err) // an Event always encodes
	}
	return http.Header{"X-Hub-Signature-256": {"sha256=" + l.mac(body)}, "X-Github-Event": {"issue_comment"}, "X-Github-Delivery": {"0b989ba4-242f-11e5-81e1-c7b6966d2516"}}, body
}

// About returns the event of a comment in a thread.
func About(t signing.Thread, c forge.Comment) forge.Event {
	return forge.Event{Kind: forge.EventComment, Repository: forge.Repository{ID: t.RepositoryID, Name: t.Repository}, Thread: t, Comment: c.ID, Body: c.Body, Sender: c.Author}
}

func (l *Letters) mac(body []byte) string {
	m := hmac.New(sha256.New, []byte(l.Secret))
	m.Write(body)
	return hex.EncodeToString(m.Sum(nil))
}

// Rewrite has Comment answer with what change makes of the comment; nil ends it.
func (l *Letters) Rewrite(change func(forge.Comment) forge.Comment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.comment = change
}

// FailComment has Comment fail, until nil.
func (l *Letters) FailComment(err error) { l.mu.Lock(); defer l.mu.Unlock(); l.fail = err }

// Reads returns how often a comment was read again.
func (l *Letters) Reads() int { l.mu.Lock(); defer l.mu.Unlock(); return l.reads }

// Reactions returns the reactions in order.
func (l *Letters) Reactions() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.said...)
}

// Comment implements forge.Threads.
func (l *Letters) Comment(ctx context.Context, t signing.Thread, id string) (forge.Comment, error) {
	c, err := l.Memory.Comment(ctx, t, id)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	if l.fail != nil {
		return forge.Comment{}, l.fail
	}
	if err == nil && l.comment != nil {
		c = l.comment(c)
	}
	return c, err
}

// React implements forge.Writer.
func (l *Letters) React(_ context.Context, _ signing.Thread, _ forge.Comment, reaction string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, reaction)
	return nil
}

// Authenticate implements forge.Hooks.
func (l *Letters) Authenticate(h http.Header, body []byte, _ time.Time) (forge.Delivery, error) {
	if !hmac.Equal([]byte(h.Get("X-Hub-Signature-256")), []byte("sha256="+l.mac(body))) {
		return forge.Delivery{}, &signing.Error{Code: signing.Unauthenticated, Message: "the delivery is not signed", Expected: "X-Hub-Signature-256", Found: "another or none", Fix: "set the secret of the webhook"}
	}
	return forge.Delivery{Forge: l.Name, Key: signing.DigestOf(body), ID: h.Get("X-GitHub-Delivery"), Name: h.Get("X-GitHub-Event"), Body: body}, nil
}

// Parse implements forge.Hooks.
func (l *Letters) Parse(d forge.Delivery) (e forge.Event, err error) {
	err = json.Unmarshal(d.Body, &e)
	return e, err
}

// heard tells what became of a delivery to both.
func (e *Env) heard(to func(host, outcome string)) func(host, outcome string) {
	return func(host, outcome string) {
		to(host, outcome)
		if e.Options.Heard != nil {
			e.Options.Heard(host, outcome)
		}
	}
}
