package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/github"
	"github.com/sealwright/sealwright/internal/forge/gitlab"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
)

// forgeTimeout bounds one request to a forge. Forges answer within ten seconds or
// not at all.
const forgeTimeout = 20 * time.Second

// openForges builds the clients of the configured forges. It asks nobody. left is
// told what forges say is left of their limits; it may be nil.
func openForges(rows []forge.Config, left func(forge, account, limit string, left int64)) (map[string]forge.Forge, error) {
	out := make(map[string]forge.Forge, len(rows))
	for _, c := range rows {
		to := outbound.Options{Timeout: forgeTimeout, AllowHTTP: true} // http for loopback only: checked
		var err error
		switch c.Kind {
		case forge.KindGitHub:
			out[c.Host], err = github.New(c, github.Options{Outbound: to, Env: os.LookupEnv, Now: time.Now, Left: left})
		case forge.KindGitLab:
			out[c.Host], err = gitlab.New(c, gitlab.Options{Outbound: to, Env: os.LookupEnv, Now: time.Now, Left: left})
		default:
			err = fmt.Errorf("forge %s is of no known kind", c.Host)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// polls is how often each forge is read for what was not delivered.
func polls(rows []forge.Config) map[string]time.Duration {
	out := map[string]time.Duration{}
	for _, c := range rows {
		out[c.Host] = c.Poll.Duration()
	}
	return out
}

// unasked returns a problem for each policy that asks a forge which is not
// configured: it would refuse everything.
func unasked(set *policy.Set, rows []forge.Config) config.Problems {
	var ps config.Problems
	for _, p := range set.Policies() {
		for _, host := range p.AsksForges() {
			if !slices.ContainsFunc(rows, func(c forge.Config) bool { return c.Host == host }) {
				ps.Add("forges", "has no entry for %s, which the policy %s of project %s asks; without it that policy refuses everything", host, p.Name(), p.Project())
			}
		}
	}
	return ps
}

// checkOnline prints what each forge lacks, and which groups of people that the
// policies ask cannot be read there, and fails if anything is missing.
func checkOnline(ctx context.Context, forges map[string]forge.Forge, policies *policy.Set, out io.Writer) error {
	lacking := 0
	for _, host := range sortedKeys(forges) {
		checker, ok := forges[host].(forge.Checker)
		if !ok {
			continue
		}
		for _, f := range append(checker.CheckOnline(ctx), readable(ctx, forges[host], policies)...) {
			mark := "ok"
			switch {
			case !f.OK && f.Optional:
				mark = "without"
			case !f.OK:
				mark = "MISSING"
				lacking++
			}
			fmt.Fprintf(out, "%s  %-8s%s\n", host, mark, f.What)
			for _, line := range []struct{ name, text string }{{"found", f.Found}, {"needed for", f.Needed}, {"to fix it", f.Fix}} {
				if line.text != "" && !f.OK {
					fmt.Fprintf(out, "    %s: %s\n", line.name, line.text)
				}
			}
		}
	}
	if lacking > 0 {
		return errors.New("something is missing on the forges; see above")
	}
	return nil
}

// readable asks for the members of each team, group and account that policies name
// on a forge. Permissions belong to a repository, and are not looked at.
func readable(ctx context.Context, f forge.Forge, policies *policy.Set) []forge.Finding {
	asked := map[string]string{} // by group: a policy that names it
	for _, p := range policies.Policies() {
		rule := p.Approvals()
		if rule == nil {
			continue
		}
		for _, g := range rule.Groups {
			for _, from := range g.From {
				if rest, ok := strings.CutPrefix(from, f.Host()+":"); ok && !strings.HasPrefix(rest, "permission=") {
					asked[from] = p.Project() + "/" + p.Name()
				}
			}
		}
	}
	var out []forge.Finding
	for _, group := range sortedKeys(asked) {
		one := forge.Finding{What: "approvers " + group, Needed: "approvals of " + asked[group]}
		members, err := f.Members(ctx, forge.Repository{}, []string{group})
		switch {
		case err != nil:
			e := signing.Public(err)
			one.Found, one.Fix = e.Message, e.Fix
			if e.Found != "" {
				one.Found += ", " + e.Found
			}
		case len(members[group]) == 0:
			one.Found, one.Fix = "nobody who can approve", "add people to it, or name another group in the policy"
		default:
			one.OK = true
		}
		out = append(out, one)
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
