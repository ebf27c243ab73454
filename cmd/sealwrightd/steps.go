package main

import (
	"errors"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/signing"
)

// checkSteps asks each method whether it can sign what the policies want of it:
// with this key and its certificates, and with these options. A method that this
// program does not have denies when it is asked for, and is no problem here.
func checkSteps(set *policy.Set, ring *key.Ring, methods map[string]method.Method) error {
	var problems config.Problems
	for _, p := range set.Policies() {
		for _, s := range p.Steps() {
			m, built := methods[s.Method]
			info, ok := ring.Info(s.Key)
			if !built || !ok { // key.CheckWanted reports a key that is not there
				continue
			}
			if _, err := m.Info(info, s.Options); err != nil {
				problems.Add("", "policy %s of project %s cannot sign with %s and key %s: %s", p.Name(), p.Project(), s.Method, s.Key, inOneLine(err))
			}
		}
	}
	return problems.Err()
}

// unserved returns a problem if a policy signs for Docker Content Trust and there is
// no server for it: each of its requests would fail.
func unserved(set *policy.Set, rows []dct.Config) config.Problems {
	var ps config.Problems
	for _, p := range set.Policies() {
		for _, s := range p.Steps() {
			if s.Method == dct.Name && len(rows) == 0 {
				ps.Add("notaries", "lists no server, and the policy %s of project %s signs with dct", p.Name(), p.Project())
			}
		}
	}
	return ps
}

// inOneLine returns an error with what it expected, found and proposes.
func inOneLine(err error) string {
	var e *signing.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	text := e.Message
	for _, part := range [][2]string{{"expected ", e.Expected}, {"found ", e.Found}, {"", e.Fix}} {
		if part[1] != "" {
			text += "; " + part[0] + part[1]
		}
	}
	return text
}
