// Command sealwrightd is the service: it holds the keys and the database.
//
//	sealwrightd serve --config FILE          run the service
//	sealwrightd dev [--dir DIR] [--world]    try it out: a whole world on loopback
//	sealwrightd config check --config FILE   read all files and prove the keys; opens no database
//	sealwrightd keys list|public|test|new    look at keys, make new ones
//	sealwrightd audit export --out DIR       the audit log, for `sealwright audit verify`
//	sealwrightd approve --break-glass        do without the quorum, in an emergency
//	sealwrightd health --config FILE         is the running service ready? for containers
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// Exit codes (design, section 5).
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// usageError is a command line that cannot be understood.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

type command struct {
	name, help string
	run        func(ctx context.Context, args []string, out, errs io.Writer) error
}

func commands() []command {
	return []command{
		{"serve", "run the service", cmdServe},
		{"dev image", "push a small multi-arch image to the running world", cmdDevControl("image", "POST", "/dev/image", "the image as JSON, as in {\"repository\":\"payments/web\",\"tag\":\"v1\"}")},
		{"dev job", "be a GitHub Actions job: prints its environment", cmdDevControl("job", "POST", "/dev/job/github", "what differs from a push to main, as in {\"ref\":\"refs/heads/feature\"}")},
		{"dev gitlab-job", "be a GitLab job: prints its environment", cmdDevControl("gitlab-job", "POST", "/dev/job/gitlab?audience={server}", "what differs from a push to main, as in {\"ref\":\"refs/heads/feature\"}")},
		{"dev person", "be a person: prints an ID token for `sealwright --token-file`", cmdDevControl("person", "POST", "/dev/person?audience={server}/people", "what differs from ann, an auditor, as in {\"groups\":[\"admins\"]}")},
		{"dev login", "enter the code that `sealwright login` shows", cmdDevControl("login", "POST", "/dev/login", "as in {\"user_code\":\"BCDF-GHJK\",\"person\":{\"groups\":[\"admins\"]}}")},
		{"dev merge", "have the open pull request of acme/shop merged and be the job of its run: prints its environment", cmdDevControl("merge", "POST", "/dev/merge", "who merges and starts the run, octocat if empty, as in {\"by\":\"ann\"}")},
		{"dev comment", "say something below the pull request that was merged last", cmdDevControl("comment", "POST", "/dev/comment", "as in {\"by\":\"ann\",\"text\":\"/sealwright help\"}")},
		{"dev thread", "print what was said there", cmdDevControl("thread", "GET", "/dev/thread?pull={id}", "unused")},
		{"dev hold", "hold requests to the registry", cmdDevControl("hold", "POST", "/dev/hold", "what to hold, as in {\"method\":\"PUT\",\"path\":\"[.]sig$\"}")},
		{"dev held", "wait until a request is held", cmdDevControl("held", "GET", "/dev/held/{id}?wait=30s", "unused")},
		{"dev release", "release what is held", cmdDevControl("release", "POST", "/dev/release/{id}?drop=true", "unused")},
		{"dev", "try it out: issuer, forge, registry and service on loopback", cmdDev},
		{"config check", "check configuration, keys and policies", cmdConfigCheck},
		{"keys list", "list the keys of a configuration", cmdKeysList},
		{"keys public", "print a public key as PEM, or its OpenPGP certificate", cmdKeysPublic},
		{"keys openpgp", "make the OpenPGP certificate of a key", cmdKeysOpenPGP},
		{"keys trust", "write what verifiers need of a key", cmdKeysTrust},
		{"keys test", "prove that every key can sign", cmdKeysTest},
		{"keys new", "make a key, a log key or a state secret", cmdKeysNew},
		{"dct init", "make a repository on a notary server, with keys of its owner", cmdDCTInit},
		{"dct delegate", "let a key of the service sign roles of a repository", cmdDCTDelegate},
		{"dct status", "who may sign what in a repository, and when it ends", cmdDCTStatus},
		{"approve", "approve in an emergency (--break-glass), on this machine", cmdApprove},
		{"audit export", "write the audit log to a folder", cmdAuditExport},
		{"health", "ask the running service whether it is ready", cmdHealth},
		{"version", "print the version", func(_ context.Context, _ []string, out, _ io.Writer) error {
			_, err := fmt.Fprintln(out, version())
			return err
		}},
	}
}

// run is main without the process: it returns the exit code.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	line := strings.Join(args, " ")
	for _, c := range commands() {
		if line != c.name && !strings.HasPrefix(line, c.name+" ") {
			continue
		}
		err := c.run(ctx, args[strings.Count(c.name, " ")+1:], out, errs)
		var usage *usageError
		switch {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return exitOK
		case errors.As(err, &usage):
			fmt.Fprintf(errs, "sealwrightd %s: %v\n", c.name, err)
			return exitUsage
		default:
			fmt.Fprintf(errs, "sealwrightd %s: %v\n", c.name, err)
			return exitError
		}
	}
	w, code := errs, exitUsage
	if line == "" || line == "help" || line == "--help" || line == "-h" {
		w, code = out, exitOK
	} else {
		fmt.Fprintf(w, "sealwrightd: no command %q\n\n", line)
	}
	fmt.Fprint(w, "sealwrightd signs container images for CI pipelines.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  sealwrightd %-14s %s\n", c.name, c.help)
	}
	fmt.Fprint(w, "\nEach command explains its flags with --help.\n")
	return code
}

// flags returns a flag set that reports to errs and never exits.
func flags(name string, errs io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("sealwrightd "+name, flag.ContinueOnError)
	f.SetOutput(errs)
	return f
}

// parse parses args, of which none may be left over but the n wanted.
func parse(f *flag.FlagSet, args []string, n int) error {
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return &usageError{err.Error()}
	}
	if f.NArg() != n {
		return &usageError{fmt.Sprintf("expected %d arguments, found %d: %s", n, f.NArg(), strings.Join(f.Args(), " "))}
	}
	return nil
}

func configFlag(f *flag.FlagSet) *string {
	return f.String("config", "sealwright.yaml", "path of the configuration `file`")
}

func newLog(w io.Writer, format, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, &usageError{"--log-level: one of debug, info, warn, error"}
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	default:
		return nil, &usageError{"--log-format: json or text"}
	}
}

func cmdServe(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("serve", errs)
	path := configFlag(f)
	format := f.String("log-format", "json", "json or text")
	level := f.String("log-level", "info", "debug, info, warn or error")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	log, err := newLog(errs, *format, *level)
	if err != nil {
		return err
	}
	c, err := load(*path)
	if err != nil {
		return err
	}
	return serve(ctx, c, log, func(addr string) {
		fmt.Fprintf(out, "sealwrightd listens on %s\n", addr) // a closed stdout stops nothing
	})
}

func cmdConfigCheck(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("config check", errs)
	path := configFlag(f)
	online := f.Bool("online", false, "ask each forge whether the service may do there what it needs")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	c, err := load(*path)
	if err != nil {
		return err
	}
	if err := tryOpen(ctx, c); err != nil {
		return err
	}
	forges, err := openForges(c.Forges, nil)
	if err != nil {
		return err
	}
	if *online {
		if err := checkOnline(ctx, forges, c.Policies, out); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "%s is good: %d keys, %d policies, %d issuers, %d registries, %d forges\n", *path, len(c.Keys), len(c.Policies.Policies()), len(c.Issuers), len(c.Registries), len(c.Forges))
	return err
}

// stamped is what the linker was told, as in -X main.stamped=v1.2.3: a release
// is built without the history that the Go command would read.
var stamped string

// version returns the release's or the module's version, or that of the commit
// it was built from.
func version() string {
	if stamped != "" {
		return stamped
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}
