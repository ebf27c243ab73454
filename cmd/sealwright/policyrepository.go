package main

import (
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/sealwright/sealwright/internal/policy"
)

// checkRepository reads a repository's own policy and prints what it narrows. A
// policy that it names and no path has is a mistake: its rules would hold for
// nothing.
func checkRepository(file string, paths []string, s streams) int {
	text, err := readRepositoryPolicy(file)
	if err != nil {
		explain(s.err, "reading the repository's own policy", err)
		return exitError
	}
	said, err := policy.RepositoryWords(text)
	if err != nil {
		return mistakes(s.err, err)
	}
	var known *policy.Set
	if len(paths) > 0 {
		if known, _, err = readPolicies(paths); err != nil {
			return mistakes(s.err, err)
		}
	}
	code, before := exitOK, "?"
	for _, w := range said {
		if w.Policy != before {
			before = w.Policy
			if !narrows(s, w.Policy, known) {
				code = exitError
			}
		}
		fmt.Fprintf(s.out, "  %s: %s\n", shown(w.Word), shown(w.Value))
	}
	return code
}

// narrows prints which policies the rules of a name narrow, and reports whether
// there is any.
func narrows(s streams, name string, known *policy.Set) bool {
	if name == "" {
		fmt.Fprintln(s.out, "every policy is narrowed by:")
		return true
	}
	fmt.Fprintf(s.out, "policy %s is narrowed by:\n", shown(name))
	if known == nil {
		return true
	}
	all := known.Policies()
	of := slices.DeleteFunc(slices.Clone(all), func(p *policy.Policy) bool { return p.Name() != name })
	switch {
	case len(of) == 0:
		fmt.Fprintf(s.err, "%s: policies.%s: no policy of the paths has this name, so that it narrows nothing\n", policy.RepositoryFile, shown(name))
		return false
	case !slices.ContainsFunc(of, (*policy.Policy).ReadsRepositoryPolicy):
		fmt.Fprintf(s.err, "%s: policies.%s: the service's policy says repository_policy: ignore, so that it narrows nothing\n", policy.RepositoryFile, shown(name))
		return false
	}
	return true
}

// readRepositoryPolicy reads no more than a service would.
func readRepositoryPolicy(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	return io.ReadAll(io.LimitReader(f, policy.MaxRepositoryFile+1))
}
