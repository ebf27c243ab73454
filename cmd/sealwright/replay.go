package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
)

const policyReplayUsage = `Say what changed policies would have decided about the requests that were made: what
they would newly refuse, newly allow, and newly ask people about. The service gives
the facts of each request, as they were recorded.

Usage:
  sealwright policy replay [flags] PATHS...

Flags:
  --since TIME        requests not older than this, as in 90d or 12h (default 90d)
  --before PATH       compare with the policies of PATH, a folder or file; without it,
                      with what was decided then
  --project NAME      of this project only
  --limit N           at most so many requests, the newest (default 10000)
  --json              print each request whose decision differs as a line of JSON
` + onlineUsage + `
Exit codes: 0 nothing would change, 3 something would, 1 something could not be told.
Needs the role auditor or admin. What key owners demand is not looked at.
`

const (
	// replayRetries and replayWait bound the patience with a service that is
	// throttling or away: a long replay is not lost to one bad minute.
	replayRetries = 5
	replayWait    = 5 * time.Second
	day           = 24 * time.Hour
	// maxSince is far more than any service keeps.
	maxSince = 100 * 365 * day
)

// replay holds recorded requests against policies.
type replay struct {
	client         *api.Client
	token          string
	before         *policy.Set // nil: what was decided
	after          *policy.Set
	project        string
	oldest         time.Time
	limit          int
	json           bool
	s              streams
	wait           func(context.Context, time.Duration) error
	looked, failed int
	changes        []replayed
}

// replayed is a request about which a decision differs.
type replayed struct {
	ID      string         `json:"id"`
	Change  string         `json:"change"` // newly refused, newly allowed, newly asks people, asks nobody any more
	Before  signing.Effect `json:"before"`
	After   signing.Effect `json:"after"`
	Policy  string         `json:"policy"`
	Commit  string         `json:"commit,omitempty"`
	Image   string         `json:"image"`
	Because []string       `json:"because,omitempty"`
}

func runPolicyReplay(args []string, s streams) int {
	set := flag.NewFlagSet("policy replay", flag.ContinueOnError)
	o := onlineFlags(set)
	since, before := set.String("since", "90d", ""), set.String("before", "", "")
	r := replay{s: s, wait: wait}
	set.StringVar(&r.project, "project", "", "")
	set.IntVar(&r.limit, "limit", 10000, "")
	set.BoolVar(&r.json, "json", false, "")
	paths, code, done := policyPaths(set, args, policyReplayUsage, s)
	if done {
		return code
	}
	age, err := parseAge(*since)
	if err != nil || r.limit < 1 {
		return misused(s, "--since is a time as in 90d or 12h, --limit 1 or more", policyReplayUsage)
	}
	r.oldest = time.Now().Add(-age)
	if r.after, _, err = readPolicies(paths); err != nil {
		return mistakes(s.err, err)
	}
	if *before != "" {
		if r.before, _, err = readPolicies([]string{*before}); err != nil {
			return mistakes(s.err, err)
		}
	}
	if r.client, r.token, err = o.open(s.in); err != nil {
		explain(s.err, "asking the service", err)
		return exitUsage
	}
	ctx := context.Background()
	if err := r.run(ctx); err != nil {
		return ask(s, "replaying", func(context.Context) error { return err })
	}
	return r.report()
}

// parseAge reads 90d, or a duration as Go writes them.
func parseAge(text string) (time.Duration, error) {
	age, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); err == nil && n < int(maxSince/day) {
			age = time.Duration(n) * day
		}
	}
	if err == nil && (age <= 0 || age > maxSince) {
		err = errors.New("out of bounds")
	}
	return age, err
}

// run looks at every request, newest first, until one is too old.
func (r *replay) run(ctx context.Context) error {
	q := api.Query{Project: r.project}
	for {
		var page api.Page
		err := r.patiently(ctx, func() (err error) {
			page, err = r.client.List(ctx, r.token, q)
			return err
		})
		if err != nil {
			return err
		}
		for _, one := range page.Requests {
			if one.Submitted.Before(r.oldest) {
				return nil
			}
			if r.looked == r.limit {
				fmt.Fprintln(r.s.err, "sealwright: there are more; raise --limit")
				return nil
			}
			r.looked++
			if err := r.look(ctx, one); err != nil {
				return err
			}
		}
		if q.Cursor = page.Cursor; q.Cursor == "" {
			return nil
		}
	}
}

// look judges one request twice. What cannot be known of one is told, and the
// others are looked at.
func (r *replay) look(ctx context.Context, one api.Summary) error {
	var facts signing.Facts
	was := signing.Effect("")
	err := r.patiently(ctx, func() (err error) {
		if facts, err = r.client.Facts(ctx, r.token, one.ID); err != nil || r.before != nil {
			return err
		}
		full, err := r.client.GetAs(ctx, one.ID, r.token, 0, 0)
		if full.Decision != nil {
			was = full.Decision.Effect
		}
		return err
	})
	switch {
	case errors.Is(err, signing.Denied), errors.Is(err, signing.Unauthenticated), signing.Temporary(err):
		return err // it would be the same for all
	case err != nil:
		r.failed++
		explain(r.s.err, "reading "+one.ID, err)
		return nil
	case r.before != nil:
		_, was, _ = r.before.Judge(facts)
	case was == "":
		return nil // it was withdrawn before anything was decided
	}
	p, is, reasons := r.after.Judge(facts)
	if is == was {
		return nil
	}
	c := replayed{ID: one.ID, Change: change(was, is), Before: was, After: is, Policy: one.Policy, Commit: one.Origin.Commit, Image: one.Artifact.Artifact().String()}
	if p != nil {
		c.Policy = p.Project() + "/" + p.Name()
	}
	for _, f := range reasons.Failures() {
		if is == signing.Deny {
			c.Because = append(c.Because, f.Rule+": wanted "+f.Wanted+", found "+f.Found)
		}
	}
	r.changes = append(r.changes, c)
	return nil
}

// change names the way from one effect to another.
func change(was, is signing.Effect) string {
	switch {
	case is == signing.Deny:
		return "newly refused"
	case was == signing.Deny:
		return "newly allowed"
	case is == signing.NeedsApproval:
		return "newly asks people"
	}
	return "asks nobody any more"
}

// patiently tries again what may succeed later.
func (r *replay) patiently(ctx context.Context, do func() error) error {
	for n := 0; ; n++ {
		err := do()
		var refusal *api.Refusal
		if errors.As(err, &refusal) {
			err = refusal.Problem.Err()
		}
		if err == nil || !signing.Temporary(err) || n == replayRetries {
			return err
		}
		pause := replayWait
		var e *signing.Error
		if errors.As(err, &e) && e.RetryAfter > 0 {
			pause = min(e.RetryAfter, time.Minute)
		}
		if err := r.wait(ctx, pause); err != nil {
			return err
		}
	}
}

// report prints what would change, and returns the exit code.
func (r *replay) report() int {
	slices.SortStableFunc(r.changes, func(a, b replayed) int { return strings.Compare(b.Change, a.Change) })
	counts := map[string]int{}
	for _, c := range r.changes {
		counts[c.Change]++
		if r.json {
			if err := json.NewEncoder(r.s.out).Encode(c); err != nil {
				explain(r.s.err, "printing JSON", err)
				return exitError
			}
			continue
		}
		fmt.Fprintf(r.s.out, "%s: %s %s at %.12s by %s\n", c.Change, c.ID, c.Image, c.Commit, c.Policy)
		for _, b := range c.Because {
			fmt.Fprintf(r.s.out, "    %s\n", shown(b))
		}
	}
	var parts []string
	for _, name := range []string{"newly refused", "newly allowed", "newly asks people", "asks nobody any more"} {
		parts = append(parts, fmt.Sprintf("%d %s", counts[name], name))
	}
	fmt.Fprintf(r.s.err, "%d requests looked at: %s", r.looked, strings.Join(parts, ", "))
	if r.failed > 0 {
		fmt.Fprintf(r.s.err, ", %d that cannot be told", r.failed)
	}
	fmt.Fprintln(r.s.err)
	switch {
	case r.failed > 0:
		return exitError
	case len(r.changes) > 0:
		return exitDenied
	}
	return exitOK
}
