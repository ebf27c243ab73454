package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/workflow"
)

// policyPoll is how often the policy folder is looked at. A change is loaded
// when two looks in a row find the same: who writes several files is given the
// time between them.
const policyPoll = 2 * time.Second

// reloader puts changed policies in force while the service runs.
type reloader struct {
	dir      string
	keys     []key.Config
	steps    func(*policy.Set) error
	workflow *workflow.Workflow
	log      *slog.Logger

	tried signing.Digest // of the files that were loaded or refused last
	seen  signing.Digest // of the files at the last look
}

// newReloader returns a reloader for what c has loaded.
func newReloader(c *loaded, s *service, log *slog.Logger) *reloader {
	return &reloader{dir: c.Config.Policies, keys: c.Keys, steps: s.steps, workflow: s.workflow, log: log, tried: c.policyFiles, seen: c.policyFiles}
}

// run looks at the folder every poll, and at once on hangup, until ctx ends.
func (r *reloader) run(ctx context.Context, poll <-chan time.Time, hangup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll:
			r.look(ctx, false)
		case <-hangup:
			r.look(ctx, true)
		}
	}
}

// look loads the folder if it is not what was tried last and has settled, or
// if it was asked for.
func (r *reloader) look(ctx context.Context, asked bool) {
	files, err := readPolicies(r.dir)
	digest := policyDigest(files)
	if err != nil {
		digest = signing.DigestOf([]byte(err.Error()))
	}
	settled := digest == r.seen
	r.seen = digest
	if !asked && (digest == r.tried || !settled) {
		return
	}
	r.tried = digest
	var set *policy.Set
	if err == nil {
		set, err = checkPolicies(files, r.keys)
	}
	if err == nil {
		err = r.steps(set)
	}
	if err != nil {
		r.refuse(ctx, digest, err)
		return
	}
	n, err := r.workflow.Reload(ctx, set)
	if err != nil {
		r.tried = "" // the database could not be written: try again
		r.log.Error("putting policies in force; the old ones stay", "error", err)
		return
	}
	r.log.Info("policies are in force", "generation", n, "policies", len(set.Policies()), "digest", set.Digest())
}

// refuse says what is wrong with the files, to the log in full.
func (r *reloader) refuse(ctx context.Context, digest signing.Digest, err error) {
	problems := config.Problems{{Message: err.Error()}}
	errors.As(err, &problems)
	for _, p := range problems {
		r.log.Error("the policy files cannot be loaded; the old ones stay in force", "problem", p.String())
	}
	if err := r.workflow.RefuseReload(ctx, digest, len(problems)); err != nil {
		r.log.Error("recording that policies were refused", "error", err)
	}
}

// checkPolicies does with policy files what `config check` does without opening
// keys; checkSteps does the rest.
func checkPolicies(files map[string][]byte, keys []key.Config) (*policy.Set, error) {
	set, err := policy.Load(files)
	if err != nil {
		return nil, err
	}
	if problems := key.CheckWanted(keys, wanted(set)); len(problems) > 0 {
		return nil, problems
	}
	return set, nil
}

// readPolicies reads every policy below dir; cases for `sealwright policy test`
// are left out.
func readPolicies(dir string) (map[string][]byte, error) {
	files, err := config.ReadTree(policy.MaxFiles, dir)
	if err != nil {
		return nil, fmt.Errorf("reading policies: %w", err)
	}
	maps.DeleteFunc(files, func(path string, _ []byte) bool { return policy.IsTest(path) })
	return files, nil
}

// policyDigest identifies files by name and content.
func policyDigest(files map[string][]byte) signing.Digest {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&b, "%q %s\n", name, signing.DigestOf(files[name]))
	}
	return signing.DigestOf([]byte(b.String()))
}
