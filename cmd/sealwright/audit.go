package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

const auditUsage = `Usage:
  sealwright audit verify [flags] DIR   verify an export of the audit log
  sealwright audit show [flags] DIR     print its entries, unverified

"sealwright audit COMMAND --help" explains it.
`

const auditVerifyUsage = `Verify an export of the audit log (from "sealwrightd audit export"), offline.

Usage:
  sealwright audit verify --log-key KEY [--known-checkpoint FILE]... DIR

Every entry must be an event and hash to the Merkle tree, the tree must be the
one that every checkpoint was signed for, and nothing may be missing or extra.
Otherwise the first entry, tile or interval between checkpoints that is wrong
is named.

Flags:
  --log-key KEY             the log's public key, NAME+HASH+KEY, or a file that
                            holds it; get it once, from the service's /v1/trust
                            or its operator, never from the export
  --known-checkpoint FILE   a checkpoint that you kept: from an answer of the
                            service, a job summary, an earlier export; "-" reads
                            it from standard input; may be given several times.
                            The log must continue it. Without one, an old or
                            truncated export looks like the newest
  --json                    print the report as JSON
`

// runAudit dispatches the subcommands of audit.
func runAudit(args []string, s streams) int {
	if len(args) == 0 {
		fmt.Fprint(s.err, auditUsage)
		return exitUsage
	}
	switch args[0] {
	case "verify":
		return runAuditVerify(args[1:], s)
	case "show":
		return runAuditShow(args[1:], s)
	case "help", "-h", "-help", "--help":
		fmt.Fprint(s.out, auditUsage)
		return exitOK
	}
	fmt.Fprintf(s.err, "sealwright: unknown command %q\n\n%s", "audit "+args[0], auditUsage)
	return exitUsage
}

// runAuditVerify verifies an export.
func runAuditVerify(args []string, s streams) int {
	fs := flag.NewFlagSet("audit verify", flag.ContinueOnError)
	logKey := fs.String("log-key", "", "")
	asJSON := fs.Bool("json", false, "")
	var knownFiles []string
	fs.Func("known-checkpoint", "", func(f string) error {
		knownFiles = append(knownFiles, f)
		return nil
	})
	dirs, code, done := parse(fs, args, auditVerifyUsage, s)
	switch {
	case done:
		return code
	case len(dirs) != 1:
		fmt.Fprintf(s.err, "sealwright: one export folder is needed, %d were given\n\n%s", len(dirs), auditVerifyUsage)
		return exitUsage
	case *logKey == "":
		fmt.Fprintf(s.err, "sealwright: --log-key is needed\n\n%s", auditVerifyUsage)
		return exitUsage
	}
	key, err := readKey(*logKey)
	if err != nil {
		explain(s.err, "reading --log-key", err)
		if errors.Is(err, signing.Invalid) {
			return exitUsage
		}
		return exitError
	}
	var known [][]byte
	for _, f := range knownFiles {
		raw, err := readCheckpoint(f, s.in)
		if err != nil {
			explain(s.err, "reading --known-checkpoint", err)
			return exitError
		}
		known = append(known, raw)
	}
	// A root, so that a link in the export leads nowhere else.
	root, err := os.OpenRoot(dirs[0])
	if err != nil {
		explain(s.err, "opening the export", err)
		return exitError
	}
	defer func() { _ = root.Close() }() // read only
	report, err := audit.VerifyExport(root.FS(), key, known)
	if *asJSON {
		return printJSON(s, report, err)
	}
	if err != nil {
		what, code := outcome(err)
		explain(s.err, what, err)
		fmt.Fprintf(s.err, "  %-10s %d of %d entries and %d checkpoints were right before that\n", "verified", report.Verified, report.Size, report.Checkpoints)
		return code
	}
	printReport(s.out, report)
	return exitOK
}

// outcome tells an export that is wrong from one that could not be read.
func outcome(err error) (what string, code int) {
	if errors.Is(err, signing.Invalid) {
		return "verification failed", exitVerified
	}
	return "verifying the export", exitError
}

// readKey returns the public key that value is, or that the file named so holds.
func readKey(value string) (string, error) {
	if _, err := audit.NewVerifier(value); err == nil {
		return value, nil
	}
	// A key has two '+' at least, which a file's name rarely has: what looks like
	// a key and is none is reported as such.
	raw, err := readFile(value)
	if errors.Is(err, os.ErrNotExist) && strings.Count(value, "+") >= 2 {
		_, err = audit.NewVerifier(value)
		return "", err
	}
	if err != nil {
		return "", err
	}
	if _, err := audit.NewVerifier(string(raw)); err != nil {
		return "", err
	}
	return string(raw), nil
}

// readCheckpoint reads a checkpoint as people keep it: with other line ends, or
// without the last one.
func readCheckpoint(name string, in io.Reader) ([]byte, error) {
	var raw []byte
	var err error
	if name == "-" {
		raw, err = readBounded(in)
	} else {
		raw, err = readFile(name)
	}
	if err != nil {
		return nil, err
	}
	text := strings.TrimRight(strings.ReplaceAll(string(raw), "\r\n", "\n"), "\n")
	return []byte(text + "\n"), nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	return readBounded(f)
}

// readBounded reads a key or a checkpoint.
func readBounded(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, audit.MaxCheckpoint+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > audit.MaxCheckpoint {
		return nil, fmt.Errorf("larger than %d bytes: neither a key nor a checkpoint", audit.MaxCheckpoint)
	}
	return raw, nil
}

// printReport writes what was proved, and what was not.
func printReport(w io.Writer, r audit.Report) {
	fmt.Fprintf(w, "log          %s\n", r.Origin)
	fmt.Fprintf(w, "entries      %d", r.Size)
	if r.Size > 0 {
		fmt.Fprintf(w, ", %s to %s", r.First.UTC().Format(time.RFC3339), r.Last.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(w, "\nroot         %s\ncheckpoints  %d, each signed and matching\n", r.Root, r.Checkpoints)
	for _, kind := range slices.Sorted(maps.Keys(r.Kinds)) {
		fmt.Fprintf(w, "  %8d %s\n", r.Kinds[kind], kind)
	}
	if r.ClockBack >= time.Minute {
		fmt.Fprintf(w, "note         the clock went back by %s at entry %d\n", r.ClockBack, r.ClockBackLeaf)
	}
	if r.Fresh {
		fmt.Fprintf(w, "freshness    proven up to entry %d: the log continues every checkpoint that you know\n", r.Known)
	} else {
		fmt.Fprintf(w, "freshness    unproven: this may be an old export; compare with a checkpoint that you kept (--known-checkpoint)\n")
	}
	fmt.Fprintln(w, "verified")
}

// printJSON writes the report and the refusal, if there is one, as one document.
func printJSON(s streams, r audit.Report, err error) int {
	doc := struct {
		Verified bool           `json:"verified"`
		Error    *signing.Error `json:"error,omitempty"`
		Report   audit.Report   `json:"report"`
	}{Verified: err == nil, Report: r}
	code := exitOK
	if err != nil {
		var e *signing.Error
		if !errors.As(err, &e) {
			e = &signing.Error{Code: signing.Internal}
		}
		doc.Error = &signing.Error{Code: e.Code, Message: headline(err, e), Expected: e.Expected, Found: e.Found, Fix: e.Fix}
		_, code = outcome(err)
	}
	enc := json.NewEncoder(s.out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(doc); err != nil {
		explain(s.err, "printing the report", err)
		return exitError
	}
	return code
}
