package gitlab

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// hookTolerance is how far a signed time may be from our clock, either way. A
	// retry is signed anew, so that more is not needed.
	hookTolerance = 5 * time.Minute
	// maxSignatures bounds the signatures of one delivery that are looked at: GitLab
	// sends one, two while a signing token is replaced.
	maxSignatures = 8
	// maxHookID bounds webhook-id, a UUID, which is signed with the body.
	maxHookID = 128
	// minSigningKey is the shortest key of a signing token in bytes; GitLab's have 32.
	minSigningKey = 24

	signingPrefix = "whsec_"
)

// hookSecrets is what deliveries are verified with. Where keys is not empty, plain
// secrets do not count.
type hookSecrets struct {
	keys  [][]byte
	plain [][sha256.Size]byte
}

func readHooks(cfg forge.Config, env func(string) (string, bool)) (hookSecrets, error) {
	var h hookSecrets
	for _, s := range cfg.Webhook.SigningTokens {
		text, err := s.Read(env)
		if err != nil {
			return h, fmt.Errorf("forge %s: signing token: %w", cfg.Host, err)
		}
		encoded, ok := strings.CutPrefix(string(text), signingPrefix)
		key, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(key) < minSigningKey {
			return h, fmt.Errorf("forge %s: %s is no signing token: it must be %s and the base64 of at least %d bytes", cfg.Host, s, signingPrefix, minSigningKey)
		}
		h.keys = append(h.keys, key)
	}
	for _, s := range cfg.Webhook.Secrets {
		text, err := s.Read(env)
		if err != nil {
			return h, fmt.Errorf("forge %s: webhook secret: %w", cfg.Host, err)
		}
		h.plain = append(h.plain, sha256.Sum256(text))
	}
	return h, nil
}

// Authenticate implements forge.Hooks. With a signing token, the signature over
// id, time and body is demanded and X-Gitlab-Token says nothing. Without one, the
// plain secret is: it protects from strangers, not from who can read a delivery.
func (c *Client) Authenticate(h http.Header, body []byte, now time.Time) (forge.Delivery, error) {
	if len(body) > forge.MaxDelivery {
		return forge.Delivery{}, &signing.Error{Code: signing.TooLarge, Message: "the delivery is larger than any that GitLab sends", Expected: fmt.Sprintf("at most %d bytes", forge.MaxDelivery)}
	}
	var err error
	switch {
	case len(c.hooks.keys) > 0:
		err = c.hooks.signed(h, body, now)
	case len(c.hooks.plain) > 0:
		err = c.hooks.token(h)
	default:
		err = refusal("no webhook secret is configured for this forge", "", "")
	}
	if err != nil {
		return forge.Delivery{}, err
	}
	name := h.Get("X-Gitlab-Event")
	if len(body) == 0 || !json.Valid(body) {
		return forge.Delivery{}, &signing.Error{Code: signing.Invalid, Message: "the delivery is not JSON"}
	}
	return forge.Delivery{
		Forge: c.host,
		// The body alone: id and time of a redelivery differ, and so may headers that
		// nobody signed.
		Key:  signing.DigestOf(append([]byte("gitlab delivery\x00"), body...)),
		ID:   ask.Clip(only(h, "X-Gitlab-Event-Uuid")),
		Name: ask.Clip(name),
		Body: body,
	}, nil
}

// only returns the value of a header that is there once, else "".
func only(h http.Header, name string) string {
	if v := h.Values(name); len(v) == 1 {
		return v[0]
	}
	return ""
}

func refusal(message, expected, found string) error {
	return &signing.Error{Code: signing.Unauthenticated, Message: message, Expected: expected, Found: found, Fix: "compare the webhook's settings in GitLab with `webhook` of this forge"}
}

// signed verifies a signature by Standard Webhooks: v1 is HMAC-SHA256 over
// ID.TIME.BODY.
func (s hookSecrets) signed(h http.Header, body []byte, now time.Time) error {
	id, at, list := only(h, "Webhook-Id"), only(h, "Webhook-Timestamp"), only(h, "Webhook-Signature")
	if id == "" || at == "" || list == "" || len(id) > maxHookID {
		return refusal("the delivery is not signed", "webhook-id, webhook-timestamp and webhook-signature, each once", "not all of them")
	}
	unix, err := strconv.ParseInt(at, 10, 64)
	if err != nil || strconv.FormatInt(unix, 10) != at {
		return refusal("the delivery has no time", "seconds since 1970", strconv.Quote(ask.Clip(at)))
	}
	if d := now.Sub(time.Unix(unix, 0)); d > hookTolerance || d < -hookTolerance {
		return refusal("the delivery is from another time", "at most "+hookTolerance.String()+" from now", time.Unix(unix, 0).UTC().Format(time.RFC3339))
	}
	signatures := strings.Fields(list)
	if len(signatures) > maxSignatures {
		return refusal("the delivery has too many signatures", fmt.Sprintf("at most %d", maxSignatures), strconv.Itoa(len(signatures)))
	}
	good := 0
	for _, key := range s.keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + at + "."))
		mac.Write(body)
		want := mac.Sum(nil)
		for _, sig := range signatures {
			encoded, v1 := strings.CutPrefix(sig, "v1,")
			if got, err := base64.StdEncoding.DecodeString(encoded); v1 && err == nil {
				good |= subtle.ConstantTimeCompare(got, want)
			}
		}
	}
	if good != 1 {
		return refusal("the signature of the delivery is wrong", "one by a configured signing token", "none that verifies")
	}
	return nil
}

// token verifies X-Gitlab-Token. Hashes are compared, so that the time says
// nothing of the length either.
func (s hookSecrets) token(h http.Header) error {
	v := only(h, "X-Gitlab-Token")
	if v == "" {
		return refusal("the delivery has no token", "X-Gitlab-Token, once", "none")
	}
	got, good := sha256.Sum256([]byte(v)), 0
	for _, want := range s.plain {
		good |= subtle.ConstantTimeCompare(got[:], want[:])
	}
	if good != 1 {
		return refusal("the token of the delivery is wrong", "a configured webhook secret", "another one")
	}
	return nil
}

// payload is what this service reads of a delivery.
type payload struct {
	Kind      string `json:"object_kind"`
	EventType string `json:"event_type"`
	User      struct {
		ID       int64  `json:"id"`
		Username string `json:"username"`
	} `json:"user"`
	Project struct {
		ID   int64  `json:"id"`
		Path string `json:"path_with_namespace"`
	} `json:"project"`
	Object struct {
		ID           int64   `json:"id"`
		IID          int64   `json:"iid"`
		Note         string  `json:"note"`
		NoteableType string  `json:"noteable_type"`
		AuthorID     int64   `json:"author_id"`
		ProjectID    int64   `json:"project_id"`
		System       bool    `json:"system"`
		Internal     bool    `json:"internal"`
		Confidential bool    `json:"confidential"`
		Action       string  `json:"action"`
		OldRev       string  `json:"oldrev"`
		URL          string  `json:"url"`
		Target       int64   `json:"target_project_id"`
		LastCommit   *commit `json:"last_commit"`
	} `json:"object_attributes"`
	MergeRequest *struct {
		IID        int64   `json:"iid"`
		Target     int64   `json:"target_project_id"`
		LastCommit *commit `json:"last_commit"`
	} `json:"merge_request"`
	Issue *struct {
		IID       int64 `json:"iid"`
		ProjectID int64 `json:"project_id"`
	} `json:"issue"`
}

type commit struct {
	ID string `json:"id"`
}

// Parse implements forge.Hooks. What kind of event it is, the body says: the
// header is signed by nobody.
func (c *Client) Parse(d forge.Delivery) (forge.Event, error) {
	var kind struct {
		Kind string `json:"object_kind"`
	}
	if err := json.Unmarshal(d.Body, &kind); err != nil {
		return forge.Event{}, unreadable("no JSON object")
	}
	if kind.Kind != "note" && kind.Kind != "merge_request" {
		return ignored("no use for " + strconv.Quote(ask.Clip(kind.Kind))), nil
	}
	var p payload
	if err := json.Unmarshal(d.Body, &p); err != nil {
		return forge.Event{}, unreadable(err.Error())
	}
	if kind.Kind == "note" {
		return c.noteEvent(p)
	}
	return c.mergeEvent(p)
}

func ignored(why string) forge.Event { return forge.Event{Kind: forge.EventIgnored, Why: why} }

func unreadable(why string) error {
	return &signing.Error{Code: signing.Invalid, Message: "the delivery is not what GitLab sends", Found: ask.Clip(why)}
}

// noteEvent reads a Note Hook. An update is built by GitLab with the note's
// author in `user`, whoever wrote the text: nobody is named as its sender.
func (c *Client) noteEvent(p payload) (forge.Event, error) {
	o := p.Object
	switch {
	case p.EventType != "note", o.Internal, o.Confidential:
		return ignored("confidential"), nil
	case o.System:
		return ignored("system note"), nil
	case o.NoteableType != "MergeRequest" && o.NoteableType != "Issue":
		return ignored("not on a merge request or issue"), nil
	case o.Action != "create" && o.Action != "update":
		return ignored("not created"), nil
	}
	e := forge.Event{Kind: forge.EventComment, Comment: strconv.FormatInt(o.ID, 10), Body: o.Note}
	number, owner, kind := int64(0), int64(0), signing.ThreadIssue
	switch {
	case o.NoteableType == "MergeRequest" && p.MergeRequest != nil:
		number, owner, kind = p.MergeRequest.IID, p.MergeRequest.Target, signing.ThreadPull
		if p.MergeRequest.LastCommit != nil {
			e.Commit = p.MergeRequest.LastCommit.ID
		}
	case o.NoteableType == "Issue" && p.Issue != nil:
		number, owner = p.Issue.IID, p.Issue.ProjectID
	default:
		return forge.Event{}, unreadable("a note without what it is on")
	}
	if o.ID <= 0 || number <= 0 || p.Project.ID <= 0 || owner != p.Project.ID || o.ProjectID != p.Project.ID {
		return forge.Event{}, unreadable("ids that are missing or contradict each other")
	}
	e.Repository = forge.Repository{ID: strconv.FormatInt(p.Project.ID, 10), Name: p.Project.Path}
	e.Thread = signing.Thread{Forge: c.host, RepositoryID: e.Repository.ID, Repository: p.Project.Path, Kind: kind, Number: strconv.FormatInt(number, 10)}
	if o.Action == "update" {
		e.Kind, e.Body = forge.EventEdited, ""
		return e, nil
	}
	if o.AuthorID <= 0 {
		return forge.Event{}, unreadable("a new note without an author")
	}
	e.Sender = signing.Account{Forge: c.host, ID: strconv.FormatInt(o.AuthorID, 10)}
	if p.User.ID == o.AuthorID {
		e.Sender.Login = p.User.Username
	}
	return e, nil
}

// mergeEvent reads a Merge Request Hook: opened, or with new commits.
func (c *Client) mergeEvent(p payload) (forge.Event, error) {
	o := p.Object
	opened := o.Action == "open" || o.Action == "reopen"
	if !opened && (o.Action != "update" || o.OldRev == "") {
		return ignored("no new commits"), nil
	}
	if o.IID <= 0 || p.Project.ID <= 0 || o.Target != p.Project.ID {
		return forge.Event{}, unreadable("ids that are missing or contradict each other")
	}
	e := forge.Event{Kind: forge.EventPull, Repository: forge.Repository{ID: strconv.FormatInt(p.Project.ID, 10), Name: p.Project.Path}}
	e.Thread = signing.Thread{Forge: c.host, RepositoryID: e.Repository.ID, Repository: p.Project.Path, Kind: signing.ThreadPull, Number: strconv.FormatInt(o.IID, 10)}
	if p.User.ID > 0 {
		e.Sender = signing.Account{Forge: c.host, ID: strconv.FormatInt(p.User.ID, 10), Login: p.User.Username}
	}
	if o.LastCommit != nil {
		e.Commit = o.LastCommit.ID
	}
	return e, nil
}
