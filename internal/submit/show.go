package submit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/ci"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/view"
)

const (
	// ttyWidth is what is drawn in place: a longer line would wrap and stay.
	ttyWidth = 78
	// maxAnnotation bounds the text of an annotation; GitHub cuts at 64 KB.
	maxAnnotation = 16 << 10
)

// progress shows where a request stands: in place on a terminal, elsewhere a
// line for each change.
type progress struct {
	env  *ci.Environment
	tty  bool
	last string
	open bool // a line is drawn that has no end yet
}

func (p *progress) show(r api.Request) { p.note(progressLine(r)) }

func (p *progress) note(line string) {
	if line == p.last {
		return
	}
	p.last = line
	if !p.tty {
		p.env.Print(line + "\n")
		return
	}
	if runes := []rune(line); len(runes) > ttyWidth {
		line = string(runes[:ttyWidth-1]) + "…"
	}
	p.env.Redraw(line)
	p.open = true
}

// end finishes a line that is drawn in place.
func (p *progress) end() {
	if p.open {
		p.env.Print("\n")
		p.open = false
	}
}

func progressLine(r api.Request) string {
	published, delivered, recognised, trouble := 0, 0, 0, ""
	for _, t := range r.Tasks {
		switch {
		case t.State == signing.Delivered:
			delivered++
		case t.State == signing.Published:
			published++
			if t.Recognised {
				recognised++
			}
		case t.Failure != nil && trouble == "":
			trouble = "; last trouble: " + ci.Clean(t.Failure.Message)
		}
	}
	signatures := fmt.Sprintf("%d of %s published", published, count(len(r.Tasks), "signature"))
	if delivered > 0 {
		signatures += fmt.Sprintf(", %d delivered", delivered)
	}
	switch r.State {
	case signing.Pending:
		return "pending: the service is deciding"
	case signing.AwaitingApproval:
		return "awaiting approval" + quorum(r.Approval) + " until " + r.Deadline.UTC().Format("2006-01-02 15:04 UTC")
	case signing.Ready:
		return "ready: checked once more before a key is used"
	case signing.Signing:
		return "signing: " + signatures + trouble
	case signing.Completed:
		if recognised > 0 {
			signatures += fmt.Sprintf(" (%d there already)", recognised)
		}
		return "completed: " + signatures
	default:
		return string(r.State)
	}
}

// delivered returns how many signatures the service has only this job's word for.
func delivered(r api.Request) int {
	n := 0
	for _, t := range r.Tasks {
		if t.State == signing.Delivered {
			n++
		}
	}
	return n
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// result is the content of ResultFile.
type result struct {
	ExitCode int             `json:"exitCode"`
	Request  *api.Request    `json:"request,omitempty"`
	Resolved []resolution    `json:"resolved,omitempty"`
	Error    *api.Failure    `json:"error,omitempty"`
	Reasons  *signing.Reason `json:"reasons,omitempty"`
}

// report shows the end of the step everywhere it is looked for, and returns
// the exit code.
func (s *step) report(err error) int {
	code := exitCode(err)
	if werr := s.writeOutputs(); werr != nil && code == ExitOK {
		// Later steps would go on with outputs that are not there.
		err, code = localError{werr}, ExitError
	}
	res := result{ExitCode: code, Resolved: s.resolved}
	if s.request.ID != "" {
		res.Request = &s.request
	}
	markdown := s.requestMarkdown()
	if err == nil {
		s.showSignatures()
	} else {
		e, reasons := s.explain(err)
		s.showRefusal(heading(code), e, reasons)
		res.Error = &api.Failure{Code: e.Code, Message: e.Message, Expected: e.Expected, Found: e.Found, Fix: e.Fix}
		res.Reasons = reasons
		if s.request.Failure == nil {
			// The request does not say itself why this step failed.
			markdown = refusalMarkdown(heading(code), e, reasons, s.request.ID == "") + markdown
		}
	}
	if werr := s.CI.Summary(markdown); werr != nil {
		s.CI.Print(fmt.Sprintf("warning: %s\n", ci.Clean(werr.Error())))
	}
	if werr := s.writeResult(res); werr != nil {
		s.CI.Print(fmt.Sprintf("error: writing the result file: %s\n", ci.Clean(werr.Error())))
		if code == ExitOK {
			code = ExitError
		}
	}
	return code
}

func heading(code int) string {
	switch code {
	case ExitUsage:
		return "usage error"
	case ExitDenied:
		return "denied"
	case ExitTimeout:
		return "timed out"
	case ExitVerifier:
		return "verification failed"
	default:
		return "error"
	}
}

// explain returns what there is to say of err: the error with the context that
// was wrapped around it, and the policy's reasons.
func (s *step) explain(err error) (*signing.Error, *signing.Reason) {
	var reasons *signing.Reason
	var refusal *api.Refusal
	if errors.As(err, &refusal) {
		reasons = refusal.Problem.Reasons
	}
	var inner *signing.Error
	e := signing.Error{Code: signing.Internal, Message: err.Error()}
	if errors.As(err, &inner) {
		e = *inner
		if context, ok := strings.CutSuffix(err.Error(), inner.Error()); ok {
			e.Message = context + e.Message
		}
	} else if errors.Is(err, errTimeout) {
		e.Code = signing.Expired
		e.Expected, e.Found = "an end within the time given", string(s.request.State)
		e.Fix = "give more `timeout`; the request goes on, and the same step of the same run attempt finds it again"
		if s.request.State == signing.RequestExpired {
			e.Fix = "have it approved in time, or give more `deadline`; then run the job again"
		}
	}
	if s.request.State == signing.RequestDenied {
		if f := s.request.Failure.Err(); f != nil {
			e = *f
		}
		if d := s.request.Decision; d != nil && !d.Reasons.Pass {
			reasons = &d.Reasons
		}
	}
	out := cleanError(e)
	return &out, reasons
}

// cleanError makes strangers' text fit for a terminal; view does so for reasons.
func cleanError(e signing.Error) signing.Error {
	return signing.Error{Code: e.Code, Message: ci.Clean(e.Message), Expected: ci.Clean(e.Expected), Found: ci.Clean(e.Found), Fix: ci.Clean(e.Fix)}
}

// showRefusal prints the refusal and annotates the job with it.
func (s *step) showRefusal(heading string, e *signing.Error, reasons *signing.Reason) {
	head := heading
	if s.TTY {
		head = "\x1b[1;31m" + heading + "\x1b[0m"
	}
	body := details(e)
	s.CI.Print(head + ": " + e.Message + "\n" + body)
	note := e.Message + "\n" + body
	if reasons != nil {
		var plain bytes.Buffer
		view.Text(&plain, *reasons, false)
		note += plain.String()
		shown := plain
		if s.TTY {
			shown = bytes.Buffer{}
			view.Text(&shown, *reasons, true)
		}
		s.CI.Print(shown.String())
	}
	for _, t := range s.request.Tasks {
		if t.State == signing.TaskFailed && t.Failure != nil {
			f := cleanError(*t.Failure.Err())
			text := fmt.Sprintf("%s (%s, key %s): %s\n%s", ci.Clean(subject(t)), ci.Clean(t.Method), ci.Clean(t.Key), f.Message, details(&f))
			s.CI.Print(text)
			note += text
		}
	}
	if len(note) > maxAnnotation {
		note = strings.ToValidUTF8(note[:maxAnnotation], "") + " ... (see the log)"
	}
	s.CI.Annotate(ci.LevelError, "Sealwright: "+heading, strings.TrimSpace(note))
}

// warnWaiting says, once, that people are asked for approval while only this job
// can publish.
func (s *step) warnWaiting() {
	d := s.request.Decision
	asked := s.request.State == signing.AwaitingApproval || d != nil && d.Effect == signing.NeedsApproval && !s.request.State.Terminal()
	if s.Publish != signing.ByClient || s.warned || !asked {
		return
	}
	s.warned = true
	s.warn("approval may come after this job has ended", "with `publish: client` only this job can write the signatures: if it ends before people approve, nothing is published. Let the service publish (`publish: service`), or give `timeout` time for the approval")
}

// warn says what is no reason to stop.
func (s *step) warn(title, text string) {
	s.progress.end()
	s.CI.Print("warning: " + ci.Clean(title) + ": " + ci.Clean(text) + "\n")
	s.CI.Annotate(ci.LevelWarning, "Sealwright: "+title, text)
}

func details(e *signing.Error) string {
	var b strings.Builder
	for _, l := range []struct{ name, text string }{{"expected", e.Expected}, {"found", e.Found}, {"how to fix", e.Fix}} {
		if l.text != "" {
			fmt.Fprintf(&b, "  %-11s %s\n", l.name+":", l.text)
		}
	}
	return b.String()
}

// showSignatures lists what was made and where it is.
func (s *step) showSignatures() {
	if !s.request.State.Terminal() {
		s.CI.Print(fmt.Sprintf("not waited for: request %s is %s\n", s.request.ID, s.request.State))
		return
	}
	below := 0
	for _, t := range s.request.Tasks {
		if t.Below {
			below++ // the summary of the index says enough
			continue
		}
		verb := "signed"
		switch {
		case t.State == signing.Delivered:
			verb = "delivered"
		case t.Recognised:
			verb = "already signed"
		}
		s.CI.Print(fmt.Sprintf("%s %s (%s, key %s)\n", verb, ci.Clean(subject(t)), ci.Clean(t.Method), ci.Clean(t.Key)))
		for _, d := range t.Differences {
			s.CI.Print("  " + ci.Clean(view.Difference(d)) + "\n")
		}
		for _, l := range t.Locations {
			s.CI.Print("  " + ci.Clean(l.URI) + "\n")
		}
	}
	if below > 0 {
		s.CI.Print(fmt.Sprintf("and %s of manifests below\n", count(below, "signature")))
	}
	if n := delivered(s.request); n > 0 {
		s.CI.Print(fmt.Sprintf("%s delivered, not published: this job wrote and read back what the service signed; the service could not read it back\n", count(n, "signature")))
	}
	for _, m := range s.moves {
		s.CI.Print(fmt.Sprintf("%s names %s\n", m.name(), m.digest))
	}
}

// refusalMarkdown is the head of the job summary of a step that did not sign.
// The reasons are in the request's own summary where there is a request.
func refusalMarkdown(heading string, e *signing.Error, reasons *signing.Reason, alone bool) string {
	tree := signing.Reason{Rule: e.Message, Wanted: e.Expected, Found: e.Found, Fix: e.Fix}
	text := "### Sealwright: " + heading + "\n\n" + view.Markdown(tree) + "\n"
	if reasons != nil && alone {
		text += view.Markdown(*reasons) + "\n"
	}
	return text
}

// requestMarkdown is the request as the job summary shows it; "" if there is none.
func (s *step) requestMarkdown() string {
	if s.request.ID == "" {
		return ""
	}
	r, tasks := s.request.Domain()
	text := view.RequestMarkdown(r, tasks, s.request.Checkpoint) + approvalMarkdown(s.request)
	if len(s.resolved) > 0 {
		text += "\n\nTags resolved by this step, once:\n\n"
		for _, l := range s.resolved {
			text += fmt.Sprintf("- `%s` to `%s`\n", l.Image, l.Digest) // both by grammar without a backtick
		}
	}
	if len(s.moves) > 0 {
		text += "\n\nTags, moved only when the signatures were there:\n\n"
		for _, m := range s.moves {
			verb := "not moved"
			if m.done {
				verb = "names"
			}
			text += fmt.Sprintf("- `%s` %s `%s`\n", m.name(), verb, m.digest) // by grammar without a backtick
		}
	}
	return text + "\n"
}

// signature is one element of the output `signatures`.
type signature struct {
	api.ArtifactRef
	Part        string               `json:"part,omitempty"`
	Differences []signing.Difference `json:"differences,omitempty"`
	Below       bool                 `json:"below,omitempty"`
	Method      string               `json:"method"`
	Format      string               `json:"format,omitempty"`
	Key         string               `json:"key"`
	State       signing.TaskState    `json:"state"`
	Recognised  bool                 `json:"recognised,omitempty"`
	Locations   []signing.Location   `json:"locations,omitempty"`
}

// subject names what a task is about.
func subject(t api.Task) string {
	if t.Part == "" {
		return t.Artifact.Artifact().String()
	}
	return fmt.Sprintf("%s of %s in %s", count(len(t.Changes), "tag"), t.Artifact.Repository, t.Part)
}

// asked says how much a submission asks for.
func asked(body api.SubmitRequest) string {
	text := count(len(body.Artifacts), "artifact")
	if n := len(body.Untrust); n > 0 {
		text += " and " + count(n, "tag") + " to untrust"
	}
	return text
}

// writeOutputs writes what later steps read. It also does so for a request that
// failed: `if: failure()` steps want its id.
func (s *step) writeOutputs() error {
	if s.request.ID == "" {
		return nil
	}
	digests, signatures := []string{}, []signature{}
	seen := map[string]bool{}
	for _, a := range s.body.Artifacts {
		if d := a.Repository + "@" + a.Digest; !seen[d] {
			seen[d] = true
			digests = append(digests, d)
		}
	}
	for _, t := range s.request.Tasks {
		signatures = append(signatures, signature{t.Artifact, t.Part, t.Differences, t.Below, t.Method, t.Format, t.Key, t.State, t.Recognised, t.Locations})
	}
	d, err := json.Marshal(digests)
	if err != nil {
		return fmt.Errorf("encoding outputs: %w", err)
	}
	sigs, err := json.Marshal(signatures)
	if err != nil {
		return fmt.Errorf("encoding outputs: %w", err)
	}
	tags := []string{}
	for _, m := range s.moves {
		if m.done {
			tags = append(tags, m.name()+"@"+string(m.digest))
		}
	}
	moved, err := json.Marshal(tags)
	if err != nil {
		return fmt.Errorf("encoding outputs: %w", err)
	}
	omitted, err := s.CI.Outputs([]ci.Output{
		{Name: "request-id", Value: s.request.ID}, {Name: "state", Value: string(s.request.State)},
		{Name: "delivered", Value: strconv.FormatBool(delivered(s.request) > 0)},
		{Name: "digests", Value: string(d)}, {Name: "tags", Value: string(moved)}, {Name: "signatures", Value: string(sigs)},
	})
	if len(omitted) > 0 {
		s.CI.Print(fmt.Sprintf("warning: no room for the outputs %s; `result-file` has everything\n", strings.Join(omitted, ", ")))
	}
	return err
}

func (s *step) writeResult(res result) error {
	if s.ResultFile == "" {
		return nil
	}
	raw, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding: %w", err)
	}
	return os.WriteFile(s.ResultFile, []byte(s.CI.Redact(string(raw))+"\n"), 0o644)
}
