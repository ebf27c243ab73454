package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/evidence"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const whyUsage = `Say why an image is signed: from its digest to the commit, the run, the rules that
let it pass, who approved, the key, where the signature is, and the proof in the
audit log. Needs the role auditor or admin, and read access to the registry.

Usage:
  sealwright why [flags] IMAGE

Every signature in the registry is compared, byte by byte, with the signatures
that the audit log knows. One that is valid and that nobody asked this service for
means that a key was used outside of it.

Flags:
  --log-key KEY             the log's public key, or a file that holds it. Without
                            it the service is asked for its key, and believed
  --known-checkpoint FILE   a checkpoint that you kept; the log must continue it
  --insecure-http           speak plain http to a registry on a loopback address
` + onlineUsage + `
Exit codes: 0 signed and asked for; 3 asked for and not signed (denied, failed,
canceled, expired); 5 signed and never asked for, or a signature that the log
knows is gone, or evidence that does not verify; 6 nothing is known of it yet.
`

// maxAsked bounds the requests about one digest that are looked into: each is
// one file. A digest that is rebuilt bit by bit every night has some hundreds.
const maxAsked = 1000

func runWhy(args []string, s streams) int {
	fs := flag.NewFlagSet("why", flag.ContinueOnError)
	o := onlineFlags(fs)
	roots := rootFlags(fs)
	insecure := fs.Bool("insecure-http", false, "")
	images, code, done := parse(fs, args, whyUsage, s)
	if done {
		return code
	}
	if len(images) != 1 {
		fmt.Fprintf(s.err, "sealwright: one image is needed, %d were given\n\n%s", len(images), whyUsage)
		return exitUsage
	}
	a, err := image(images[0])
	if err != nil {
		explain(s.err, "reading IMAGE", err)
		return exitUsage
	}
	client, token, err := o.open(s.in)
	if err != nil {
		explain(s.err, "asking why", err)
		return exitUsage
	}
	answer := exitOK
	code = ask(s, "asking why", func(ctx context.Context) error {
		q := inquiry{client: client, token: token}
		if q.trust, err = client.Trust(ctx); err != nil {
			return err
		}
		if q.options, err = roots.options(ctx, client, s); err != nil {
			return err
		}
		reg, err := openRegistry(a, *insecure)
		if err != nil {
			return err
		}
		if err := q.image(ctx, reg, a); err != nil {
			return err
		}
		if err := q.asked(ctx); err != nil {
			return err
		}
		if err := q.signatures(ctx, places{registry: reg, insecure: *insecure}); err != nil {
			return err
		}
		answer = q.answer(s.out)
		return nil
	})
	if code == exitOK {
		code = answer
	}
	return code
}

// inquiry is what is found out about one image.
type inquiry struct {
	client  *api.Client
	token   string
	trust   api.Trust
	options evidence.Options

	artifact signing.Artifact
	gone     bool // the registry does not have the image
	open     []api.Summary
	over     []evidence.Report // with a part in this image, verified
	seen     []seen
	looked   map[string]method.Finder // methods whose signatures would have been seen
}

// image finds the digest. An image that was deleted can still be asked about.
func (q *inquiry) image(ctx context.Context, reg *registry.Client, a signing.Artifact) (err error) {
	q.artifact, err = described(ctx, reg, a)
	if errors.Is(err, signing.NotFound) && a.Digest != "" {
		q.artifact, q.gone, err = a, true, nil
	}
	return err
}

// asked reads and verifies the evidence of every request about the digest.
func (q *inquiry) asked(ctx context.Context) error {
	for query, n := (api.Query{Digest: string(q.artifact.Digest)}), 0; ; {
		page, err := q.client.List(ctx, q.token, query)
		if err != nil {
			return err
		}
		for _, r := range page.Requests {
			if n++; n > maxAsked {
				return &signing.Error{Code: signing.TooLarge, Message: "too many requests about this digest", Expected: fmt.Sprintf("at most %d", maxAsked), Found: "more", Fix: "take an export of the audit log"}
			}
			if !r.State.Terminal() {
				q.open = append(q.open, r)
				continue
			}
			raw, err := takeEvidence(ctx, q.client, q.token, r.ID, q.options)
			if err != nil {
				return err
			}
			report, err := verifyEvidence(raw, r.ID, q.options)
			if err != nil {
				return err
			}
			// The same digest in another repository is another image to verifiers.
			if len(q.tasks(report)) > 0 || slices.ContainsFunc(report.Evidence.Request.Artifacts, q.same) {
				q.over = append(q.over, report)
			}
		}
		if query.Cursor = page.Cursor; query.Cursor == "" {
			return nil
		}
	}
}

func (q *inquiry) same(a signing.Artifact) bool {
	return a.Repository == q.artifact.Repository && a.Digest == q.artifact.Digest
}

// tasks returns the tasks of a report about the image.
func (q *inquiry) tasks(r evidence.Report) []signing.Task {
	var out []signing.Task
	for _, t := range r.Evidence.Tasks {
		if q.same(t.Artifact) || len(q.tags(t)) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// tags returns the tags that a task with a part bound to the image.
func (q *inquiry) tags(t signing.Task) []string {
	var out []string
	for _, c := range t.Changes {
		if t.Artifact.Repository == q.artifact.Repository && c.Digest == q.artifact.Digest {
			out = append(out, c.Tag)
		}
	}
	return out
}

func (q *inquiry) signatures(ctx context.Context, p places) (err error) {
	if q.looked, err = p.technologies(q.trust); err != nil {
		return err
	}
	if q.gone {
		return nil
	}
	var more []signing.KeyRecord
	for _, r := range q.over {
		more = append(more, r.Evidence.Keys...)
	}
	q.seen, err = p.published(ctx, q.artifact, q.trust, more...)
	return err
}

// answer prints what was found and returns the exit code. The alarming comes
// first: whoever reads one line only shall have read that.
func (q *inquiry) answer(w io.Writer) int {
	fmt.Fprintf(w, "image        %s@%s\n", q.artifact.Repository, q.artifact.Digest)
	if q.gone {
		fmt.Fprintln(w, "note         the registry does not have this image")
	}
	alarms, good, others := 0, 0, 0
	there := map[signing.Digest]bool{}
	for _, f := range q.seen {
		there[f.Envelope] = true
		_, _, known := q.maker(f)
		switch {
		case known:
		case f.Err == nil:
			alarms++
			q.printStray(w, f)
		default:
			others++
		}
	}
	for _, f := range q.seen {
		r, t, known := q.maker(f)
		if !known {
			continue
		}
		good++
		fmt.Fprintf(w, "\nsigned and asked for: %s %s by %s\n  at         %s\n", f.Method, f.Format, t.Step.Key, printable(f.Location.URI))
		if f.Err != nil {
			fmt.Fprintf(w, "  note       verifiers with the present keys refuse it: %s\n", printable(f.Err.Error()))
		}
		q.printReport(w, r)
		q.printProof(w, r, t)
	}
	for _, r := range q.over {
		for _, t := range q.tasks(r) {
			if t.Envelope == nil || t.State == signing.TaskFailed {
				continue
			}
			if _, ok := q.looked[t.Step.Method]; !ok {
				good++
				q.printElsewhere(w, r, t)
			} else if !there[signing.DigestOf(t.Envelope.Bytes)] {
				alarms++
				fmt.Fprintf(w, "\nsigned, and gone: %s by %s of %s is not in the registry any more\n", t.Step.Method, t.Step.Key, r.Evidence.Request.ID)
			}
		}
	}
	refused := q.printUnsigned(w)
	if others > 0 {
		fmt.Fprintf(w, "\nby others: %d signatures that no key of this service made\n", others)
	}
	for _, r := range q.over {
		for _, a := range r.Alarms {
			alarms++
			fmt.Fprintf(w, "\nalarm: %s\n", a)
		}
	}
	switch {
	case alarms > 0:
		return exitVerified
	case good > 0:
		return exitOK
	case refused > 0:
		return exitDenied
	}
	if len(q.open) == 0 {
		fmt.Fprintln(w, "\nunknown: not signed by this service, and nobody asked for it")
	}
	return exitUnknown
}

// printElsewhere prints a signature that is not in the image's registry, where this
// program does not look.
func (q *inquiry) printElsewhere(w io.Writer, r evidence.Report, t signing.Task) {
	what := t.Step.Method
	if tags := q.tags(t); len(tags) > 0 {
		what += " " + printable(strings.Join(tags, ", "))
	}
	fmt.Fprintf(w, "\nsigned and asked for: %s by %s\n", what, t.Step.Key)
	for _, l := range t.Locations {
		fmt.Fprintf(w, "  at         %s\n", printable(l.URI))
	}
	fmt.Fprintln(w, "  note       it was there when it was published; this command reads the image's registry only")
	q.printReport(w, r)
	q.printProof(w, r, t)
}

// maker returns the task that made a signature.
func (q *inquiry) maker(f seen) (evidence.Report, signing.Task, bool) {
	for _, r := range q.over {
		for _, t := range q.tasks(r) {
			if t.Envelope != nil && t.Step.Method == f.Method && signing.DigestOf(t.Envelope.Bytes) == f.Envelope {
				return r, t, true
			}
		}
	}
	return evidence.Report{}, signing.Task{}, false
}

// printStray is the finding that this command exists for.
func (q *inquiry) printStray(w io.Writer, f seen) {
	fmt.Fprintf(w, "\nSIGNED AND NEVER ASKED FOR: %s %s, valid by key %s\n  at         %s\n", f.Method, f.Format, strings.Join(f.Keys, ", "), printable(f.Location.URI))
	fmt.Fprintln(w, "  meaning    the audit log knows no such signature: the key was used outside of this service, or its log was cut")
	for _, r := range q.over {
		for _, t := range q.tasks(r) {
			if t.Recognised && slices.ContainsFunc(t.Locations, func(l signing.Location) bool { return l.URI == f.Location.URI }) {
				fmt.Fprintf(w, "  note       %s found a signature there and recognised it; it did not make it\n", t.ID)
			}
		}
	}
}

func (q *inquiry) printReport(w io.Writer, r evidence.Report) {
	var b strings.Builder
	fmt.Fprintf(&b, "request      %s: %s\n", r.Evidence.Request.ID, r.Evidence.Request.State)
	printOrigin(&b, r.Evidence.Request)
	for line := range strings.Lines(b.String()) {
		name, rest, _ := strings.Cut(line, " ")
		fmt.Fprintf(w, "  %-10s %s", name, strings.TrimLeft(rest, " "))
	}
}

func (q *inquiry) printProof(w io.Writer, r evidence.Report, t signing.Task) {
	for i, ev := range r.Events {
		if ev.Task == t.ID && ev.Attrs["envelope"] != "" {
			fmt.Fprintf(w, "  %-10s %s, version %s, attempts %d\n", "key", t.Step.Key, t.Step.KeyVersion, t.Attempts)
			fmt.Fprintf(w, "  %-10s entry %d of %s, proved to be in its first %d\n", "proof", r.Evidence.Events[i].Index, r.Evidence.Log, r.Checkpoint.Size)
			return
		}
	}
}

// printUnsigned prints the requests that made no signature of the image, and
// returns how many ended so.
func (q *inquiry) printUnsigned(w io.Writer) (ended int) {
	for _, r := range q.over {
		made := slices.ContainsFunc(q.tasks(r), func(t signing.Task) bool { return t.State == signing.Published || t.State == signing.Delivered })
		if made {
			continue
		}
		ended++
		fmt.Fprintf(w, "\nasked for and not signed: %s\n", r.Evidence.Request.State)
		q.printReport(w, r)
		if f := r.Evidence.Request.Failure; f != nil {
			fmt.Fprintf(w, "  %-10s %s\n", "reason", printable(f.Message))
			for _, l := range [][2]string{{"expected", f.Expected}, {"found", f.Found}} {
				if l[1] != "" {
					fmt.Fprintf(w, "  %-10s %s\n", l[0], printable(l[1]))
				}
			}
		}
		last := r.Evidence.Events[len(r.Evidence.Events)-1].Index
		fmt.Fprintf(w, "  %-10s entry %d of %s, proved to be in its first %d\n", "proof", last, r.Evidence.Log, r.Checkpoint.Size)
	}
	for _, r := range q.open {
		fmt.Fprintf(w, "\nasked for and not over: %s is %s\n", r.ID, r.State)
	}
	return ended
}
