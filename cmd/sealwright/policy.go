package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/policy/policytest"
	"github.com/sealwright/sealwright/internal/view"
)

const policyUsage = `Work on signing policies, before the service does.

Usage:
  sealwright policy check PATHS...            read policies, report every mistake
  sealwright policy test [-v] PATHS...        run the cases kept beside policies
  sealwright policy explain [flags] PATHS...  what would be decided, and why
  sealwright policy replay [flags] PATHS...   what would have been decided otherwise
  sealwright policy schema                    print the JSON Schema of a policy file

A path is a file, or a folder for every .yaml and .yml file below it. Files named
*.test.yaml hold cases, all others policies. Whatever is named together is read
together: an image that two projects claim is found only if both are there.
`

const policyCheckUsage = `Read policies as the service reads them, and report every mistake with file and
line. Keys, issuers and registries are not looked at: "sealwrightd config check"
does that.

Usage:
  sealwright policy check PATHS...
  sealwright policy check --repository FILE [PATHS...]

Flags:
  --repository FILE   read FILE as a repository's own policy, .sealwright/policy.yml,
                      and say what it narrows; with PATHS, of which policies of theirs
`

const policyTestUsage = `Run the cases that are kept beside policies, *.test.yaml: facts of a build, and the
decision that they must get. What key owners demand is not looked at.

Usage:
  sealwright policy test [-v] PATHS...

Flags:
  -v   print every case, not only those that fail

Exit code 1 if a case fails.
`

// runPolicy dispatches to a command below policy.
func runPolicy(args []string, s streams) int {
	if len(args) == 0 {
		fmt.Fprint(s.err, policyUsage)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(s.out, policyUsage)
		return exitOK
	case "check":
		return runPolicyCheck(args[1:], s)
	case "test":
		return runPolicyTest(args[1:], s)
	case "explain":
		return runPolicyExplain(args[1:], s)
	case "replay":
		return runPolicyReplay(args[1:], s)
	case "schema":
		return runPolicySchema(args[1:], s)
	}
	fmt.Fprintf(s.err, "sealwright: unknown command policy %q\n\n%s", args[0], policyUsage)
	return exitUsage
}

// readPolicies reads the policies and the cases of paths.
func readPolicies(paths []string) (*policy.Set, []*policytest.File, error) {
	files, err := config.ReadTree(policy.MaxFiles, paths...)
	if err != nil {
		return nil, nil, err
	}
	var cases []*policytest.File
	var problems config.Problems
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !policy.IsTest(name) {
			continue
		}
		f, err := policytest.Load(name, files[name])
		var found config.Problems
		switch {
		case errors.As(err, &found):
			problems = append(problems, found...)
		case err != nil:
			return nil, nil, err
		}
		cases = append(cases, f)
		delete(files, name)
	}
	set, err := policy.Load(files)
	var found config.Problems
	if err != nil && !errors.As(err, &found) {
		return nil, nil, err
	}
	if err := append(problems, found...).Err(); err != nil {
		return nil, nil, err
	}
	return set, cases, nil
}

// policyPaths parses the arguments of a command that reads policies.
func policyPaths(set *flag.FlagSet, args []string, help string, s streams) (paths []string, code int, done bool) {
	paths, code, done = parse(set, args, help, s)
	if !done && len(paths) == 0 {
		fmt.Fprintf(s.err, "sealwright: no policies are named\n\n%s", help)
		return nil, exitUsage, true
	}
	return paths, code, done
}

// mistakes prints what is wrong with policy files, a line each.
func mistakes(w io.Writer, err error) int {
	var problems config.Problems
	if !errors.As(err, &problems) {
		explain(w, "reading policies", err)
		return exitError
	}
	for _, p := range problems {
		fmt.Fprintln(w, p)
	}
	return exitError
}

func runPolicyCheck(args []string, s streams) int {
	flags := flag.NewFlagSet("policy check", flag.ContinueOnError)
	own := flags.String("repository", "", "")
	paths, code, done := parse(flags, args, policyCheckUsage, s)
	switch {
	case done:
		return code
	case *own != "":
		return checkRepository(*own, paths, s)
	case len(paths) == 0:
		return misused(s, "no policies are named", policyCheckUsage)
	}
	set, cases, err := readPolicies(paths)
	if err != nil {
		return mistakes(s.err, err)
	}
	fmt.Fprintf(s.out, "good: %d policies, %d files of cases\n", len(set.Policies()), len(cases))
	return exitOK
}

func runPolicyTest(args []string, s streams) int {
	flags := flag.NewFlagSet("policy test", flag.ContinueOnError)
	verbose := flags.Bool("v", false, "")
	paths, code, done := policyPaths(flags, args, policyTestUsage, s)
	if done {
		return code
	}
	set, files, err := readPolicies(paths)
	if err != nil {
		return mistakes(s.err, err)
	}
	if len(files) == 0 {
		fmt.Fprintln(s.err, "sealwright: no cases: files named *.test.yaml hold them")
		return exitError
	}
	failed, tried := 0, map[*policy.Policy]bool{}
	for _, f := range files {
		results := f.Run(set)
		bad := 0
		for _, r := range results {
			tried[r.Policy] = true
			if !r.OK {
				bad++
				fmt.Fprintf(s.out, "FAIL %s:%d: %s\n     wanted: %s\n     got:    %s\n", r.File, r.Line, r.Name, r.Want, r.Got)
				view.Text(s.out, r.Reasons, false)
			} else if *verbose {
				fmt.Fprintf(s.out, "ok   %s:%d: %s: %s\n", r.File, r.Line, r.Name, r.Got)
			}
		}
		if bad == 0 {
			fmt.Fprintf(s.out, "ok   %s: %d cases\n", f.Name(), len(results))
		}
		failed += bad
	}
	for _, p := range set.Policies() {
		if !tried[p] {
			fmt.Fprintf(s.out, "note: no case is about %s/%s\n", p.Project(), p.Name())
		}
	}
	if failed > 0 {
		fmt.Fprintf(s.out, "%d cases failed\n", failed)
		return exitError
	}
	return exitOK
}

func runPolicySchema(args []string, s streams) int {
	if len(args) > 0 {
		fmt.Fprintf(s.err, "sealwright: policy schema takes no arguments\n\n%s", policyUsage)
		return exitUsage
	}
	schema, err := policy.Schema()
	if err == nil {
		_, err = s.out.Write(schema)
	}
	if err != nil {
		explain(s.err, "printing the schema", err)
		return exitError
	}
	return exitOK
}
