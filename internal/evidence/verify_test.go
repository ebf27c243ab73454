package evidence_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/evidence"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// sample is an evidence file and the key of its log.
type sample struct {
	raw    []byte
	signer *audit.Signer
	// known is a checkpoint of the same log, older than the file's.
	known []byte
}

func (s sample) options() evidence.Options {
	return evidence.Options{LogKey: s.signer.Verifier().String(), Envelope: testenv.CheckEnvelope}
}

// content is what the file says, for tests that change it.
func (s sample) content(t testing.TB) *evidence.Evidence {
	t.Helper()
	r, err := evidence.Verify(s.raw, s.options())
	ok(t, err)
	return r.Evidence
}

// resigned is what somebody who has the log's key can make of e.
func (s sample) resigned(t testing.TB, e *evidence.Evidence) []byte {
	t.Helper()
	raw, err := evidence.Write(e, s.signer.SignStatement)
	ok(t, err)
	return raw
}

// signed returns the evidence of a Request for one image, which has everything
// that a file can have.
func signed(t testing.TB) sample {
	t.Helper()
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	a := e.ImageIn("payments/web", "v1.2.3", "one")
	a.Tag = "v1.2.3"
	ok(t, s.Workflow.Sequence(context.Background()))
	known := checkpoint(s)
	size := parse(t, e.LogSigner(), known).Size
	id, capability := submit(t, e, s, devworld.NewGitHubJob(), a)
	return sample{raw: take(t, s, id, capability, fmt.Sprintf("?since=%d", size)), signer: e.LogSigner(), known: known}
}

func checkpoint(s *testenv.Service) []byte { return s.Get("/log/checkpoint", "").Body }

func parse(t testing.TB, s *audit.Signer, note []byte) audit.Checkpoint {
	t.Helper()
	c, err := audit.ParseCheckpoint(note, s.Verifier())
	ok(t, err)
	return c
}

func refused(t testing.TB, what string, raw []byte, o evidence.Options) {
	t.Helper()
	if _, err := evidence.Verify(raw, o); !errors.Is(err, signing.Invalid) {
		t.Errorf("%s: %v, want a refusal", what, err)
	}
}

// TestEveryChangedByteOfAFileIsNoticed tries each byte with three other values,
// and each length, and a byte more.
func TestEveryChangedByteOfAFileIsNoticed(t *testing.T) {
	s := signed(t)
	o := s.options()
	_, err := evidence.Verify(s.raw, o)
	ok(t, err)
	t.Logf("%d bytes", len(s.raw))
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			raw := bytes.Clone(s.raw)
			for i := part; i < len(raw); i += 4 {
				for _, flip := range []byte{0x01, 0x20, 0xff} {
					raw[i] ^= flip
					if _, err := evidence.Verify(raw, o); err == nil {
						t.Errorf("byte %d of %d, %q for %q: verified", i, len(raw), raw[i], s.raw[i])
					}
					raw[i] = s.raw[i]
				}
				if _, err := evidence.Verify(raw[:i], o); err == nil {
					t.Errorf("the first %d bytes of %d: verified", i, len(raw))
				}
			}
		})
	}
	wg.Wait()
	for _, more := range []string{"\n", " ", "{}", "\x00"} {
		refused(t, fmt.Sprintf("%q after the end", more), append(bytes.Clone(s.raw), more...), o)
		refused(t, fmt.Sprintf("%q before the beginning", more), append([]byte(more), s.raw...), o)
	}
}

// TestEveryStatementIsTiedToTheLog has the log's own key sign a file in which one
// value was changed, for each value that there is: the events must contradict it.
func TestEveryStatementIsTiedToTheLog(t *testing.T) {
	s := signed(t)
	// The proof from an older log is held against a checkpoint that the verifier has.
	o := s.options()
	o.Known = [][]byte{s.known}
	if n := everyStatement(t, s, o); n < 500 {
		t.Errorf("only %d changes were tried", n)
	}
}

// everyStatement changes each value of the evidence, one at a time. It returns
// how many changes there were.
func everyStatement(t *testing.T, s sample, o evidence.Options) (n int) {
	t.Helper()
	e := s.content(t)
	leaves(reflect.ValueOf(e).Elem(), "evidence", func(path string, v reflect.Value) {
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		for _, change := range changes(v) {
			v.Set(change)
			raw := s.resigned(t, e)
			v.Set(old)
			if bytes.Equal(raw, s.raw) {
				continue // it does not say anything else
			}
			n++
			_, err := evidence.Verify(raw, o)
			if chain, ok := change.Interface().([]string); ok && strings.HasSuffix(path, ".Chain") && old.Len() > 0 && len(chain) > 0 && chain[0] == old.Index(0).String() {
				continue // certificates above the leaf come along and say nothing
			}
			if !errors.Is(err, signing.Invalid) {
				t.Errorf("%s: %v for %v: %v", path, change, old, err)
			}
		}
	})
	return n
}

// leaves calls each for every value below v that can be changed.
func leaves(v reflect.Value, path string, each func(string, reflect.Value)) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time](), v.Type() == reflect.TypeFor[json.RawMessage](), v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		each(path, v)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Tag.Get("json") != "-" {
				leaves(v.Field(i), path+"."+f.Name, each)
			}
		}
	case v.Kind() == reflect.Pointer && !v.IsNil():
		leaves(v.Elem(), path, each)
		each(path, v)
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			leaves(v.Index(i), fmt.Sprintf("%s[%d]", path, i), each)
		}
		each(path, v)
	default:
		each(path, v)
	}
}

// changes returns other values for v.
func changes(v reflect.Value) []reflect.Value {
	of := func(x any) reflect.Value { return reflect.ValueOf(x).Convert(v.Type()) }
	switch x := v.Interface().(type) {
	case time.Time:
		return []reflect.Value{of(x.Add(time.Nanosecond)), of(time.Time{})}
	case json.RawMessage:
		// Another event of the same form.
		return []reflect.Value{of(json.RawMessage(reDigit.ReplaceAll(x, []byte(":0${1}"))))}
	case map[string]string:
		return []reflect.Value{of(map[string]string{"annotations": "sourceRepositoryURI"})}
	}
	switch v.Kind() {
	case reflect.String:
		return []reflect.Value{of(v.String() + "x"), of("")}
	case reflect.Bool:
		return []reflect.Value{of(!v.Bool())}
	case reflect.Int, reflect.Int64:
		return []reflect.Value{of(v.Int() + 1)}
	case reflect.Uint, reflect.Uint64:
		return []reflect.Value{of(v.Uint() + 1)}
	case reflect.Pointer:
		if v.IsNil() {
			return []reflect.Value{reflect.New(v.Type().Elem())}
		}
		return []reflect.Value{reflect.Zero(v.Type())}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			longer := append(slices.Clone(v.Bytes()), 'x')
			other := slices.Clone(longer)
			other[0] ^= 1
			return []reflect.Value{of(longer), of(other[:v.Len()])}
		}
		out := []reflect.Value{reflect.Append(v.Slice3(0, v.Len(), v.Len()), reflect.Zero(v.Type().Elem()))}
		if n := v.Len(); n > 0 {
			out = append(out, v.Slice(1, n), v.Slice(0, n-1), reflect.AppendSlice(v.Slice3(0, n, n), v.Slice(n-1, n)))
		}
		if v.Len() > 1 {
			swapped := reflect.MakeSlice(v.Type(), 0, v.Len())
			swapped = reflect.AppendSlice(reflect.Append(swapped, v.Index(1), v.Index(0)), v.Slice(2, v.Len()))
			out = append(out, swapped)
		}
		return out
	}
	panic("a kind of value that no test changes: " + v.Type().String())
}

var reDigit = regexp.MustCompile(`:([0-9][0-9])`) // in the time of an event

func TestEvidenceOfAnotherLogIsRefused(t *testing.T) {
	s := signed(t)
	private, public, err := audit.GenerateKey(rand.NewChaCha8([32]byte{9}), s.signer.Verifier().Origin())
	ok(t, err)
	thief, err := audit.NewSigner(private)
	ok(t, err)
	e := s.content(t)
	mine := s.options()
	refused(t, "signed by another key of the same name", sample{signer: thief}.resigned(t, e), mine)
	theirs := mine
	theirs.LogKey = public
	refused(t, "checkpoint of the honest log under a forged signature", sample{signer: thief}.resigned(t, e), theirs)
	root := make([]byte, audit.HashSize)
	note, err := thief.SignCheckpoint(100, root)
	ok(t, err)
	e.Checkpoint = string(note)
	refused(t, "forged checkpoint under the honest signature", s.resigned(t, e), mine)
	note, err = s.signer.SignCheckpoint(100, root)
	ok(t, err)
	e.Checkpoint = string(note)
	refused(t, "a checkpoint of the log's key that the events are not in", s.resigned(t, e), mine)
}

// TestLogsKeyAloneCannotMakeUpALife has the log's key sign evidence, checkpoint
// and all, for events that were never those of an honest service.
func TestLogsKeyAloneCannotMakeUpALife(t *testing.T) {
	s := signed(t)
	for what, change := range map[string]func(events []audit.Event) []audit.Event{
		"no submission":                     without(audit.RequestSubmitted),
		"two submissions":                   twice(audit.RequestSubmitted),
		"no decision":                       without(audit.RequestDecided),
		"two decisions":                     twice(audit.RequestDecided),
		"signing that was not announced":    without(audit.RequestSigning),
		"bytes that were not stored":        without(audit.TaskPrepared),
		"a key that was not announced":      without(audit.KeyAttempt),
		"a second attempt":                  twice(audit.KeyAttempt),
		"no signature":                      without(audit.TaskSigned),
		"two signatures":                    twice(audit.TaskSigned),
		"nothing published":                 without(audit.TaskPublished),
		"no end":                            without(audit.RequestCompleted),
		"two ends":                          twice(audit.RequestCompleted),
		"an end before the signature":       swapped(audit.TaskPublished, audit.RequestCompleted),
		"the key before the bytes":          swapped(audit.TaskPrepared, audit.KeyAttempt),
		"a cancel that nobody knows of":     added(audit.CancelRequested, 4),
		"bytes thrown away after the key":   after(audit.KeyAttempt, audit.TaskRequeued, map[string]string{"why": "unattempted"}),
		"a stale base before the signature": after(audit.KeyAttempt, audit.TaskStaleBase, nil),
		"an expiry":                         added(audit.RequestExpired, 3),
		"a decision against it":             edited(audit.RequestDecided, "effect", "deny"),
		"an older version":                  edited(audit.RequestSubmitted, "submission", ""),
		"a decision without its digest":     edited(audit.RequestDecided, "decision", ""),
		"bytes without their record":        edited(audit.TaskPrepared, "record", ""),
		"a signature without its record":    edited(audit.TaskSigned, "record", ""),
		"a place without its record":        edited(audit.TaskPublished, "record", ""),
		"another key version":               edited(audit.KeyAttempt, "key_version", strings.Repeat("a", 64)),
		"other bytes shown to the key":      edited(audit.KeyAttempt, "intent", audit.Hashed("x")),
		"another envelope":                  edited(audit.TaskSigned, "envelope", audit.Hashed("x")),
		"another record":                    edited(audit.TaskSigned, "record", audit.Hashed("x")),
		"another commit":                    edited(audit.RequestSubmitted, "commit", strings.Repeat("b", 40)),
		"another basis at signing":          edited(audit.RequestSigning, "basis", audit.Hashed("x")),
		"the wrong number of an attempt":    edited(audit.KeyAttempt, "attempt", "2"),
		"nothing at all":                    func([]audit.Event) []audit.Event { return nil },
	} {
		t.Run(what, func(t *testing.T) {
			e := s.content(t)
			logged(t, s.signer, e, change)
			refused(t, what, s.resigned(t, e), s.options())
		})
	}
	t.Run("what was true", func(t *testing.T) {
		e := s.content(t)
		logged(t, s.signer, e, func(events []audit.Event) []audit.Event { return events })
		_, err := evidence.Verify(s.resigned(t, e), s.options())
		ok(t, err)
	})
}

// logged replaces the log of e by one that holds its events after change.
func logged(t testing.TB, signer *audit.Signer, e *evidence.Evidence, change func([]audit.Event) []audit.Event) {
	t.Helper()
	var events []audit.Event
	for _, entry := range e.Events {
		ev, err := audit.ParseEvent(entry.Event)
		ok(t, err)
		events = append(events, ev)
	}
	var data [][]byte
	e.Events = nil
	for i, ev := range change(events) {
		leaf, err := ev.Marshal()
		ok(t, err)
		data = append(data, leaf)
		e.Events = append(e.Events, evidence.Entry{Index: uint64(i), Event: leaf})
	}
	nodes := map[audit.NodeID][]byte{}
	added, root, err := audit.Extend(0, nil, data)
	ok(t, err)
	for _, n := range added {
		nodes[n.ID] = n.Hash
	}
	for i := range e.Events {
		e.Events[i].Path, err = audit.InclusionProof(context.Background(), func(_ context.Context, ids []audit.NodeID) (out [][]byte, err error) {
			for _, id := range ids {
				out = append(out, nodes[id])
			}
			return out, nil
		}, uint64(i), uint64(len(data)))
		ok(t, err)
	}
	note, err := signer.SignCheckpoint(uint64(len(data)), root)
	ok(t, err)
	e.Checkpoint, e.Since = string(note), nil
}

type edit = func([]audit.Event) []audit.Event

func at(events []audit.Event, kind string) int {
	return slices.IndexFunc(events, func(e audit.Event) bool { return e.Kind == kind })
}

func without(kind string) edit {
	return func(events []audit.Event) []audit.Event { i := at(events, kind); return slices.Delete(events, i, i+1) }
}

func twice(kind string) edit {
	return func(events []audit.Event) []audit.Event {
		i := at(events, kind)
		return slices.Insert(events, i, events[i])
	}
}

func swapped(a, b string) edit {
	return func(events []audit.Event) []audit.Event {
		i, j := at(events, a), at(events, b)
		events[i], events[j] = events[j], events[i]
		return events
	}
}

func added(kind string, i int) edit {
	return func(events []audit.Event) []audit.Event {
		return slices.Insert(events, i, audit.Event{Time: events[i].Time, Kind: kind, Request: events[i].Request})
	}
}

// after adds an event about the same task after the first of a kind.
func after(kind, more string, attrs map[string]string) edit {
	return func(events []audit.Event) []audit.Event {
		i := at(events, kind)
		return slices.Insert(events, i+1, audit.Event{Time: events[i].Time, Kind: more, Request: events[i].Request, Task: events[i].Task, Attrs: attrs})
	}
}

// edited sets an attribute, or takes it out.
func edited(kind, name, value string) edit {
	return func(events []audit.Event) []audit.Event {
		attrs := events[at(events, kind)].Attrs
		if attrs[name] = value; value == "" {
			delete(attrs, name)
		}
		return events
	}
}

func TestProofsOfAnotherRequestAreRefused(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	one, capability := submit(t, e, s, devworld.NewGitHubJob(), e.Image("one"))
	first := sample{raw: take(t, s, one, capability, ""), signer: e.LogSigner()}
	two, capability := submitAs(t, e, s, "another", devworld.NewGitHubJob(), e.Image("two"))
	second := sample{raw: take(t, s, two, capability, ""), signer: e.LogSigner()}
	a, b := first.content(t), second.content(t)
	a.Events, a.Checkpoint = b.Events, b.Checkpoint
	refused(t, "another request's events", first.resigned(t, a), first.options())
	a = first.content(t)
	a.Checkpoint = b.Checkpoint
	refused(t, "another checkpoint", first.resigned(t, a), first.options())
	a = first.content(t)
	a.Tasks[0].Envelope = b.Tasks[0].Envelope
	refused(t, "another request's signature", first.resigned(t, a), first.options())
}

func TestKnownCheckpointIsContinuedOrContradicted(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	ok(t, s.Workflow.Sequence(t.Context()))
	old := checkpoint(s)
	id, capability := submit(t, e, s, devworld.NewGitHubJob(), e.Image("one"))
	raw := take(t, s, id, capability, "")
	same := checkpoint(s)
	o := evidence.Options{LogKey: e.LogSigner().Verifier().String(), Envelope: testenv.CheckEnvelope, Known: [][]byte{same}}
	r, err := evidence.Verify(raw, o)
	ok(t, err)
	if !r.Fresh {
		t.Error("a checkpoint of the same size proves nothing")
	}
	o.Known = [][]byte{old}
	refused(t, "an older checkpoint without a proof", raw, o)
	withProof := take(t, s, id, capability, fmt.Sprintf("?since=%d", parse(t, e.LogSigner(), old).Size))
	o.Known = [][]byte{same, old}
	_, err = evidence.Verify(withProof, o)
	ok(t, err)
	for what, size := range map[string]uint64{"of the same size": parse(t, e.LogSigner(), same).Size, "that is older": parse(t, e.LogSigner(), old).Size, "that is newer": 1000} {
		fork, err := e.LogSigner().SignCheckpoint(size, bytes.Repeat([]byte{7}, audit.HashSize))
		ok(t, err)
		o.Known = [][]byte{fork}
		refused(t, "a checkpoint "+what+" with another root", withProof, o)
	}
	o.Known = [][]byte{[]byte("sign.sealwright.test/log\n1\nAAAA\n\n— x AAAA\n")}
	refused(t, "a checkpoint that nobody signed", withProof, o)
	if a := s.Get("/v1/requests/"+id+"/evidence?since=1000", capability); a.Status != 409 {
		t.Errorf("a known log that is larger: %d %s", a.Status, a.Body)
	}
}
