package github

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

// signaturePrefix is that of X-Hub-Signature-256. X-Hub-Signature, which is SHA-1,
// is not looked at.
const signaturePrefix = "sha256="

// The events that this service has a use for, as X-GitHub-Event names them.
const (
	hookPing          = "ping"
	hookComment       = "issue_comment"
	hookReview        = "pull_request_review"
	hookReviewComment = "pull_request_review_comment"
	hookCheckRun      = "check_run"
	hookPull          = "pull_request"
)

// Authenticate implements forge.Hooks. GitHub signs the body and nothing else: no
// time, no GUID, not the name of the event. The key of the delivery is therefore
// made from the body, with the name of the event beside it, so that a delivery
// under a wrong name does not take the place of the true one; Parse holds the name
// against the body.
func (c *Client) Authenticate(h http.Header, body []byte, _ time.Time) (forge.Delivery, error) {
	if len(body) > forge.MaxDelivery {
		return forge.Delivery{}, &signing.Error{Code: signing.TooLarge, Message: "the delivery is larger than any that GitHub sends", Expected: fmt.Sprintf("at most %d bytes", forge.MaxDelivery)}
	}
	if err := c.verify(h, body); err != nil {
		return forge.Delivery{}, err
	}
	name := only(h, "X-Github-Event")
	if name == "" {
		return forge.Delivery{}, &signing.Error{Code: signing.Invalid, Message: "the delivery has no event", Expected: "X-GitHub-Event, once", Found: "none"}
	}
	if t := h.Get("Content-Type"); t != "" {
		if media, _, err := mime.ParseMediaType(t); err != nil || media != "application/json" {
			return forge.Delivery{}, &signing.Error{Code: signing.Invalid, Message: "the delivery is not JSON", Expected: "application/json", Found: strconv.Quote(ask.Clip(t)), Fix: "set the content type of the App's webhook to application/json"}
		}
	}
	if len(body) == 0 || !json.Valid(body) {
		return forge.Delivery{}, &signing.Error{Code: signing.Invalid, Message: "the delivery is not JSON"}
	}
	return forge.Delivery{
		Forge: c.host,
		Key:   signing.DigestOf(append([]byte("github delivery\x00"+name+"\x00"), body...)),
		ID:    ask.Clip(only(h, "X-Github-Delivery")),
		Name:  ask.Clip(name),
		Body:  body,
	}, nil
}

// verify checks X-Hub-Signature-256 with each of the secrets, all in the same time.
func (c *Client) verify(h http.Header, body []byte) error {
	refused := func(message, expected, found string) error {
		return &signing.Error{Code: signing.Unauthenticated, Message: message, Expected: expected, Found: found, Fix: "compare the secret of the App's webhook with webhook.secrets of this forge"}
	}
	if len(c.secrets) == 0 {
		return refused("no webhook secret is configured for this forge", "", "")
	}
	text, signed := strings.CutPrefix(only(h, "X-Hub-Signature-256"), signaturePrefix)
	got, err := hex.DecodeString(text)
	if !signed || err != nil || len(got) != sha256.Size {
		found := "none"
		if h.Get("X-Hub-Signature") != "" {
			found = "SHA-1 only"
		}
		return refused("the delivery is not signed", "X-Hub-Signature-256, once", found)
	}
	good := 0
	for _, secret := range c.secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write(body)
		good |= subtle.ConstantTimeCompare(got, mac.Sum(nil))
	}
	if good != 1 {
		return refused("the signature of the delivery is wrong", "one by a configured secret", "none that verifies")
	}
	return nil
}

// only returns the value of a header that is there once, else "".
func only(h http.Header, name string) string {
	if v := h.Values(name); len(v) == 1 {
		return v[0]
	}
	return ""
}

// payload is what this service reads of a delivery. What is absent is nil.
type payload struct {
	Action       string      `json:"action"`
	Repository   *repository `json:"repository"`
	Installation *struct {
		ID int64 `json:"id"`
	} `json:"installation"`
	Sender *user   `json:"sender"`
	Zen    *string `json:"zen"` // of a ping
	Number int64   `json:"number"`
	Issue  *struct {
		Number int64           `json:"number"`
		Pull   json.RawMessage `json:"pull_request"`
	} `json:"issue"`
	Comment *remark    `json:"comment"`
	Review  *remark    `json:"review"`
	Pull    *hookedTo  `json:"pull_request"`
	Check   *hookedRun `json:"check_run"`
	Button  *struct {
		Identifier string `json:"identifier"`
	} `json:"requested_action"`
}

// hookedTo is the pull request of a delivery.
type hookedTo struct {
	Number int64 `json:"number"`
	Head   struct {
		SHA string `json:"sha"`
	} `json:"head"`
}

// hookedRun is the check run of a delivery.
type hookedRun struct {
	ID   int64  `json:"id"`
	SHA  string `json:"head_sha"`
	Name string `json:"name"`
	App  *struct {
		ID int64 `json:"id"`
	} `json:"app"`
}

// kind is the event that the body is of, empty for none that is of use.
func (p payload) kind() string {
	switch {
	case p.Check != nil:
		return hookCheckRun
	case p.Issue != nil && p.Comment != nil:
		return hookComment
	case p.Review != nil && p.Pull != nil:
		return hookReview
	case p.Comment != nil && p.Pull != nil:
		return hookReviewComment
	case p.Pull != nil && p.Number > 0:
		return hookPull
	case p.Zen != nil:
		return hookPing
	}
	return ""
}

// Parse implements forge.Hooks.
func (c *Client) Parse(d forge.Delivery) (forge.Event, error) {
	switch d.Name {
	case hookPing, hookComment, hookReview, hookReviewComment, hookCheckRun, hookPull:
	default:
		return ignored("no use for " + strconv.Quote(ask.Clip(d.Name))), nil
	}
	var p payload
	if err := json.Unmarshal(d.Body, &p); err != nil {
		return forge.Event{}, unreadable(err.Error())
	}
	if p.kind() != d.Name {
		return forge.Event{}, unreadable("the body is not of the event " + d.Name)
	}
	if d.Name == hookPing {
		return forge.Event{Kind: forge.EventPing}, nil
	}
	if p.Repository == nil || p.Repository.ID <= 0 {
		return forge.Event{}, unreadable("no repository")
	}
	e := forge.Event{
		Repository: forge.Repository{ID: strconv.FormatInt(p.Repository.ID, 10), Name: p.Repository.FullName},
		Sender:     c.account(p.Sender),
	}
	e.Thread = signing.Thread{Forge: c.host, RepositoryID: e.Repository.ID, Repository: e.Repository.Name}
	if p.Installation != nil && p.Installation.ID > 0 {
		e.Thread.Installation = strconv.FormatInt(p.Installation.ID, 10)
	}
	switch d.Name {
	case hookCheckRun:
		return c.buttonEvent(p, e)
	case hookPull:
		return pullEvent(p, e)
	case hookReview:
		return c.remarkEvent(p, e, *p.Review, "submitted")
	}
	return c.remarkEvent(p, e, *p.Comment, "created")
}

func ignored(why string) forge.Event { return forge.Event{Kind: forge.EventIgnored, Why: why} }

func unreadable(why string) error {
	return &signing.Error{Code: signing.Invalid, Message: "the delivery is not what GitHub sends", Found: ask.Clip(why)}
}

// remarkEvent reads a comment, review comment or review. made is the action that
// brings a new one; every other one changes or removes it.
func (c *Client) remarkEvent(p payload, e forge.Event, m remark, made string) (forge.Event, error) {
	kind, number := kindComment, int64(0)
	e.Thread.Kind = signing.ThreadPull
	switch {
	case p.Issue != nil:
		number = p.Issue.Number
		if len(p.Issue.Pull) == 0 || string(p.Issue.Pull) == "null" {
			e.Thread.Kind = signing.ThreadIssue
		}
	case p.Review != nil:
		kind, number, e.Commit = kindReview, p.Pull.Number, m.Commit
	default:
		kind, number, e.Commit = kindReviewComment, p.Pull.Number, m.Commit
	}
	if m.ID <= 0 || number <= 0 {
		return forge.Event{}, unreadable("a comment without an id, or on nothing")
	}
	e.Thread.Number, e.Comment = strconv.FormatInt(number, 10), commentID(kind, m.ID)
	switch {
	case p.Action == "edited", p.Action == "deleted", p.Action == "dismissed":
		// Who edits it is the sender; its author is another matter.
		e.Kind = forge.EventEdited
		return e, nil
	case p.Action != made:
		return ignored("not " + made), nil
	}
	author := c.account(m.User)
	switch {
	case !author.Known():
		return ignored("its author is gone"), nil
	case author.Bot, e.Sender.Bot:
		return ignored("bot"), nil
	case m.via():
		return ignored("written by an App in somebody's name"), nil
	case author.ID != e.Sender.ID:
		return forge.Event{}, unreadable("a new comment whose author is not who sent it")
	}
	e.Kind, e.Body = forge.EventComment, m.Body
	return e, nil
}

// buttonEvent reads a press of a button. Only a check run of our own App has
// buttons that are ours.
func (c *Client) buttonEvent(p payload, e forge.Event) (forge.Event, error) {
	if p.Action != "requested_action" {
		return ignored("no button"), nil
	}
	if p.Check.App == nil || !slices.ContainsFunc(c.apps, func(a *app) bool { return a.id == p.Check.App.ID }) {
		return ignored("the check run of another App"), nil
	}
	switch {
	case p.Check.ID <= 0 || p.Button == nil || p.Button.Identifier == "" || !e.Sender.Known():
		return forge.Event{}, unreadable("a button without its check run, its identifier or who pressed it")
	case e.Sender.Bot:
		return ignored("bot"), nil
	}
	e.Kind, e.Button, e.Check, e.Commit = forge.EventButton, p.Button.Identifier, strconv.FormatInt(p.Check.ID, 10), p.Check.SHA
	return e, nil
}

// pullEvent reads that a pull request was opened or got new commits.
func pullEvent(p payload, e forge.Event) (forge.Event, error) {
	if p.Action != "opened" && p.Action != "synchronize" && p.Action != "reopened" {
		return ignored("no new commits"), nil
	}
	if p.Pull.Number != p.Number || !ask.IsCommit(p.Pull.Head.SHA) {
		return forge.Event{}, unreadable("a pull request without its number or its head")
	}
	e.Kind, e.Commit = forge.EventPull, p.Pull.Head.SHA
	e.Thread.Kind, e.Thread.Number = signing.ThreadPull, strconv.FormatInt(p.Number, 10)
	return e, nil
}
