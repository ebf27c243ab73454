// Package method is the seam between the signing cycle and the technologies
// that sign: what a method must be able to do, in steps that a crash between
// any two cannot bring apart.
//
// A method holds no key and calls none: Prepare says what is to be signed, the
// workflow asks the key, Assemble makes the envelope from the answer. A method
// keeps nothing between calls but answers that it gave (Memo): what a step needs
// comes from its arguments, because the process that made the intent may not be
// the one that publishes the envelope. The contract is tested for every method by
// package methodtest.
package method

import (
	"context"
	"errors"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// Target is what is signed, with what and for whom. All of it comes from the
// Request and the configuration, none of it from an intent or an envelope.
type Target struct {
	Artifact signing.Artifact
	Key      signing.KeyInfo
	Options  map[string]string // of the policy's step
	Origin   signing.Origin
	// Offline says that Prepare must not ask the registry, because the job
	// publishes what is signed: nothing is recognised. Artifact carries media type
	// and size.
	Offline bool
	// Part and Changes are set for a Collective method; Artifact is then a repository
	// alone.
	Part    string
	Changes []signing.Change
}

// Prepared is the outcome of Prepare. Exactly one of its fields is set.
type Prepared struct {
	// Intent is the exact bytes to be signed.
	Intent *signing.Intent
	// Recognised is where an equal signature by this key is already, verified.
	Recognised []signing.Location
}

// TrustItem is something that a verifier needs to have: a public key, a
// certificate, a trust policy.
type TrustItem struct {
	Name      string // a file name, "cosign.pub"
	MediaType string
	Bytes     []byte
}

// Info is what a method tells verifiers about a key. Snippets are ready-made
// pieces of configuration or commands by the name of the tool, in which IMAGE
// and the names of trust items stand for themselves.
type Info struct {
	Trust    []TrustItem
	Snippets map[string]string
}

var (
	// ErrStaleBase says that what the signature is added to has moved: another
	// writer replaced the tag, index or folder. The same envelope is published
	// again; no key is used.
	ErrStaleBase = errors.New("what the signature was added to has moved")
	// ErrStaleBytes says that the signed bytes themselves can no longer be
	// published, because they name a version that another has taken. The Task
	// starts anew. It is returned only where what is published has reached the
	// version of the bytes: a server that refuses them and goes on answering an
	// older one is another error.
	ErrStaleBytes = errors.New("the signed bytes are out of date")
)

// Method is one signing technology. Its methods may be called concurrently.
//
// Every error that the client may see is a *signing.Error. What cannot be
// reached is signing.Unavailable, what throttles signing.RateLimited; neither
// is ever taken for "there is no signature".
type Method interface {
	// Info returns what verifiers need to know of a key. It refuses, with
	// signing.Invalid, a key or an option that the method cannot use; whoever
	// loads a configuration calls it for each step. It does no I/O.
	Info(k signing.KeyInfo, options map[string]string) (Info, error)

	// Prepare reads what is published and returns the exact bytes to be signed,
	// or says that an equal signature by the key is there and verifies. It
	// changes nothing anywhere, and its Intent, with Created set to now, needs
	// nothing else to be assembled later.
	Prepare(ctx context.Context, t Target, now time.Time) (Prepared, error)

	// Inspect parses the bytes of an intent back, strictly, and returns what
	// they say. It trusts nothing: the intent may come from an altered database.
	// Bytes that the method itself would not have made are refused with
	// signing.Denied.
	Inspect(in signing.Intent) (signing.Statement, error)

	// Assemble makes the envelope of an intent from the raw signature of the
	// key. It verifies raw with the public key of t and refuses bytes that say
	// something else than t. The same arguments give the same envelope.
	Assemble(t Target, in signing.Intent, raw []byte) (signing.Envelope, error)

	// Publish puts the envelope where verifiers look, beside what is there. For
	// an equal envelope that is there already it changes nothing. It returns
	// ErrStaleBase or ErrStaleBytes where these apply. The caller holds the lease
	// on the digest.
	Publish(ctx context.Context, t Target, e signing.Envelope) ([]signing.Location, error)

	// Verify reads what is published the way verifiers do, and reports nil only
	// if exactly this envelope is there and the technology's own verification
	// accepts it. An envelope that is not there is ErrStaleBase.
	Verify(ctx context.Context, t Target, e signing.Envelope) ([]signing.Location, error)
}

// Collective is a Method that signs the tags of a repository together. Its Tasks
// are made for each repository and part. The caller of Prepare holds the lease on
// (Name of the method, repository) from Prepare until the envelope is published.
type Collective interface {
	Method

	// Parts returns the names of what a step with these options signs for each
	// repository, in order and never none. It refuses options as Info does.
	Parts(options map[string]string) ([]string, error)
}

// Attacher is a Method whose envelopes a job can publish itself: what is to be
// written is data, which registry.Attach writes without any signing code.
// Methods that do not publish to the image's registry are none.
type Attacher interface {
	Method

	// Attachment returns an envelope in the form in which a registry stores it.
	// It holds the envelope against the target, as Publish does, and does no I/O.
	// registry.Attach of it is what Publish does.
	Attachment(t Target, e signing.Envelope) (signing.Attachment, error)
}

// Checker is a Method, none that is an Attacher, whose envelopes can be verified
// without any network, by whoever has the record of a Task.
type Checker interface {
	Method

	// Check reports whether e is a signature by the key over what t says, as
	// Assemble makes it. It does no I/O.
	Check(t Target, e signing.Envelope) error
}

// Renewer is a Collective whose documents end, and are signed again before they do.
type Renewer interface {
	Collective

	// Standing reads and verifies what is published for a part of a repository. With
	// an error that says that the part itself is not to be believed, Ends is there.
	Standing(ctx context.Context, repository signing.Repository, part string) (Standing, error)
	// Due reports whether what ends at expires is to be signed again at now, in a
	// step with these options.
	Due(options map[string]string, expires, now time.Time) bool
	// Entries returns every tag that the bytes of an intent bind, changed or not. It
	// refuses what Inspect refuses.
	Entries(in signing.Intent) ([]signing.Change, error)
}

// Standing is what is published for a part of a repository.
type Standing struct {
	Version int64
	Expires time.Time
	Entries []signing.Change // by tag
	// Ends is when everything ends that it rests on, itself included.
	Ends []End
}

// End is when a role of a repository ends.
type End struct {
	Name    string
	Expires time.Time
}

// Recorder is a Checker that judges by the clock and what it has seen, which records
// outlive.
type Recorder interface {
	Checker

	// Offline returns the method as whoever verifies a record has it.
	Offline() Method
}

// CheckTask reports, offline, whether the bytes of a Task's intent say what the
// Task does and its envelope is a signature over that by key.
func CheckTask(m Method, t *signing.Task, key signing.KeyInfo, origin signing.Origin) error {
	if t.Intent == nil || t.Envelope == nil {
		return &signing.Error{Code: signing.Invalid, Message: "a task without bytes or signature", Found: t.ID}
	}
	if o, ok := m.(Recorder); ok {
		m = o.Offline()
	}
	said, err := m.Inspect(*t.Intent)
	if err != nil {
		return err
	}
	if err := said.MatchesTask(t); err != nil {
		return err
	}
	target := Target{Artifact: t.Artifact, Key: key, Options: t.Step.Options, Origin: origin, Part: t.Part, Changes: t.Changes}
	switch m := m.(type) {
	case Attacher:
		_, err = m.Attachment(target, *t.Envelope)
	case Checker:
		err = m.Check(target, *t.Envelope)
	default:
		err = &signing.Error{Code: signing.Denied, Message: "envelopes of this method cannot be verified offline", Found: t.Step.Method}
	}
	return err
}
