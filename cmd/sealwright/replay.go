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
  sealwright policy replay --repository FILE [flags] PATHS...

Flags:
  --since TIME        requests not older than this, as in 90d or 12h (default 90d)
  --before PATH       compare with the policies of PATH, a folder or file; without it,
                      with what was decided then
  --repository FILE   what FILE would mean as the repository's own policy,
                      .sealwright/policy.yml, under the policies of PATHS; --before is
                      then the file before, and without it there was none
  --project NAME      of this project only
  --source NAME       of builds of this repository only, OWNER/NAME
  --limit N           at most so many requests, the newest (default 10000)
  --json              print each request whose decision differs as a line of JSON
` + onlineUsage + `
Exit codes: 0 nothing would change, 3 something would, 1 something could not be told:
what a forge answered is not recorded. With --before, questions that both policies ask
are taken as answered as they were then.
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
	client *api.Client
	token  string
	// compare decides one recorded request before and after.
	compare         func([]policy.Past) policy.Replay
	project, source string
	oldest          time.Time
	limit           int
	json            bool
	s               streams
	wait            func(context.Context, time.Duration) error
	looked, failed  int
	changes         []replayed
}

// replayed is a request about which a decision differs.
type replayed struct {
	ID      string         `json:"id"`
	Change  string         `json:"change"` // as change names it
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
	since, before, own := set.String("since", "90d", ""), set.String("before", "", ""), set.String("repository", "", "")
	r := replay{s: s, wait: wait}
	set.StringVar(&r.project, "project", "", "")
	set.StringVar(&r.source, "source", "", "")
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
	if r.compare, err = comparing(paths, *before, *own); err != nil {
		return mistakes(s.err, err)
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

// comparing returns the comparison that the flags ask for.
func comparing(paths []string, before, own string) (func([]policy.Past) policy.Replay, error) {
	after, _, err := readPolicies(paths)
	if err != nil {
		return nil, err
	}
	if own == "" {
		var was *policy.Set
		if before != "" {
			was, _, err = readPolicies([]string{before})
		}
		return func(past []policy.Past) policy.Replay { return policy.Compare(was, after, past) }, err
	}
	var texts [2][]byte
	for i, file := range []string{before, own} {
		if file == "" {
			continue // nil is no file
		}
		if texts[i], err = readRepositoryPolicy(file); err != nil {
			return nil, err
		}
	}
	if _, err := policy.LoadRepositoryPolicy(texts[1]); err != nil {
		return nil, err
	}
	return func(past []policy.Past) policy.Replay {
		return policy.CompareRepository(after, texts[0], texts[1], past)
	}, nil
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
			if r.source != "" && one.Origin.Repository != r.source {
				continue
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
	var full api.Request
	err := r.patiently(ctx, func() (err error) {
		if facts, err = r.client.Facts(ctx, r.token, one.ID); err == nil {
			full, err = r.client.GetAs(ctx, one.ID, r.token, 0, 0)
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
	case full.Decision == nil:
		return nil // it was withdrawn before anything was decided
	}
	decided := &signing.Request{ID: one.ID, Decision: &signing.Decision{Effect: full.Decision.Effect, Reasons: full.Decision.Reasons}}
	out := r.compare([]policy.Past{policy.PastOf(decided, facts)})
	r.failed += len(out.Unknown)
	for _, c := range out.Unknown {
		fmt.Fprintf(r.s.err, "sealwright: %s cannot be told: %s\n", one.ID, shown(strings.Join(because(c), "; ")))
	}
	for _, kind := range [][]policy.Change{out.Refused, out.Allowed, out.Approvals} {
		for _, c := range kind {
			r.changes = append(r.changes, replayed{
				ID: one.ID, Change: change(c.Before, c.After), Before: c.Before, After: c.After, Policy: strings.Trim(full.Project+"/"+c.Policy, "/"),
				Commit: one.Origin.Commit, Image: one.Artifact.Artifact().String(), Because: because(c),
			})
		}
	}
	return nil
}

// because says why a request would be refused.
func because(c policy.Change) (out []string) {
	if c.After != signing.Deny {
		return nil
	}
	for _, f := range c.Reasons.Failures() {
		out = append(out, f.Rule+": wanted "+f.Wanted+", found "+f.Found)
	}
	return out
}

// change names the way from one effect to another.
func change(was, is signing.Effect) string {
	switch {
	case is == signing.Deny:
		return "newly refused"
	case was == signing.Deny:
		return "newly allowed"
	case is == was:
		return "asks people otherwise"
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
	for _, name := range []string{"newly refused", "newly allowed", "newly asks people", "asks people otherwise", "asks nobody any more"} {
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
