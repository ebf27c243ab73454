package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/policy/policytest"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/view"
)

const policyExplainUsage = `Say what would be decided about a build, and why, rule by rule: by the policies of
PATHS, or by those of the service.

Usage:
  sealwright policy explain --facts FILE PATHS...
  sealwright policy explain --request ID [flags] [PATHS...]
  sealwright policy explain --facts FILE --server URL [flags]

Flags:
  --facts FILE    facts of a build as JSON, as "--print-facts" prints them; "-" is
                  standard input
  --request ID    a recorded request, asked for at the service
  --policy NAME   another policy of the project than the one that was asked for
  --print-facts   print the facts as JSON, decide nothing
  --json          print the decision as JSON
` + onlineUsage + `
Exit codes: 0 it would be allowed, 3 it would be denied. Without PATHS what key owners
demand is looked at as well; the service needs the role auditor, admin or submitter.
`

// explainFlags are the flags of policy explain.
type explainFlags struct {
	facts, request, policy *string
	print, json            *bool
	online                 online
}

func runPolicyExplain(args []string, s streams) int {
	set := flag.NewFlagSet("policy explain", flag.ContinueOnError)
	f := explainFlags{set.String("facts", "", ""), set.String("request", "", ""), set.String("policy", "", ""), set.Bool("print-facts", false, ""), set.Bool("json", false, ""), onlineFlags(set)}
	paths, code, done := parse(set, args, policyExplainUsage, s)
	switch {
	case done:
		return code
	case (*f.facts == "") == (*f.request == ""):
		fmt.Fprintf(s.err, "sealwright: give --facts or --request, and one of them\n\n%s", policyExplainUsage)
		return exitUsage
	case len(paths) == 0 && !*f.print && *f.online.server == "":
		fmt.Fprintf(s.err, "sealwright: give PATHS of policies, or --server to ask the service\n\n%s", policyExplainUsage)
		return exitUsage
	}
	if len(paths) == 0 && !*f.print {
		return f.ask(s)
	}
	facts, code := f.readFacts(s)
	if code != exitOK {
		return code
	}
	if *f.print {
		return asJSON(s, facts)
	}
	policies, _, err := readPolicies(paths)
	if err != nil {
		return mistakes(s.err, err)
	}
	p, effect, reasons := policies.Judge(facts)
	d := api.Evaluation{Effect: effect, Reasons: reasons}
	if p != nil {
		d.Project, d.Policy = p.Project(), p.Name()
	}
	return f.show(s, d)
}

// readFacts returns the facts of a file or of a recorded request.
func (f explainFlags) readFacts(s streams) (facts signing.Facts, code int) {
	if *f.facts == "" {
		return f.recorded(s)
	}
	in := s.in
	if *f.facts != "-" {
		file, err := os.Open(*f.facts)
		if err != nil {
			explain(s.err, "reading facts", err)
			return facts, exitError
		}
		defer func() { _ = file.Close() }() // read only
		in = file
	}
	raw, err := io.ReadAll(io.LimitReader(in, api.MaxEvaluate+1))
	if err == nil && len(raw) > api.MaxEvaluate {
		err = fmt.Errorf("%s has more than %d bytes", *f.facts, api.MaxEvaluate)
	}
	if err == nil {
		facts, err = policytest.ReadFacts(raw)
	}
	if err != nil {
		explain(s.err, "reading facts", err)
		return facts, exitError
	}
	return f.asked(facts), exitOK
}

// recorded asks the service for the facts of a request.
func (f explainFlags) recorded(s streams) (facts signing.Facts, code int) {
	client, token, err := f.online.open(s.in)
	if err != nil {
		explain(s.err, "asking the service", err)
		return facts, exitUsage
	}
	code = ask(s, "reading the facts of "+*f.request, func(ctx context.Context) (err error) {
		facts, err = client.Facts(ctx, token, *f.request)
		return err
	})
	return f.asked(facts), code
}

// ask lets the service decide, by the policies in force there.
func (f explainFlags) ask(s streams) int {
	client, token, err := f.online.open(s.in)
	if err != nil {
		explain(s.err, "asking the service", err)
		return exitUsage
	}
	r := api.EvaluateRequest{Request: *f.request, Policy: *f.policy}
	if *f.request == "" {
		facts, code := f.readFacts(s)
		if code != exitOK {
			return code
		}
		r = api.EvaluateRequest{Facts: &facts}
	}
	var d api.Evaluation
	if code := ask(s, "asking the policies", func(ctx context.Context) (err error) {
		d, err = client.Evaluate(ctx, token, r)
		return err
	}); code != exitOK {
		return code
	}
	return f.show(s, d)
}

// asked applies --policy.
func (f explainFlags) asked(facts signing.Facts) signing.Facts {
	if *f.policy != "" {
		facts.Policy = *f.policy
	}
	return facts
}

// show prints a decision and returns the exit code that stands for it.
func (f explainFlags) show(s streams, d api.Evaluation) int {
	if *f.json {
		if code := asJSON(s, d); code != exitOK {
			return code
		}
	} else {
		name := "no policy"
		if d.Project != "" {
			name = d.Project + "/" + d.Policy
		}
		fmt.Fprintf(s.out, "%s by %s\n", d.Effect, name)
		view.Text(s.out, d.Reasons, false)
	}
	if d.Effect != signing.Allow {
		return exitDenied
	}
	return exitOK
}

func asJSON(s streams, v any) int {
	enc := json.NewEncoder(s.out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		explain(s.err, "printing JSON", err)
		return exitError
	}
	return exitOK
}
