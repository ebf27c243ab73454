package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	tlog "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealwright/sealwright/internal/signing"
)

// MaxCheckpoint bounds a signed checkpoint: three short lines, our signature and
// room for the signatures of some dozens of witnesses.
const MaxCheckpoint = 16 << 10

// Checkpoint is a signed statement of the log: so many entries, this root.
type Checkpoint struct {
	Origin string // name of the log, and of its key
	Size   uint64
	Root   []byte
	// Raw is the signed note (C2SP tlog-checkpoint) as it was signed.
	Raw []byte
}

// GenerateKey makes an Ed25519 key for the log named origin, "sealwright.acme.dev/log".
// Private and public are in the form of C2SP signed-note. The key signs
// checkpoints and statements about the log's content; it must never be one that
// signs images.
func GenerateKey(random io.Reader, origin string) (private, public string, err error) {
	if origin == "" || strings.ContainsAny(origin, "+ \t\r\n") {
		return "", "", refuse("not a name for a log", "a URL without scheme, without spaces and '+'", origin, "")
	}
	private, public, err = note.GenerateKey(random, origin)
	if err != nil {
		return "", "", fmt.Errorf("generating a log key: %w", err)
	}
	return private, public, nil
}

// Signer signs checkpoints of one log. It is safe for concurrent use.
type Signer struct {
	key      note.Signer
	verifier *Verifier
}

// NewSigner reads the private key that GenerateKey made and proves that it
// signs. Errors never show the key.
func NewSigner(private string) (*Signer, error) {
	bad := &signing.Error{Code: signing.Invalid, Message: "not a log key", Expected: "PRIVATE+KEY+<name>+<hash>+<Ed25519 seed>", Fix: "make one with sealwrightd keys new, and keep it apart from the keys of images"}
	private = strings.TrimSpace(private)
	key, err := note.NewSigner(private)
	if err != nil {
		return nil, bad
	}
	// The public half: algorithm byte and seed follow the last '+', which base64
	// may hold as well, so split from the left.
	parts := strings.SplitN(private, "+", 5)
	if len(parts) != 5 {
		return nil, bad
	}
	data, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(data) != 1+ed25519.SeedSize {
		return nil, bad
	}
	pub, ok := ed25519.NewKeyFromSeed(data[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return nil, bad
	}
	public, err := note.NewEd25519VerifierKey(key.Name(), pub)
	if err != nil {
		return nil, bad
	}
	v, err := NewVerifier(public)
	if err != nil {
		return nil, err
	}
	s := &Signer{key: key, verifier: v}
	root, err := Root(0, nil)
	if err != nil {
		return nil, err
	}
	if _, err := s.SignCheckpoint(0, root); err != nil {
		return nil, err
	}
	return s, nil
}

// Verifier returns the public half of the key.
func (s *Signer) Verifier() *Verifier { return s.verifier }

// SignCheckpoint returns the signed note (C2SP tlog-checkpoint, no extension
// lines) for a log of the given size and root, verified. Call Guard first: what
// is signed cannot be taken back.
func (s *Signer) SignCheckpoint(size uint64, root []byte) ([]byte, error) {
	if len(root) != HashSize || size > MaxSize {
		return nil, refuse("nothing that a checkpoint could say", "a root of 32 bytes", fmt.Sprintf("size %d, root of %d bytes", size, len(root)), "")
	}
	text := tlog.Checkpoint{Origin: s.key.Name(), Size: size, Hash: root}.Marshal()
	raw, err := note.Sign(&note.Note{Text: string(text)}, s.key)
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint %d: %w", size, err)
	}
	if _, err := ParseCheckpoint(raw, s.verifier); err != nil {
		return nil, fmt.Errorf("verifying checkpoint %d after signing: %w", size, err)
	}
	return raw, nil
}

// SignStatement returns a signed note that says: this log's key vouches for the
// content of this digest as a what, "sealwright.dev/evidence/v1". No checkpoint
// can be read as one, nor the other way: the second line of a checkpoint is a
// number and its third base64.
func (s *Signer) SignStatement(what string, content signing.Digest) ([]byte, error) {
	text, err := statement(what, s.verifier.Origin(), content)
	if err != nil {
		return nil, err
	}
	raw, err := note.Sign(&note.Note{Text: text}, s.key)
	if err != nil {
		return nil, fmt.Errorf("signing a statement: %w", err)
	}
	if _, err := s.verifier.OpenStatement(what, raw); err != nil {
		return nil, fmt.Errorf("verifying a statement after signing: %w", err)
	}
	return raw, nil
}

func statement(what, origin string, content signing.Digest) (string, error) {
	if what == "" || strings.ContainsAny(what, "\r\n") {
		return "", refuse("not a kind of statement", "one line", what, "")
	}
	if err := content.Validate(); err != nil {
		return "", err
	}
	return what + "\n" + origin + "\n" + string(content) + "\n", nil
}

// Verifier holds the public key of one log.
type Verifier struct {
	key    note.Verifier
	public string
}

// NewVerifier reads the public key that GenerateKey made:
// <name>+<hash>+<Ed25519 key>.
func NewVerifier(public string) (*Verifier, error) {
	public = strings.TrimSpace(public)
	key, err := note.NewVerifier(public)
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "not the public key of a log", Expected: "<name>+<hash>+<Ed25519 key> on one line", Found: quote([]byte(public)), Fix: "take it from the service's /v1/trust, once, by a way that you trust"}
	}
	return &Verifier{key: key, public: public}, nil
}

// Origin returns the name of the log.
func (v *Verifier) Origin() string { return v.key.Name() }

// String returns the key in the form that NewVerifier reads.
func (v *Verifier) String() string { return v.public }

// OpenStatement returns the digest of the content that v's key vouches for as a
// what. There is one signature and one spelling.
func (v *Verifier) OpenStatement(what string, raw []byte) (signing.Digest, error) {
	bad := &signing.Error{Code: signing.Invalid, Message: "not signed by the key of this log", Expected: "a " + what + " signed by " + v.public, Found: quote(raw), Fix: "check that the log's key is the one of the service that made the file"}
	if len(raw) > MaxCheckpoint {
		return "", bad
	}
	n, err := note.Open(raw, note.VerifierList(v.key))
	if err != nil {
		bad.Err = err
		return "", bad
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || len(n.Sigs) != 1 || len(n.UnverifiedSigs) > 0 {
		return "", bad
	}
	content := signing.Digest(lines[2])
	if want, err := statement(what, v.Origin(), content); err != nil || want != n.Text {
		return "", bad
	}
	// note.Open passes over what is there twice, and over lenient base64.
	sig := n.Sigs[0]
	if _, err := base64.StdEncoding.Strict().DecodeString(sig.Base64); err != nil || string(raw) != n.Text+"\n— "+sig.Name+" "+sig.Base64+"\n" {
		return "", bad
	}
	return content, nil
}

// ParseCheckpoint returns what a signed note says if v's key signed it for its
// own log, in the one form in which this service writes it. Signatures by
// others (witnesses) are allowed and not judged.
func ParseCheckpoint(raw []byte, v *Verifier) (Checkpoint, error) {
	if len(raw) > MaxCheckpoint {
		return Checkpoint{}, refuse("checkpoint too large", fmt.Sprintf("at most %d bytes", MaxCheckpoint), fmt.Sprintf("%d bytes", len(raw)), "")
	}
	c, _, n, err := tlog.ParseCheckpoint(raw, v.Origin(), v.key)
	if err != nil {
		return Checkpoint{}, &signing.Error{Code: signing.Invalid, Message: "not a checkpoint of this log", Expected: "a checkpoint signed by " + v.public, Found: quote(raw), Err: err}
	}
	// One statement has one text: no leading zeros, no other base64, no extension
	// lines, which C2SP does not recommend and this log never wrote.
	if len(c.Hash) != HashSize || c.Size > MaxSize || string(c.Marshal()) != n.Text {
		return Checkpoint{}, refuse("a checkpoint in another form", "origin, size and root, and nothing else", n.Text, "")
	}
	for _, s := range append(n.Sigs, n.UnverifiedSigs...) {
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return Checkpoint{}, refuse("a checkpoint whose signature is not in canonical base64", "", s.Base64, "")
		}
	}
	return Checkpoint{Origin: c.Origin, Size: c.Size, Root: c.Hash, Raw: bytes.Clone(raw)}, nil
}

// Guard refuses to let a checkpoint of (size, root) be signed after last, the
// newest one kept outside the database, unless the log continues that one: not
// smaller, the same root at the same size, and consistent with it above (a
// database restored from an old backup grows past the kept size, too). A nil
// last allows everything: the log's first checkpoint. Nodes reads the nodes of
// the log that is to be signed.
func Guard(ctx context.Context, last *Checkpoint, size uint64, root []byte, nodes NodeReader) error {
	if last == nil {
		return nil
	}
	const fix = "restore the newest database; if it is lost, keep the old log and its key for auditors and start a new log with a new key"
	switch {
	case size < last.Size:
		return &signing.Error{Code: signing.Conflict, Message: "the log is smaller than the last checkpoint that was signed for it", Expected: fmt.Sprintf("at least %d entries", last.Size), Found: fmt.Sprintf("%d entries", size), Fix: fix}
	case size == last.Size && !bytes.Equal(root, last.Root):
		return &signing.Error{Code: signing.Conflict, Message: "the log is not the one that the last checkpoint was signed for", Expected: "root " + hex.EncodeToString(last.Root), Found: "root " + hex.EncodeToString(root), Fix: fix}
	case size == last.Size:
		return nil
	}
	path, err := ConsistencyProof(ctx, nodes, last.Size, size)
	if err != nil {
		return fmt.Errorf("proving that the log continues checkpoint %d: %w", last.Size, err)
	}
	if err := VerifyConsistency(*last, Checkpoint{Size: size, Root: root}, path); err != nil {
		return &signing.Error{Code: signing.Conflict, Message: "the log does not continue the last checkpoint that was signed for it", Expected: fmt.Sprintf("the log of checkpoint %d with entries added", last.Size), Found: fmt.Sprintf("another log of %d entries", size), Fix: fix, Err: err}
	}
	return nil
}

// unverifiedSize returns the size that a checkpoint states, whoever signed it.
// Only the exporter uses it, which copies and does not judge.
func unverifiedSize(raw []byte) (uint64, error) {
	var c tlog.Checkpoint
	if _, err := c.Unmarshal(raw); err != nil || c.Size > MaxSize {
		return 0, refuse("not a checkpoint", "origin, size, root and signatures", string(raw), "")
	}
	return c.Size, nil
}
