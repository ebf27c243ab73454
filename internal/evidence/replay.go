package evidence

import (
	"fmt"
	"strconv"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

// life is a Request as its events tell it so far.
type life struct {
	e     *Evidence
	tasks map[string]*taskLife

	state  signing.RequestState
	cancel bool
	// said is how many of the Request's approvals and denials were told so far.
	said int
	// last is the index of the event whose decision is the one in the evidence.
	last   int
	alarms []string
}

type taskLife struct {
	task     *signing.Task
	state    signing.TaskState
	attempts int
	// asked says that the present intent was shown to the key, released that the
	// envelope was given to the job.
	asked, released bool
	// Of the present intent and envelope, as the events name them.
	intent, prepared, changes, envelope, signed string
}

// replay goes through the events the way the Request went, by the tables of
// package signing, and compares what each says with the evidence. Its end must be
// the state of the evidence.
func replay(e *Evidence, events []audit.Event) (alarms []string, err error) {
	l := &life{e: e, tasks: map[string]*taskLife{}, last: -1}
	for i := range e.Tasks {
		l.tasks[e.Tasks[i].ID] = &taskLife{task: &e.Tasks[i], state: signing.Queued}
	}
	for i, ev := range events {
		if ev.Kind == audit.RequestDecided || ev.Kind == audit.RequestDenied {
			l.last = i
		}
	}
	for i, ev := range events {
		switch {
		case ev.Kind == audit.TamperDetected:
			l.alarms = append(l.alarms, ev.String())
		case ev.Task != "":
			err = l.taskEvent(ev)
		default:
			err = l.requestEvent(i, ev)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %d, %s: %w", e.Events[i].Index, ev.Kind, err)
		}
	}
	return l.alarms, l.end()
}

// become moves the Request to a state if the tables allow it.
func (l *life) become(to signing.RequestState) error {
	if !l.state.CanBecome(to) {
		return refuse("an event that this request cannot have had", "one that may follow "+string(l.state), string(to))
	}
	l.state = to
	return nil
}

func (l *life) requestEvent(i int, ev audit.Event) error {
	r := &l.e.Request
	if (ev.Kind == audit.RequestSubmitted) != (i == 0) {
		return refuse("a life begins with its submission, once", audit.RequestSubmitted, ev.Kind)
	}
	switch ev.Kind {
	case audit.RequestSubmitted:
		l.state = signing.Pending
		return agree(ev, audit.Submitted(r), "submission")
	case audit.RequestDecided:
		return l.decided(i, ev)
	case audit.RequestSigning:
		if err := l.approved(ev.Time); err != nil {
			return err
		}
		if err := l.become(signing.Signing); err != nil {
			return err
		}
		return agree(ev, map[string]string{"basis": string(r.Decision.BasisDigest)}, "basis")
	case audit.RequestAsked, audit.RequestReminded, audit.RequestApproved, audit.RequestDisagreed, audit.BreakGlass, audit.CommandRefused:
		return l.people(ev)
	case audit.RequestAttached:
		// Of another attempt, in whatever state the Request is.
		return sameRun(ev, audit.Submitted(r))
	case audit.CancelRequested:
		l.cancel = true
		if l.state != signing.Signing {
			return refuse("a cancel between states", string(signing.Signing), string(l.state))
		}
		return nil
	}
	to, ok := map[string]signing.RequestState{
		audit.RequestDenied: signing.RequestDenied, audit.RequestCompleted: signing.Completed, audit.RequestFailed: signing.Failed,
		audit.RequestCanceled: signing.Canceled, audit.RequestExpired: signing.RequestExpired,
	}[ev.Kind]
	if !ok {
		return unknown(ev)
	}
	return l.over(i, ev, to)
}

// sameRun reports whether a later attempt that got the Request is of the run, the
// repository and the commit that asked for it.
func sameRun(ev audit.Event, submitted map[string]string) error {
	for _, name := range []string{"issuer", "forge", "source_id", "run", "commit"} {
		if ev.Attrs[name] == "" || ev.Attrs[name] != submitted[name] {
			return refuse("a request was given to another run", name+" "+submitted[name], ev.Attrs[name])
		}
	}
	return nil
}

func unknown(ev audit.Event) error {
	return &signing.Error{Code: signing.Invalid, Message: "an event that this version cannot follow", Found: ev.Kind, Fix: "verify with a sealwright of the version of the service"}
}

func (l *life) decided(i int, ev audit.Event) error {
	r := &l.e.Request
	if r.Decision == nil || r.Decision.BasisDigest == "" {
		return refuse("the decision is missing in the evidence", ev.Attrs["basis"], "")
	}
	want := audit.Decided(r, 0)
	want["generation"] = ev.Attrs["generation"]
	must := []string{"decision"}
	if i != l.last {
		// A recheck denied it later, and only that decision is still there.
		want["effect"], want["decision"], must = ev.Attrs["effect"], ev.Attrs["decision"], nil
	}
	if err := agree(ev, want, must...); err != nil {
		return err
	}
	switch ev.Attrs["effect"] {
	case string(signing.NeedsApproval):
		if r.Decision.Approvals == nil {
			return refuse("nobody is named whose approval is needed", "a rule for approvals", "none")
		}
		return l.become(signing.AwaitingApproval)
	case string(signing.Allow):
	default:
		return unknown(ev)
	}
	if r.Decision.Approvals != nil && i == l.last {
		return refuse("allowed without the approvals that it demands", string(signing.NeedsApproval), ev.Attrs["effect"])
	}
	if len(l.e.Tasks) == 0 {
		return refuse("the tasks are missing in the evidence", "one task at least", "")
	}
	return l.become(signing.Ready)
}

// over handles the events that end a Request.
func (l *life) over(i int, ev audit.Event, to signing.RequestState) error {
	r := &l.e.Request
	if err := l.become(to); err != nil {
		return err
	}
	if !r.Ended.Equal(ev.Time) {
		return refuse("the request ended at another time", ev.Time.String(), r.Ended.String())
	}
	want, must := map[string]string{}, []string{}
	switch to {
	case signing.RequestDenied:
		if r.Decision == nil {
			return refuse("the decision is missing in the evidence", ev.Attrs["decision"], "")
		}
		want, must = audit.Denied(r, 0), []string{"decision"}
		want["generation"] = ev.Attrs["generation"]
	case signing.Canceled:
		// Who canceled is told by the event alone.
		for name, value := range ev.Attrs {
			want[name] = value
		}
		delete(want, "code")
		delete(want, "failure")
	}
	if audit.Failure(want, r.Failure); r.Failure != nil {
		must = append(must, "failure")
	}
	return agree(ev, want, must...)
}

// agree checks that each attribute of an event is what the evidence gives, and
// that those in must are there.
func agree(ev audit.Event, want map[string]string, must ...string) error {
	for name, value := range ev.Attrs {
		if want[name] != value {
			return refuse("the event and the evidence disagree about "+name, value, want[name])
		}
	}
	for _, name := range must {
		if ev.Attrs[name] == "" {
			return refuse("the event does not tie the evidence to the log", "the attribute "+name, "none: it was logged by an older version")
		}
	}
	return nil
}

func (l *life) taskEvent(ev audit.Event) error {
	t, ok := l.tasks[ev.Task]
	if !ok {
		return refuse("a task that is not in the evidence", "", ev.Task)
	}
	if l.state != signing.Signing {
		return refuse("work on a task before or after the signing of its request", string(signing.Signing), string(l.state))
	}
	switch ev.Kind {
	case audit.TaskPrepared:
		return t.prepare(ev)
	case audit.KeyAttempt:
		return t.attempt(ev)
	case audit.TaskSigned:
		return t.sign(ev)
	case audit.TaskRequeued:
		if t.asked && t.state == signing.Prepared {
			return refuse("bytes that the key was asked to sign are not thrown away", audit.TaskSigned, ev.Kind)
		}
		t.intent, t.prepared, t.changes, t.envelope, t.signed, t.asked = "", "", "", "", "", false
		return t.become(signing.Queued)
	case audit.TaskStaleBase:
		if t.state != signing.Signed {
			return refuse("a stale base of what is not signed", string(signing.Signed), string(t.state))
		}
		return nil
	case audit.TaskReleased:
		return t.release(ev, l.e.Request.Publish)
	case audit.TaskDelivered:
		if !t.released {
			return refuse("delivered by a job that was never given the signature", audit.TaskReleased, ev.Kind)
		}
		if err := t.become(signing.Delivered); err != nil {
			return err
		}
		return agree(ev, audit.Located(t.task), "record")
	case audit.TaskPublished, audit.TaskRecognised:
		if t.task.Recognised != (ev.Kind == audit.TaskRecognised) || t.task.Recognised != (t.state == signing.Queued) {
			return refuse("a signature is recognised or made, not both", ev.Kind, fmt.Sprintf("recognised: %t", t.task.Recognised))
		}
		if err := t.become(signing.Published); err != nil {
			return err
		}
		return agree(ev, audit.Located(t.task), "record")
	case audit.TaskFailed:
		if err := t.become(signing.TaskFailed); err != nil {
			return err
		}
		return agree(ev, audit.Failed(t.task), "code", "failure")
	}
	return unknown(ev)
}

func (t *taskLife) become(to signing.TaskState) error {
	if !t.state.CanBecome(to) {
		return refuse("an event that this task cannot have had", "one that may follow "+string(t.state), string(to))
	}
	t.state = to
	return nil
}

func (t *taskLife) prepare(ev audit.Event) error {
	if err := t.become(signing.Prepared); err != nil {
		return err
	}
	// Of an intent that was thrown away only the event is left.
	t.intent, t.prepared, t.changes, t.asked = ev.Attrs["intent"], ev.Attrs["record"], ev.Attrs["changes"], false
	said := *t.task
	said.Intent = &signing.Intent{}
	want := audit.Prepared(&said)
	want["intent"], want["record"], want["changes"] = t.intent, t.prepared, t.changes
	return agree(ev, want, "record")
}

func (t *taskLife) attempt(ev audit.Event) error {
	if t.state != signing.Prepared {
		return refuse("the key was asked for a task without stored bytes", string(signing.Prepared), string(t.state))
	}
	t.attempts, t.asked = t.attempts+1, true
	said := *t.task
	said.Intent = &signing.Intent{}
	want := audit.Attempted(&said, t.attempts)
	want["intent"] = t.intent
	return agree(ev, want, "attempt", "intent", "key_version")
}

func (t *taskLife) sign(ev audit.Event) error {
	if t.state != signing.Prepared || !t.asked {
		return refuse("a signature without an attempt of the key", audit.KeyAttempt, "none for these bytes")
	}
	if err := t.become(signing.Signed); err != nil {
		return err
	}
	t.envelope, t.signed = ev.Attrs["envelope"], ev.Attrs["record"]
	said := *t.task
	said.Intent, said.Envelope = &signing.Intent{}, &signing.Envelope{}
	want := audit.Signed(&said)
	want["intent"], want["envelope"], want["record"] = t.intent, t.envelope, t.signed
	return agree(ev, want, "intent", "record")
}

// release is the envelope on its way to a job that publishes it.
func (t *taskLife) release(ev audit.Event, publish signing.Publisher) error {
	if t.state != signing.Signed || t.released || publish != signing.ByClient {
		return refuse("a signature is given to the job once, if the job publishes", string(signing.Signed), string(t.state))
	}
	t.released = true
	said := *t.task
	said.Envelope = &signing.Envelope{}
	want := audit.Released(&said)
	want["envelope"], want["record"] = t.envelope, t.signed
	return agree(ev, want, "record")
}

// end compares where the events led with what the evidence says.
func (l *life) end() error {
	r := &l.e.Request
	if l.state != r.State {
		return refuse("the events lead to another state of the request", string(l.state), string(r.State))
	}
	if l.cancel != r.CancelRequested {
		return refuse("the events and the request disagree about a cancel", strconv.FormatBool(l.cancel), strconv.FormatBool(r.CancelRequested))
	}
	if l.said != len(r.Approvals) {
		return refuse("an approval that no event proves", fmt.Sprint(l.said), fmt.Sprint(len(r.Approvals)))
	}
	if r.Decision != nil && l.last < 0 {
		return refuse("a decision that no event tells", "", string(r.Decision.Effect))
	}
	if (r.Failure == nil) != (r.State == signing.Completed) {
		return refuse("a request ends with a reason unless it is completed", string(r.State), "the contrary")
	}
	failed, done := 0, 0
	for i := range l.e.Tasks {
		if err := l.tasks[l.e.Tasks[i].ID].end(); err != nil {
			return fmt.Errorf("task %s: %w", l.e.Tasks[i].ID, err)
		}
		if s := l.e.Tasks[i].State; s == signing.TaskFailed {
			failed++
		} else if s.Done() {
			done++
		}
	}
	if n := len(l.e.Tasks); r.State == signing.Completed && done != n || r.State == signing.Failed && (failed == 0 || failed+done != n) {
		return refuse("the tasks do not bring the request to its state", string(r.State), fmt.Sprintf("%d tasks, %d published, %d failed", n, done, failed))
	}
	return nil
}

func (t *taskLife) end() error {
	task := t.task
	if t.state != task.State {
		return refuse("the events lead to another state", string(t.state), string(task.State))
	}
	if t.released != task.Released {
		return refuse("the events and the task disagree about who publishes", strconv.FormatBool(t.released), strconv.FormatBool(task.Released))
	}
	if t.attempts != task.Attempts {
		return refuse("another number of key attempts than events", fmt.Sprint(t.attempts), fmt.Sprint(task.Attempts))
	}
	// What a Task has by now is in no record before: take it off again.
	said := *task
	if said.Locations = nil; task.Envelope != nil || t.envelope != "" {
		if task.Envelope == nil || task.Intent == nil || string(signing.DigestOf(task.Envelope.Bytes)) != t.envelope || string(said.RecordDigest()) != t.signed {
			return refuse("the envelope is not the one that was logged", t.envelope, "another, or none")
		}
	}
	if said.Envelope = nil; task.Intent != nil || t.intent != "" {
		if task.Intent == nil || string(signing.DigestOf(task.Intent.Bytes)) != t.intent || string(said.RecordDigest()) != t.prepared {
			return refuse("the bytes that were signed are not those that were logged", t.intent, "others, or none")
		}
		if told := audit.Prepared(task)["changes"]; told != t.changes {
			return refuse("the bytes that were signed make other changes than those that were logged", t.changes, told)
		}
	}
	if task.State != signing.Published && task.State != signing.Delivered && (len(task.Locations) > 0 || task.Recognised) {
		return refuse("a location that no event tells", "none", fmt.Sprint(len(task.Locations)))
	}
	if task.State == signing.TaskFailed != (task.Failure != nil) {
		return refuse("a task fails with a reason, and only then has one", "", "")
	}
	return nil
}
