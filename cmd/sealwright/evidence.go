package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/evidence"
	"github.com/sealwright/sealwright/internal/signing"
)

const evidenceUsage = `Take the evidence of a request that is over, verify it, and keep it as one file.
Needs the role auditor or admin.

Usage:
  sealwright evidence [flags] REQUEST
  sealwright evidence verify [flags] FILE     offline: needs nothing but the file

The file says who asked, from which commit, what was decided and why, which key
signed which bytes and where they went, with the proof that the audit log said
so. Not one byte of it can be changed.

Flags:
  -o FILE                   where to write it (default REQUEST.evidence.json,
                            "-" is standard output)
  --log-key KEY             the log's public key, or a file that holds it. Without
                            it the service is asked for its key, and believed
  --known-checkpoint FILE   a checkpoint that you kept; the log must continue it
` + onlineUsage + `
Exit code 5 says that the evidence does not verify; nothing is written then.
`

const evidenceVerifyUsage = `Verify an evidence file, offline.

Usage:
  sealwright evidence verify --log-key KEY [--known-checkpoint FILE]... FILE

Flags:
  --log-key KEY             the log's public key, NAME+HASH+KEY, or a file that
                            holds it; get it once, by a way that you trust, never
                            from whoever gave you the evidence
  --known-checkpoint FILE   a checkpoint that you kept; the log must continue it.
                            The file needs a proof for it: give the same checkpoint
                            to "sealwright evidence"

Exit code 5 says that the file does not verify.
`

// evidenceTries is how often evidence is asked for while no checkpoint covers the
// end of its request; one is signed every few seconds.
const evidenceTries = 10

func runEvidence(args []string, s streams) int {
	if len(args) > 0 && args[0] == "verify" {
		return runEvidenceVerify(args[1:], s)
	}
	fs := flag.NewFlagSet("evidence", flag.ContinueOnError)
	o := onlineFlags(fs)
	roots := rootFlags(fs)
	out := fs.String("o", "", "")
	ids, code, done := parse(fs, args, evidenceUsage, s)
	switch {
	case done:
		return code
	case len(ids) != 1 || !signing.ValidRequestID(ids[0]):
		fmt.Fprintf(s.err, "sealwright: one request id is needed, as in sr_7K2M0123456789AB\n\n%s", evidenceUsage)
		return exitUsage
	}
	client, token, err := o.open(s.in)
	if err != nil {
		explain(s.err, "taking evidence", err)
		return exitUsage
	}
	var raw []byte
	var report evidence.Report
	code = ask(s, "taking evidence", func(ctx context.Context) error {
		options, err := roots.options(ctx, client, s)
		if err != nil {
			return err
		}
		if raw, err = takeEvidence(ctx, client, token, ids[0], options); err != nil {
			return err
		}
		report, err = verifyEvidence(raw, ids[0], options)
		return err
	})
	if code != exitOK {
		return code
	}
	if *out == "-" {
		_, err = s.out.Write(raw)
		printEvidence(s.err, report)
	} else {
		if *out == "" {
			*out = ids[0] + ".evidence.json"
		}
		if err = os.WriteFile(*out, raw, 0o644); err == nil {
			printEvidence(s.out, report)
			fmt.Fprintf(s.out, "written to %s\n", *out)
		}
	}
	if err != nil {
		explain(s.err, "writing evidence", err)
		return exitError
	}
	return exitOK
}

// roots are the flags that say what evidence is verified against.
type roots struct {
	logKey *string
	known  *[]string
}

func rootFlags(fs *flag.FlagSet) roots {
	r := roots{fs.String("log-key", "", ""), new([]string)}
	fs.Func("known-checkpoint", "", func(f string) error {
		*r.known = append(*r.known, f)
		return nil
	})
	return r
}

// options reads the roots. Without a log key the service is asked, if there is one.
func (r roots) options(ctx context.Context, client *api.Client, s streams) (evidence.Options, error) {
	o := evidence.Options{Envelope: checkEnvelope}
	var err error
	if *r.logKey != "" {
		if o.LogKey, err = readKey(*r.logKey); err != nil {
			return o, fmt.Errorf("reading --log-key: %w", err)
		}
	} else {
		t, err := client.Trust(ctx)
		if err != nil {
			return o, err
		}
		o.LogKey = t.Log
		fmt.Fprintf(s.err, "sealwright: the log's key is the one that the service itself names, %s; keep it, and give it as --log-key from now on\n", strings.TrimSpace(t.Log))
	}
	for _, f := range *r.known {
		raw, err := readCheckpoint(f, s.in)
		if err != nil {
			return o, fmt.Errorf("reading --known-checkpoint: %w", err)
		}
		o.Known = append(o.Known, raw)
	}
	return o, nil
}

// takeEvidence asks for evidence, with a proof for the known checkpoint, until a
// checkpoint covers it.
func takeEvidence(ctx context.Context, client *api.Client, token, id string, o evidence.Options) ([]byte, error) {
	since := uint64(0)
	for _, raw := range o.Known {
		key, err := audit.NewVerifier(o.LogKey)
		if err != nil {
			return nil, err
		}
		c, err := audit.ParseCheckpoint(raw, key)
		if err != nil {
			return nil, fmt.Errorf("reading --known-checkpoint: %w", err)
		}
		since = max(since, c.Size)
	}
	for try := 1; ; try++ {
		raw, err := client.Evidence(ctx, token, id, since)
		var refusal *api.Refusal
		if !errors.As(err, &refusal) || !errors.Is(refusal.Problem.Err(), signing.Unavailable) || try == evidenceTries {
			return raw, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Second):
		}
	}
}

// verifyEvidence verifies what a service answered about a request.
func verifyEvidence(raw []byte, id string, o evidence.Options) (evidence.Report, error) {
	report, err := evidence.Verify(raw, o)
	if err == nil && report.Evidence.Request.ID != id {
		err = &signing.Error{Code: signing.Invalid, Message: "the service answered with the evidence of another request", Expected: id, Found: report.Evidence.Request.ID}
	}
	if err != nil {
		return report, &unverified{fmt.Errorf("the evidence of %s does not verify: %w", id, err)}
	}
	return report, nil
}

func runEvidenceVerify(args []string, s streams) int {
	fs := flag.NewFlagSet("evidence verify", flag.ContinueOnError)
	roots := rootFlags(fs)
	files, code, done := parse(fs, args, evidenceVerifyUsage, s)
	switch {
	case done:
		return code
	case len(files) != 1 || *roots.logKey == "":
		fmt.Fprintf(s.err, "sealwright: one file and --log-key are needed\n\n%s", evidenceVerifyUsage)
		return exitUsage
	}
	options, err := roots.options(context.Background(), nil, s)
	if err != nil {
		explain(s.err, "verifying evidence", err)
		return exitError
	}
	f, err := os.Open(files[0])
	if err != nil {
		explain(s.err, "verifying evidence", err)
		return exitError
	}
	raw, err := evidence.Read(f)
	if err = errors.Join(err, f.Close()); err != nil {
		explain(s.err, "verifying evidence", err)
		return exitError
	}
	report, err := evidence.Verify(raw, options)
	if err != nil {
		explain(s.err, "verification failed", err)
		return exitVerified
	}
	printEvidence(s.out, report)
	return exitOK
}

// printEvidence writes what verified evidence says.
func printEvidence(w io.Writer, r evidence.Report) {
	q := r.Evidence.Request
	fmt.Fprintf(w, "request      %s: %s\n", q.ID, q.State)
	printOrigin(w, q)
	if q.Failure != nil {
		fmt.Fprintf(w, "reason       %s\n", printable(q.Failure.Message))
	}
	for _, t := range r.Evidence.Tasks {
		fmt.Fprintf(w, "signature    %s\n  %-10s %s with %s, key %.16s\n", t.Artifact, t.State, t.Step.Method, t.Step.Key, t.Step.KeyVersion)
		for _, l := range t.Locations {
			fmt.Fprintf(w, "  %-10s %s\n", "at", printable(l.URI))
		}
	}
	first, last := r.Evidence.Events[0].Index, r.Evidence.Events[len(r.Evidence.Events)-1].Index
	fmt.Fprintf(w, "log          %s: %d events, from entry %d to %d, of %d that the checkpoint covers\n", r.Evidence.Log, len(r.Events), first, last, r.Checkpoint.Size)
	for _, a := range r.Alarms {
		fmt.Fprintf(w, "alarm        %s\n", a)
	}
	if r.Fresh {
		fmt.Fprintln(w, "freshness    proven: the log continues every checkpoint that you know")
	} else {
		fmt.Fprintln(w, "freshness    unproven: compare with a checkpoint that you kept (--known-checkpoint)")
	}
	fmt.Fprintln(w, "verified")
}

// printOrigin writes who asked, from where, and what let it pass.
func printOrigin(w io.Writer, q signing.Request) {
	o := q.Origin
	fmt.Fprintf(w, "asked        %s by %s, %s\n", q.Submitted.UTC().Format(time.RFC3339), printable(o.SourceRepository+" on "+o.Forge), printable(q.Identity.Provider))
	if l := q.List; l != nil {
		fmt.Fprintf(w, "list         brought by %s, made %s, file %s\n", printable(q.Identity.Subject), l.Made.UTC().Format(time.RFC3339), l.Digest)
	}
	fmt.Fprintf(w, "commit       %s, %s\n", printable(o.SourceRepositoryDigest), printable(o.SourceRepositoryRef))
	fmt.Fprintf(w, "run          %s attempt %s, %s\n", printable(o.RunInvocationURI), printable(o.RunAttempt), printable(o.BuildTrigger))
	d := q.Decision
	if d == nil {
		fmt.Fprintln(w, "decision     none")
		return
	}
	var rules []string
	passed(d.Reasons, d.Effect != signing.Deny, &rules) // people are asked only where all passes
	name := q.Policy
	if q.Project != "" {
		name = q.Project + "/" + q.Policy
	}
	fmt.Fprintf(w, "decision     %s by policy %s: %s\n", d.Effect, printable(name), strings.Join(rules, ", "))
	switch {
	case len(q.Approvals) == 0 && d.Effect == signing.NeedsApproval:
		fmt.Fprintln(w, "approved     by nobody yet")
	case len(q.Approvals) == 0:
		fmt.Fprintln(w, "approved     by nobody: the policy did not ask for it")
	}
	for _, a := range q.Approvals {
		word := "approved     by"
		if a.Deny {
			word = "denied       by"
		}
		fmt.Fprintf(w, word+" %s via %s, %s\n", printable(a.Person), printable(a.Via), a.At.UTC().Format(time.RFC3339))
	}
}

// passed collects the leaves with the given outcome.
func passed(r signing.Reason, pass bool, out *[]string) {
	if len(r.Children) == 0 && r.Pass == pass {
		*out = append(*out, printable(r.Rule))
	}
	for _, c := range r.Children {
		passed(c, pass, out)
	}
}

// printable makes text of strangers safe on one line of a terminal.
func printable(s string) string {
	if s == "" {
		return "-"
	}
	q := fmt.Sprintf("%+q", s)
	return q[1 : len(q)-1]
}
