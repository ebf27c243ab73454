// Command sealwright is a person's tool: it looks at what the service did and
// verifies it. It holds no key and opens no database. The audit log it verifies
// offline, from an export; images it verifies at their registry; requests it
// reads from the service, with the person's token.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// Exit codes, the same in every command of Sealwright (design, section 5).
const (
	exitOK       = 0
	exitError    = 1
	exitUsage    = 2
	exitDenied   = 3 // the service said no to who asks
	exitVerified = 5 // verification failed
	exitUnknown  = 6 // of why: nothing is known
)

const usage = `sealwright looks at what a Sealwright service did and verifies it.

Usage:
  sealwright sign [flags] IMAGE...      ask for signatures, as a job with its CI's token,
                                        or as a person, for a list of images
  sealwright verify [flags] IMAGE       verify the signatures of an image
  sealwright why IMAGE                  who had it signed, by which rule, and the proof
  sealwright evidence REQUEST           the evidence of a request, as one file
  sealwright evidence verify FILE       verify such a file, offline
  sealwright audit verify [flags] DIR   verify an export of the audit log
  sealwright audit show [flags] DIR     print the entries of an export
  sealwright policy COMMAND             check, test and explain signing policies
  sealwright dct export GUN...          verify and write what is signed in Docker Content Trust
  sealwright login                      log in, for the commands below
  sealwright logout                     forget the login
  sealwright requests [flags]           list requests
  sealwright status ID                  show a request, and why it was decided so
  sealwright approve ID CODE            approve a request that waits for people
  sealwright deny ID CODE [REASON]      say no to it
  sealwright resubmit ID                ask for its artifacts again, under another policy
  sealwright retry ID                   have it tried again now
  sealwright cancel ID                  cancel a request
  sealwright version                    print the version
  sealwright help                       print this text

"sealwright COMMAND --help" explains a command.
Exit codes: 0 ok, 1 error, 2 usage, 3 denied, 4 timed out (sign), 5 verification failed.
`

func main() { os.Exit(run(os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})) }

// streams are what a command reads from and writes to.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run dispatches to a command and returns the exit code.
func run(args []string, s streams) int {
	if len(args) == 0 {
		fmt.Fprint(s.err, usage)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(s.out, usage)
		return exitOK
	case "version", "-version", "--version":
		fmt.Fprintln(s.out, version())
		return exitOK
	case "sign":
		return runSign(args[1:], s)
	case "audit":
		return runAudit(args[1:], s)
	case "verify":
		return runVerify(args[1:], s)
	case "why":
		return runWhy(args[1:], s)
	case "evidence":
		return runEvidence(args[1:], s)
	case "policy":
		return runPolicy(args[1:], s)
	case "dct":
		return runDCT(args[1:], s)
	case "login":
		return runLogin(args[1:], s)
	case "logout":
		return runLogout(args[1:], s)
	case "requests":
		return runRequests(args[1:], s)
	case "status":
		return runStatus(args[1:], s)
	case "approve":
		return runApprove(args[1:], s)
	case "deny":
		return runDeny(args[1:], s)
	case "resubmit":
		return runResubmit(args[1:], s)
	case "retry":
		return runRetry(args[1:], s)
	case "cancel":
		return runCancel(args[1:], s)
	}
	fmt.Fprintf(s.err, "sealwright: unknown command %q\n\n%s", args[0], usage)
	return exitUsage
}

// stamped is what the linker was told, as in -X main.stamped=v1.2.3: a release
// is built without the history that the Go command would read.
var stamped string

// version is what the build says of itself.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "sealwright (unknown version)"
	}
	return fmt.Sprintf("sealwright %s %s", cmp.Or(stamped, info.Main.Version), info.GoVersion)
}

// parse reads flags and positional arguments in any order. Done says that the
// command ends here, with the given exit code.
func parse(fs *flag.FlagSet, args []string, help string, s streams) (positional []string, code int, done bool) {
	fs.SetOutput(io.Discard)
	for {
		switch err := fs.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			fmt.Fprint(s.out, help)
			return nil, exitOK, true
		case err != nil:
			fmt.Fprintf(s.err, "sealwright: %v\n\n%s", err, help)
			return nil, exitUsage, true
		}
		if fs.NArg() == 0 {
			return positional, exitOK, false
		}
		positional, args = append(positional, fs.Arg(0)), fs.Args()[1:]
	}
}

// explain writes an error with what was expected, what was found and how to fix
// it on lines of their own.
func explain(w io.Writer, what string, err error) {
	var e *signing.Error
	if !errors.As(err, &e) {
		fmt.Fprintf(w, "sealwright: %s: %v\n", what, err)
		return
	}
	fmt.Fprintf(w, "sealwright: %s: %s\n", what, headline(err, e))
	for _, l := range [][2]string{{"expected", e.Expected}, {"found", e.Found}, {"to fix it", e.Fix}} {
		if l[1] != "" {
			fmt.Fprintf(w, "  %-10s %s\n", l[0], l[1])
		}
	}
	if e.Err != nil {
		fmt.Fprintf(w, "  %-10s %v\n", "cause", e.Err)
	}
}

// headline is e's message with what err says before it: which file, which entry.
func headline(err error, e *signing.Error) string {
	if e.Message == "" {
		return err.Error()
	}
	before, _, _ := strings.Cut(err.Error(), e.Message)
	return before + e.Message
}
