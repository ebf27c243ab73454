package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/approval"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/view"
)

const (
	// awaitingPage is how many Requests one read of those that wait returns.
	awaitingPage = 200
	// maxReplies bounds the answers to commands that the service writes in one
	// thread, so that nobody can use it to fill one, or to use up what the forge
	// allows it to write.
	maxReplies = 20
	// replyMarker begins each of them, as package view writes them. The second line
	// names the comment, so that none is answered twice.
	replyMarker = "<!-- sealwright reply -->"
	// nameComment is the name under which a comment that was dealt with is kept
	// among the deliveries.
	nameComment = "comment"
)

// The verbs of Input that decide, for callers that know no more of approvals.
const (
	VerbApprove = approval.VerbApprove
	VerbDeny    = approval.VerbDeny
)

// What became of a command, for Options.Heard.
const (
	HeardAccepted  = "accepted"
	HeardRefused   = "refused"       // with a reason, which was answered
	HeardElsewhere = "elsewhere"     // not in the thread in which the Request asked
	HeardGone      = "gone"          // the comment is not there any more
	HeardEdited    = "edited"        // it may not say what its author wrote
	HeardProgram   = "program"       // a bot, an App or the forge itself wrote it
	HeardStranger  = "other_author"  // not by who the delivery says sent it
	HeardOld       = "old"           // longer ago than any Request waits
	HeardOver      = "over"          // what it names was over before it could be read
	HeardNothing   = "nothing_waits" // nothing waits for people in this thread
)

// mention is a comment that may hold commands, as a delivery or a list has it.
type mention struct {
	thread  signing.Thread
	comment string
	sender  signing.Account
	body    string
	again   bool // it was tried before
}

// key identifies the comment among deliveries.
func (m mention) key() signing.Digest {
	return signing.DigestOf([]byte("sealwright comment\n" + m.thread.RepositoryID + "\n" + m.thread.Kind + "\n" + m.thread.Number + "\n" + m.comment))
}

// handled is the row that says that the comment was dealt with.
func (m mention) handled(host string) *store.Delivery {
	return &store.Delivery{Forge: host, Key: m.key(), Name: nameComment, ID: clip(m.comment, 64)}
}

// addressed reports whether anything in body is meant for this service.
func addressed(body string) bool {
	commands, err := approval.Parse(body)
	return len(commands) > 0 || err != nil
}

// hear deals with one comment: what it commands is done once, however often it is
// heard of. The error says that the forge or the database could not be asked, and
// that it is to be tried again; the comment is not dealt with then.
//
// The mention is a hint and authorises nothing: what counts is the comment as the
// forge shows it when it is asked, in the thread in which the Request asked.
func (w *Workflow) hear(ctx context.Context, f forge.Forge, m mention) (string, error) {
	host := f.Host()
	defer w.threads.lock(host + " " + m.thread.RepositoryID + " " + m.thread.Kind + " " + m.thread.Number)()
	asked, known, err := w.asked(ctx, host, m)
	switch {
	case err != nil:
		return "", err
	case known:
		return HeardDuplicate, nil
	case len(asked) == 0:
		if commands, err := approval.Parse(m.body); err == nil && slices.ContainsFunc(commands, func(c approval.Command) bool { return c.Request != "" }) {
			return HeardElsewhere, nil
		}
		return HeardNothing, nil
	case m.again && !slices.ContainsFunc(asked, func(r *signing.Request) bool { return !r.State.Terminal() }):
		return HeardOver, nil
	}
	// The thread as it is stored, with the installation that the service knows.
	thread := asked[0].Asking.Thread
	c, err := f.Comment(ctx, thread, m.comment)
	if errors.Is(err, signing.NotFound) {
		return HeardGone, nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the comment again: %w", err)
	}
	if why := w.unfit(m, c); why != "" {
		return why, nil
	}
	return w.obey(ctx, f, thread, asked, c)
}

// final reports whether a comment was dealt with for good. One that is about
// nothing here may be about a question that is on the forge already and not yet in
// the database: the poll looks at it again.
func final(outcome string) bool {
	return outcome != HeardDuplicate && outcome != HeardElsewhere && outcome != HeardNothing
}

// asked returns the Requests that m is about: those that asked in its thread, and
// that its commands name, or all that wait there where they name none. known says
// that the comment was dealt with.
func (w *Workflow) asked(ctx context.Context, host string, m mention) (asked []*signing.Request, known bool, err error) {
	commands, _ := approval.Parse(m.body) // a command that is malformed names nothing
	var ids []string
	for _, c := range commands {
		if c.Request == "" {
			ids = nil
			break
		}
		ids = append(ids, c.Request)
	}
	here := func(r *signing.Request) bool { return asksIn(r, host, m.thread) }
	err = w.Store.View(ctx, func(tx *store.Tx) error {
		done, err := tx.Deliveries(host, []signing.Digest{m.key()})
		if known = len(done) > 0; err != nil || known {
			return err
		}
		if len(ids) > 0 {
			found, err := tx.Requests(ids)
			asked = slices.DeleteFunc(found, func(r *signing.Request) bool { return !here(r) })
			return err
		}
		return eachAwaiting(tx, func(r *signing.Request) {
			if here(r) {
				asked = append(asked, r)
			}
		})
	})
	return asked, known, err
}

// asksIn reports whether r asked for approval in exactly this thread of this
// forge, and whether that is one of the repository that r was built from.
func asksIn(r *signing.Request, host string, t signing.Thread) bool {
	t.Forge = host
	return r.Asking != nil && r.Asking.Thread.Same(t) && r.Origin.Forge == host && r.Origin.SourceRepositoryIdentifier == t.RepositoryID
}

// eachAwaiting calls each for every Request that waits for people.
func eachAwaiting(tx *store.Tx, each func(*signing.Request)) error {
	for after := ""; ; {
		page, err := tx.Awaiting(after, awaitingPage)
		if err != nil {
			return err
		}
		for _, r := range page {
			each(r)
		}
		if len(page) < awaitingPage {
			return nil
		}
		after = page[len(page)-1].ID
	}
}

// unfit returns why the comment, as the forge shows it now, is no command of the
// person that m names, empty if it may be one.
func (w *Workflow) unfit(m mention, c forge.Comment) string {
	age := w.Now().Sub(c.Created)
	switch {
	case c.System || c.Author.Bot:
		return HeardProgram
	case c.Edited || !sameCommands(m.body, c.Body):
		return HeardEdited
	case !c.Author.Known() || c.Author.ID != m.sender.ID:
		return HeardStranger
	case c.Created.IsZero() || age > deliveryAge || age < -clockSkew:
		return HeardOld
	}
	return ""
}

// sameCommands reports whether two texts command the same. An edit in the second
// in which a comment was made shows in no date of some forges.
func sameCommands(a, b string) bool {
	one, errOne := approval.Parse(a)
	two, errTwo := approval.Parse(b)
	return slices.Equal(one, two) && (errOne == nil) == (errTwo == nil)
}

// clockSkew is how far a forge's clock may be ahead of ours.
const clockSkew = 5 * time.Minute

// obey does what the comment commands of the Requests that asked in its thread.
func (w *Workflow) obey(ctx context.Context, f forge.Forge, thread signing.Thread, asked []*signing.Request, c forge.Comment) (string, error) {
	commands, err := approval.Parse(c.Body)
	if err != nil {
		w.answer(ctx, f, thread, c, false, []string{view.Refusal(err)})
		return HeardRefused, nil
	}
	accepted, said := true, []string{}
	for _, command := range commands {
		switch command.Verb {
		case approval.VerbHelp:
			said = append(said, view.Help())
			continue
		case approval.VerbStatus:
			said = append(said, view.StatusReply(w.waitingOf(asked)))
			continue
		}
		i := slices.IndexFunc(asked, func(r *signing.Request) bool { return r.ID == command.Request })
		if i < 0 {
			continue // of another thread: not even answered
		}
		out, err := w.Command(ctx, Input{
			Request: asked[i].ID, Verb: command.Verb, Code: command.Code, Reason: command.Reason,
			By: c.Author, Via: via(c), Ref: c.ID, URL: c.URL, At: c.Created,
		})
		if err != nil && (signing.Temporary(err) || signing.CodeOf(err) == signing.Internal) {
			return "", err
		}
		if err != nil {
			said = append(said, view.Refusal(err))
		} else if out.Message != "" {
			said = append(said, out.Message)
		}
		accepted = accepted && err == nil && out.Accepted
	}
	w.answer(ctx, f, thread, c, accepted, said)
	if !accepted {
		return HeardRefused, nil
	}
	return HeardAccepted, nil
}

// waitingOf is what is shown of the Requests that wait in a thread.
func (w *Workflow) waitingOf(asked []*signing.Request) []view.Asked {
	var out []view.Asked
	for _, r := range asked {
		if r.State != signing.AwaitingApproval {
			continue
		}
		tally, code := w.Standing(r)
		out = append(out, view.Asked{Request: *r, Round: r.Asking.Round, Code: code, Tally: tally})
	}
	return out
}

func via(c forge.Comment) string {
	if c.Kind == "review" {
		return signing.ViaReview
	}
	return signing.ViaComment
}

// answer acknowledges a comment, and says in words what a reaction cannot, once.
// That it fails changes nothing: the command was obeyed or not.
func (w *Workflow) answer(ctx context.Context, f forge.Forge, t signing.Thread, c forge.Comment, accepted bool, said []string) {
	reaction := "+1"
	if !accepted {
		reaction = "confused"
	}
	err := f.React(ctx, t, c, reaction)
	if len(said) > 0 {
		err = errors.Join(err, w.reply(ctx, f, t, c, said))
	}
	if err != nil && ctx.Err() == nil {
		w.Log.Warn("answering a command", "forge", t.Forge, "thread", t.Kind+" "+t.Number, "comment", c.ID, "error", err)
	}
}

func (w *Workflow) reply(ctx context.Context, f forge.Forge, t signing.Thread, c forge.Comment, said []string) error {
	mine, err := f.Mine(ctx, t, replyMarker)
	if err != nil {
		return err
	}
	to := "<!-- to " + c.ID + " -->"
	if len(mine) >= maxReplies || slices.ContainsFunc(mine, func(m forge.Comment) bool { return strings.Contains(m.Body, to) }) {
		return nil
	}
	for i := range said {
		said[i] = strings.TrimPrefix(said[i], replyMarker+"\n")
	}
	_, err = f.Post(ctx, t, replyMarker+"\n"+to+"\n"+strings.Join(said, "\n\n"))
	return err
}

// keyed is a mutex for each key. The zero value is ready.
type keyed struct {
	mu   sync.Mutex
	held map[string]*holder // guarded by mu
}

type holder struct {
	mu sync.Mutex
	n  int // guarded by keyed.mu
}

// lock locks a key and returns what unlocks it.
func (k *keyed) lock(key string) func() {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*holder{}
	}
	h := k.held[key]
	if h == nil {
		h = &holder{}
		k.held[key] = h
	}
	h.n++
	k.mu.Unlock()
	h.mu.Lock()
	return func() {
		h.mu.Unlock()
		k.mu.Lock()
		if h.n--; h.n == 0 {
			delete(k.held, key)
		}
		k.mu.Unlock()
	}
}
