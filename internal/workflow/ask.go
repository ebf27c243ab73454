package workflow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/facts"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/view"
)

const (
	// jobAsk is the kind of the job that asks people about a Request, keeps the
	// question up to date and takes it back. Asking is no report: a Request whose
	// question cannot be put waits until its deadline, and is not signed.
	jobAsk = "ask"
	// askWorkers is how many questions are written at once.
	askWorkers = 8
	// askAge is how long after its end the question of a Request is still put right
	// on a forge that cannot be reached.
	askAge = 24 * time.Hour
	// maxMentions bounds who is called by name: more than these are a mailing list.
	maxMentions = 30
)

// asking is one run of the job. Each write to the forge is announced by a commit
// and confirmed by another, so that a comment whose answer was lost is found by
// its marker, and never written twice.
type asking struct {
	w     *Workflow
	claim *store.Claim
	f     forge.Forge
	s     Snapshot
	r     *signing.Request
}

func (w *Workflow) loadAsks(ctx context.Context, claims []*store.Claim) (map[*store.Claim]task, error) {
	out := map[*store.Claim]task{}
	err := w.Store.View(ctx, func(tx *store.Tx) error {
		for _, c := range claims {
			s, err := snapshot(tx, c.Ref)
			if errors.Is(err, signing.NotFound) {
				err = store.Tampered("requests", "request "+clip(c.Ref, 40), "no such row")
			}
			if err != nil {
				return err
			}
			a := &asking{w: w, claim: c, s: s, r: s.Request}
			out[c] = a.run
		}
		return nil
	})
	return out, err
}

// run does what the Request needs now, and ends the job or gives it back until
// people are to be reminded.
func (a *asking) run(ctx context.Context) error {
	f, ok := a.w.Forges[a.r.Origin.Forge]
	over := a.r.State.Terminal() && a.w.Now().Sub(a.r.Ended) > askAge
	if !ok || over || a.r.Asking == nil || a.r.Decision == nil || a.r.Decision.Approvals == nil {
		return a.end(ctx)
	}
	a.f = f
	if a.r.State != signing.AwaitingApproval {
		if err := a.takeBack(ctx); err != nil {
			return err
		}
		return a.end(ctx)
	}
	if a.r.Asking.Thread.Number == "" {
		if err := a.place(ctx); err != nil {
			return err
		}
	}
	if err := a.question(ctx); err != nil {
		return err
	}
	if err := a.remind(ctx); err != nil {
		return err
	}
	next := a.r.Deadline
	if a.r.Asking.Reminded.IsZero() {
		next = a.halfway()
	}
	// Wherever the Request has gone meanwhile: whoever moved it has asked for this
	// job again.
	return a.w.Store.Update(ctx, "asked", func(tx *store.Tx) error { return tx.Release(a.claim, next) })
}

func (a *asking) end(ctx context.Context) error {
	return a.w.Store.Update(ctx, "asked", func(tx *store.Tx) error { return tx.Finish(a.claim) })
}

// save changes what is known of the question, in the Request as it then is. The
// event, if there is one, is for a Request that still waits.
func (a *asking) save(ctx context.Context, name string, change func(*signing.Asking), kind string, attrs func(*signing.Request) map[string]string) error {
	err := a.w.Store.Update(ctx, name, func(tx *store.Tx) error {
		if err := tx.CheckClaim(a.claim); err != nil {
			return err
		}
		r, err := tx.Request(a.r.ID)
		if err != nil {
			return err
		}
		if r.Asking.Round != a.r.Asking.Round {
			return &signing.Error{Code: signing.Unavailable, Message: "the code of the question changed meanwhile"}
		}
		next := *r.Asking
		change(&next)
		r.Asking = &next
		var events []audit.Event
		if kind != "" && r.State == signing.AwaitingApproval {
			events = append(events, audit.Event{Time: tx.Now(), Kind: kind, Request: r.ID, Attrs: attrs(r)})
		}
		a.r = r
		return tx.SaveRequest(r, events...)
	})
	if err == nil {
		a.w.tell(a.r.ID, nil)
	}
	return err
}

// place finds the thread to ask in: the open pull request of the commit, else the
// merged one, else an issue that is opened for it.
func (a *asking) place(ctx context.Context) error {
	o := a.r.Origin
	if o.SourceRepositoryDigest == "" { // a person's list has no build
		return a.issue(ctx)
	}
	t, err := a.f.Find(ctx, repositoryOf(o), o.SourceRepositoryDigest)
	if errors.Is(err, signing.NotFound) {
		return a.issue(ctx)
	}
	if err != nil {
		return fmt.Errorf("looking for the pull request to ask in: %w", err)
	}
	if t, err = a.own(t); err != nil {
		return err
	}
	return a.save(ctx, "ask", func(k *signing.Asking) { k.Thread = t }, "", nil)
}

// own refuses a thread of another repository than the Request's.
func (a *asking) own(t signing.Thread) (signing.Thread, error) {
	t.Forge = a.r.Origin.Forge
	if t.RepositoryID != a.r.Origin.SourceRepositoryIdentifier || strings.TrimSpace(t.Number) == "" {
		return t, &signing.Error{Code: signing.Internal, Message: "the forge found a thread of another repository", Expected: a.r.Origin.SourceRepositoryIdentifier, Found: fmt.Sprintf("%.40q", t.RepositoryID)}
	}
	return t, nil
}

// issue opens the issue to ask in. What a forge that lost the answer has opened is
// found by its title or left alone: its code is the same, and commands count in
// the one that is stored.
func (a *asking) issue(ctx context.Context) error {
	body := kept(view.Question(a.asked(ctx, true)))
	if err := a.save(ctx, "ask", func(k *signing.Asking) { k.Writing = signing.DigestOf([]byte(body)) }, "", nil); err != nil {
		return err
	}
	t, c, err := a.f.Open(ctx, repositoryOf(a.r.Origin), view.QuestionTitle(*a.r), body)
	if err != nil {
		return fmt.Errorf("opening an issue to ask in: %w", err)
	}
	if t, err = a.own(t); err != nil {
		return err
	}
	t.Opened = true
	if got := signing.DigestOf([]byte(kept(c.Body))); got != a.r.Asking.Writing {
		// It was there already, of a try whose answer was lost: edited to what it says now.
		return a.save(context.WithoutCancel(ctx), "ask", func(k *signing.Asking) { k.Thread = t }, "", nil)
	}
	return a.posted(ctx, t, c, a.r.Asking.Writing)
}

// posted records that the question stands in its thread.
func (a *asking) posted(ctx context.Context, t signing.Thread, c forge.Comment, body signing.Digest) error {
	return a.save(context.WithoutCancel(ctx), "asked question", func(k *signing.Asking) {
		k.Thread, k.Comment, k.URL, k.Body, k.Writing, k.Asked = t, c.ID, c.URL, body, "", a.w.Now()
	}, audit.RequestAsked, func(r *signing.Request) map[string]string {
		why := ""
		if r.Asking.Round > 1 {
			why = "altered" // the question before
		}
		return audit.Asked(r, why)
	})
}

// question puts the question, or brings it up to date.
func (a *asking) question(ctx context.Context) error {
	k := a.r.Asking
	if k.Comment != "" {
		return a.refresh(ctx)
	}
	mine, err := a.f.Mine(ctx, k.Thread, view.QuestionMarker(a.r.ID, k.Round))
	if err != nil {
		return fmt.Errorf("looking for the question: %w", err)
	}
	for _, c := range mine {
		if d := signing.DigestOf([]byte(kept(c.Body))); k.Writing != "" && d == k.Writing {
			return a.posted(ctx, k.Thread, c, d)
		}
	}
	if len(mine) > 0 {
		// Ours, and not what was written: somebody edited it before it was recorded.
		return a.w.recode(ctx, a.r, "edited")
	}
	body := kept(view.Question(a.asked(ctx, true)))
	if err := a.save(ctx, "ask", func(k *signing.Asking) { k.Writing = signing.DigestOf([]byte(body)) }, "", nil); err != nil {
		return err
	}
	c, err := a.f.Post(ctx, k.Thread, body)
	if err != nil {
		return fmt.Errorf("posting the question: %w", err)
	}
	return a.posted(ctx, k.Thread, c, signing.DigestOf([]byte(kept(body))))
}

// refresh edits the question to say what is so now.
func (a *asking) refresh(ctx context.Context) error {
	body := kept(view.Question(a.asked(ctx, false)))
	next := signing.DigestOf([]byte(body))
	k := a.r.Asking
	if next == k.Body && k.Writing == "" {
		return nil
	}
	err := a.w.untouched(ctx, a.r)
	if errors.Is(err, signing.Conflict) {
		return nil // this job is due again, to ask anew
	}
	if err != nil {
		return err
	}
	if err := a.save(ctx, "ask", func(k *signing.Asking) { k.Writing = next }, "", nil); err != nil {
		return err
	}
	if err := a.f.Edit(ctx, k.Thread, k.Comment, body); err != nil {
		return fmt.Errorf("editing the question: %w", err)
	}
	return a.save(context.WithoutCancel(ctx), "ask", func(k *signing.Asking) { k.Body, k.Writing = next, "" }, "", nil)
}

// takeBack says in the question what became of it, hides it where a newer one took
// its place, and closes the issue that was opened for it. Nobody reads the question
// back any more, so the row stays as it is: a drive may be at work on it.
func (a *asking) takeBack(ctx context.Context) error {
	k := a.r.Asking
	comment := k.Comment
	if comment == "" {
		if k.Thread.Number == "" || k.Writing == "" {
			return nil // nobody was asked
		}
		mine, err := a.f.Mine(ctx, k.Thread, view.QuestionMarker(a.r.ID, k.Round))
		if err != nil || len(mine) == 0 {
			return err
		}
		comment = mine[0].ID
	}
	err := a.f.Edit(ctx, k.Thread, comment, kept(view.Question(a.asked(ctx, false))))
	if err == nil && successor(a.r) != "" {
		err = a.f.Collapse(ctx, k.Thread, comment)
	}
	if err != nil && !errors.Is(err, signing.NotFound) { // somebody deleted it; nobody needs it any more
		return fmt.Errorf("taking the question back: %w", err)
	}
	if a.r.State.Terminal() && k.Thread.Opened {
		if err := a.f.Close(ctx, k.Thread); err != nil && !errors.Is(err, signing.NotFound) {
			return fmt.Errorf("closing the issue: %w", err)
		}
	}
	return nil
}

// successor is the Request that took the place of r, "" if none did.
func successor(r *signing.Request) string {
	if r.State == signing.Canceled && r.Failure != nil && r.Failure.Message == supersededMessage {
		return r.Failure.Found
	}
	return ""
}

// halfway is when people are reminded.
func (a *asking) halfway() time.Time {
	return a.r.Asking.Asked.Add(a.r.Deadline.Sub(a.r.Asking.Asked) / 2)
}

// remind calls those who can approve once more, halfway to the deadline.
func (a *asking) remind(ctx context.Context) error {
	k := a.r.Asking
	if k.Comment == "" || !k.Reminded.IsZero() || a.w.Now().Before(a.halfway()) {
		return nil
	}
	mine, err := a.f.Mine(ctx, k.Thread, view.ReminderMarker(a.r.ID))
	if err != nil {
		return fmt.Errorf("looking for the reminder: %w", err)
	}
	if len(mine) == 0 {
		c, err := a.f.Post(ctx, k.Thread, view.Reminder(a.asked(ctx, true)))
		if err != nil {
			return fmt.Errorf("posting the reminder: %w", err)
		}
		mine = append(mine, c)
	}
	return a.save(context.WithoutCancel(ctx), "ask", func(k *signing.Asking) { k.Reminded = a.w.Now() }, audit.RequestReminded, func(r *signing.Request) map[string]string {
		out := map[string]string{"round": strconv.Itoa(r.Asking.Round)}
		audit.Put(out, "comment", mine[0].ID)
		return out
	})
}

// kept is a text as the forges keep it: GitLab strips space at the end.
func kept(body string) string {
	return strings.TrimRight(strings.ReplaceAll(body, "\r", ""), " \t\n\v\f\x00")
}

// asked collects what the question shows. What it does not need to be a question
// is left out where nobody can tell: the comment is not the place to fail.
func (a *asking) asked(ctx context.Context, call bool) view.Asked {
	r := a.r
	q := view.Asked{Request: *r, Round: r.Asking.Round, Checkpoint: a.s.Checkpoint, Superseded: successor(r)}
	q.Tally, q.Code = a.w.Standing(r)
	for _, t := range a.s.Tasks {
		q.Tasks = append(q.Tasks, *t)
	}
	q.Images = a.w.images(ctx, r)
	if r.State == signing.AwaitingApproval {
		q.News = a.w.news(ctx, r)
	}
	if call {
		q.Mentions = a.mentions(ctx)
	}
	return q
}

// images is what the registry says of what is to be signed; nothing where it cannot
// be asked.
func (w *Workflow) images(ctx context.Context, r *signing.Request) []signing.Image {
	f, _, err := facts.Gather(ctx, w.Registry, r.Identity, r.Origin, r.Policy, r.Artifacts, true, r.Submitted)
	if err != nil {
		w.Log.Info("the question says nothing of platforms", "request", r.ID, "error", err)
		return nil
	}
	return f.Images
}

// news is what is new since the last signed release of the images.
func (w *Workflow) news(ctx context.Context, r *signing.Request) view.News {
	var n view.News
	err := w.Store.View(ctx, func(tx *store.Tx) (err error) {
		n.Before, err = tx.LastRelease(r)
		return err
	})
	if errors.Is(err, signing.NotFound) {
		return view.News{}
	}
	if err != nil {
		return view.News{Unknown: "the last release could not be read"}
	}
	from, to := n.Before.Origin, r.Origin
	n.BeforeImages = w.images(ctx, n.Before)
	if from.Forge != to.Forge || from.SourceRepositoryIdentifier != to.SourceRepositoryIdentifier {
		n.Unknown = "the last release was built from another repository"
		return n
	}
	c, err := w.Forges[to.Forge].Compare(ctx, repositoryOf(to), from.SourceRepositoryDigest, to.SourceRepositoryDigest)
	if err != nil {
		n.Unknown = signing.Public(err).Message
		return n
	}
	n.Commits, n.Subjects, n.URL, n.Diverged = c.Commits, c.Subjects, c.URL, c.Diverged
	return n
}

// mentions are those who can approve.
func (a *asking) mentions(ctx context.Context) []signing.Account {
	r := a.r
	members, err := a.w.members(ctx, r, r.Decision.Approvals)
	if err != nil {
		a.w.Log.Warn("the question mentions nobody", "request", r.ID, "error", err)
		return nil
	}
	excluded := map[string]bool{}
	for _, e := range r.Decision.Excluded {
		if e.Account.Known() {
			excluded[a.w.Directory.OfAccount(e.Account)] = true
		}
	}
	var out []signing.Account
	for _, g := range r.Decision.Approvals.Groups {
		for _, from := range g.From {
			for _, m := range members[from] {
				known := slices.ContainsFunc(out, func(o signing.Account) bool { return o.Key() == m.Key() })
				if m.Forge == r.Origin.Forge && m.Known() && !m.Bot && !known && !excluded[a.w.Directory.OfAccount(m)] && len(out) < maxMentions {
					out = append(out, m)
				}
			}
		}
	}
	return out
}

// untouched reads our own comment back: whoever answers must have seen what the
// service wrote. One that somebody else edited or deleted voids its code; the
// question is put again with another one. The error is a Conflict then.
func (w *Workflow) untouched(ctx context.Context, r *signing.Request) error {
	k := r.Asking
	void := &signing.Error{Code: signing.Conflict, Message: "somebody changed the comment that asked, so its code is void", Expected: "the comment as this service wrote it", Found: "another text, or none", Fix: "answer the new question, which is being put now"}
	if k.Comment == "" {
		return &signing.Error{Code: signing.Conflict, Message: "the question was not put yet", Fix: "answer it when it is there"}
	}
	c, err := w.Forges[r.Origin.Forge].Comment(ctx, k.Thread, k.Comment)
	if err != nil && !errors.Is(err, signing.NotFound) {
		return fmt.Errorf("reading the question back: %w", unreached(ctx, err))
	}
	why := "deleted"
	if err == nil {
		d := signing.DigestOf([]byte(kept(c.Body)))
		if d == k.Body || k.Writing != "" && d == k.Writing {
			return nil
		}
		why = "edited"
	}
	// A refresh of our own may have happened since r was read.
	var now *signing.Request
	err = w.Store.View(ctx, func(tx *store.Tx) (err error) { now, err = tx.Request(r.ID); return err })
	if err != nil {
		return err
	}
	if now.Asking != nil && (now.Asking.Body != k.Body || now.Asking.Writing != k.Writing || now.Asking.Round != k.Round) {
		return &signing.Error{Code: signing.Unavailable, Message: "the question is being edited by this service", RetryAfter: time.Second}
	}
	if err := w.recode(ctx, now, why); err != nil {
		return err
	}
	return void
}

// recode voids the code of a question that others altered, and has another asked.
func (w *Workflow) recode(ctx context.Context, r *signing.Request, why string) error {
	err := w.Store.Update(ctx, "recode", func(tx *store.Tx) error {
		now, err := tx.Request(r.ID)
		if err != nil {
			return err
		}
		if now.State != signing.AwaitingApproval || now.Asking.Round != r.Asking.Round {
			return nil // somebody was quicker
		}
		next := *now.Asking
		next.Round, next.Comment, next.URL, next.Body, next.Writing = next.Round+1, "", "", "", ""
		now.Asking = &next
		if err := tx.SaveRequest(now); err != nil { // the event comes with the new question
			return err
		}
		return tx.Enqueue(store.Job{Kind: jobAsk, Ref: r.ID})
	})
	if err == nil {
		w.Log.Error("the question of a request was altered by others; another is asked", "request", r.ID, "how", why)
		w.tell(r.ID, nil)
		w.asks.kick()
	}
	return err
}
