package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// MaxEvent bounds one leaf. C2SP tlog-tiles allows 65535 bytes; a quarter of
	// that holds every event there is and keeps an entry bundle at 4 MiB.
	MaxEvent = 16 << 10
	// MaxAttr bounds a value that is one word, MaxList one that is a list.
	MaxAttr = 512
	MaxList = 8 << 10
)

// Kinds of events. The comment of each says what it records; kindTable says
// which attributes it carries.
const (
	ServiceStarted   = "service.started"          // a service opened this log
	ConfigLoaded     = "config.loaded"            // policies and key scopes that decide from here on
	ConfigRefused    = "config.refused"           // policies on disk that could not be loaded: the old ones decide on
	RequestSubmitted = "request.submitted"        // who asked, from which commit, for what
	RequestAttached  = "request.attached"         // a later attempt of its run asked for the same
	RequestDecided   = "request.decided"          // policy allowed it, or asks for approval
	RequestDenied    = "request.denied"           // the names of the rules that refused it
	RequestSigning   = "request.signing"          // rechecked; Tasks may ask for keys from here on
	CancelRequested  = "request.cancel_requested" // the run withdrew it while Tasks were worked on
	RequestAsked     = "request.asked"            // people were asked; a new round voids the codes of those before
	RequestReminded  = "request.reminded"         // the same people, once more
	RequestApproved  = "request.approved"         // a person approved this basis
	RequestDisagreed = "request.disagreed"        // a person denied: the request ends, or the person's approval does not count any more
	CommandRefused   = "request.command_refused"  // a person's command that does not count
	BreakGlass       = "request.break_glass"      // beside request.approved: the alarm that somebody goes around the quorum
	RequestCompleted = "request.completed"
	RequestFailed    = "request.failed"
	RequestCanceled  = "request.canceled"
	RequestExpired   = "request.expired"
	TaskPrepared     = "task.prepared"   // the exact bytes to be signed, by digest
	KeyAttempt       = "key.attempt"     // committed before the key is asked
	TaskSigned       = "task.signed"     // the one envelope of the intent
	TaskReleased     = "task.released"   // the envelope was given to the job, which publishes it
	TaskDelivered    = "task.delivered"  // the job says that it published there; the service cannot read it
	TaskPublished    = "task.published"  // read back and verified where it says
	TaskRecognised   = "task.recognised" // an equal signature was already there
	TaskFailed       = "task.failed"
	TaskRequeued     = "task.requeued"      // an intent that was not attempted, or stale bytes
	TaskStaleBase    = "task.stale_base"    // the same envelope is attached again
	TokenRefused     = "token.refused"      // a verified token that may not do what it asked
	TamperDetected   = "tamper.detected"    // a row is not what this service wrote
	CheckpointRefuse = "checkpoint.refused" // the log shrank or forked against a kept checkpoint
)

// Event is one entry of the audit log. Attrs holds ids, digests, repositories
// and tags in their own grammar and hashes of everything else: no token, no
// secret, no free text of strangers.
type Event struct {
	Time    time.Time
	Kind    string
	Request string // request id, where the kind is about one
	Task    string // REQUEST.N, where the kind is about one
	Attrs   map[string]string
}

// wire is the canonical form: this order of fields, map keys sorted, no space.
type wire struct {
	Time    time.Time         `json:"time"`
	Kind    string            `json:"kind"`
	Request string            `json:"request,omitempty"`
	Task    string            `json:"task,omitempty"`
	Attrs   map[string]string `json:"attrs,omitempty"`
}

// Validate reports whether e may enter the log: a known kind, its subject, its
// required attributes, no attribute that the kind does not have, and every
// value in its grammar.
func (e Event) Validate() error {
	k, ok := kindTable[e.Kind]
	if !ok {
		return refuse("unknown kind of event", "one of the kinds of this version", e.Kind, "verify a log of a newer service with a sealwright of the same version")
	}
	if e.Time.IsZero() || e.Time.Year() < 2000 || e.Time.Year() > 9999 {
		return refuse(e.Kind+" has no usable time", "a time between the years 2000 and 9999", e.Time.Format(time.RFC3339), "")
	}
	if err := k.subject(e); err != nil {
		return err
	}
	for _, name := range k.required {
		if _, ok := e.Attrs[name]; !ok {
			return refuse(e.Kind+" lacks an attribute", name, "", "")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Attrs)) {
		if !slices.Contains(k.required, name) && !slices.Contains(k.optional, name) {
			return refuse(e.Kind+" has no such attribute", strings.Join(slices.Concat(k.required, k.optional), ", "), name, "")
		}
		if !fits(name, e.Attrs[name]) {
			return refuse(e.Kind+": attribute "+name+" is not in its grammar", "its grammar, or sha256: and 64 hex digits", e.Attrs[name], "")
		}
	}
	return nil
}

// Marshal returns the canonical encoding of e, which is the data of its leaf.
// The time is written in UTC. It fails where Validate fails, and above MaxEvent.
func (e Event) Marshal() ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	w := wire(e)
	w.Time = e.Time.UTC()
	raw, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encoding event: %w", err)
	}
	if len(raw) > MaxEvent {
		return nil, refuse("event too large", fmt.Sprintf("at most %d bytes", MaxEvent), fmt.Sprintf("%d bytes", len(raw)), "")
	}
	return raw, nil
}

// ParseEvent decodes the data of a leaf. It accepts exactly what Marshal
// writes: other spacing, order, spelling, unknown or repeated names are refused,
// so that one event has one leaf hash.
func ParseEvent(leaf []byte) (Event, error) {
	if len(leaf) > MaxEvent {
		return Event{}, refuse("event too large", fmt.Sprintf("at most %d bytes", MaxEvent), fmt.Sprintf("%d bytes", len(leaf)), "")
	}
	var w wire
	d := json.NewDecoder(bytes.NewReader(leaf))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return Event{}, &signing.Error{Code: signing.Invalid, Message: "not an event", Expected: "an event as canonical JSON", Found: quote(leaf), Err: err}
	}
	e := Event(w)
	again, err := e.Marshal()
	if err != nil {
		return Event{}, err
	}
	if !bytes.Equal(again, leaf) {
		return Event{}, refuse("an event that is not in canonical form", string(again), string(leaf), "")
	}
	return e, nil
}

// String returns e on one line, for people: time, kind, subject and attributes.
func (e Event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", e.Time.UTC().Format(time.RFC3339), e.Kind)
	switch {
	case e.Task != "":
		fmt.Fprintf(&b, " %s", e.Task)
	case e.Request != "":
		fmt.Fprintf(&b, " %s", e.Request)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Attrs)) {
		fmt.Fprintf(&b, " %s=%s", name, e.Attrs[name])
	}
	return b.String()
}

// refuse is a refusal of the log's content. Found is quoted and clipped, since
// it may come from whoever wrote the export.
func refuse(message, expected, found, fix string) *signing.Error {
	e := &signing.Error{Code: signing.Invalid, Message: message, Expected: expected, Fix: fix}
	if len(expected) > maxQuote {
		e.Expected = quote([]byte(expected))
	}
	if found != "" {
		e.Found = quote([]byte(found))
	}
	return e
}

// maxQuote is how much of an untrusted text an error repeats: enough to
// recognise an event by.
const maxQuote = 400

// quote makes untrusted bytes printable on one line of a terminal.
func quote(b []byte) string {
	if len(b) > maxQuote {
		return fmt.Sprintf("%+q...", b[:maxQuote])
	}
	return fmt.Sprintf("%+q", b)
}
