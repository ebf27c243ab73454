package audit_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/signing"
)

func TestCheckpointSurvivesSigningAndParsing(t *testing.T) {
	l := honestLog(t, 5, 5)
	raw := l.checkpoints[0]
	v, err := audit.NewVerifier(l.signer.Verifier().String() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	got, err := audit.ParseCheckpoint(raw, v)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(audit.Checkpoint{Origin: testOrigin, Size: 5, Root: l.root(), Raw: raw}, got); diff != "" {
		t.Error(diff)
	}
	// Any reader of C2SP signed notes can open it.
	nv, err := note.NewVerifier(l.signer.Verifier().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(raw, note.VerifierList(nv)); err != nil {
		t.Error(err)
	}
}

func TestGeneratedKeysSignForTheirOwnLogOnly(t *testing.T) {
	private, public, err := audit.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	s, err := audit.NewSigner(private + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if s.Verifier().String() != public || s.Verifier().Origin() != testOrigin {
		t.Errorf("public half is %s, want %s", s.Verifier(), public)
	}
	raw, err := s.SignCheckpoint(1, audit.LeafHash([]byte("x")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.ParseCheckpoint(raw, newSigner(t, 9).Verifier()); signing.CodeOf(err) != signing.Invalid {
		t.Errorf("another key of the same name accepts it: %v", err)
	}
	for _, origin := range []string{"", "two words", "a+b", "a\nb"} {
		if _, _, err := audit.GenerateKey(rand.Reader, origin); err == nil {
			t.Errorf("a key for the log %q", origin)
		}
	}
}

func TestBrokenLogKeyIsRefusedWithoutShowingIt(t *testing.T) {
	private, public, err := audit.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "x", public, private[:len(private)-4], strings.Replace(private, "PRIVATE", "PUBLIC", 1), strings.Replace(private, testOrigin, "other", 1)} {
		_, err := audit.NewSigner(bad)
		if signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%v, want a refusal", err)
		} else if len(bad) > 20 && strings.Contains(err.Error(), bad[len(bad)-20:]) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
	for _, bad := range []string{"", private, public + "x", "name+00000000+AAAA"} {
		if _, err := audit.NewVerifier(bad); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%q as a public key: %v", bad, err)
		}
	}
}

func TestCheckpointInAnotherFormIsRefused(t *testing.T) {
	private, _, err := audit.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	s, err := audit.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	root := "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	for name, text := range map[string]string{
		"other origin":      "other.example/log\n0\n" + root + "\n",
		"extension line":    testOrigin + "\n0\n" + root + "\ntime 1\n",
		"leading zero":      testOrigin + "\n00\n" + root + "\n",
		"negative":          testOrigin + "\n-1\n" + root + "\n",
		"beyond int64":      testOrigin + "\n9223372036854775808\n" + root + "\n",
		"no size":           testOrigin + "\n\n" + root + "\n",
		"short root":        testOrigin + "\n0\nAAAA\n",
		"no root":           testOrigin + "\n0\n",
		"loose base64":      testOrigin + "\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=\n",
		"another statement": "I signed this\n",
	} {
		raw, err := note.Sign(&note.Note{Text: text}, key)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := audit.ParseCheckpoint(raw, s.Verifier()); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%s: %+v (%v), want a refusal", name, c, err)
		}
	}
	for name, raw := range map[string][]byte{"nothing": nil, "too large": bytes.Repeat([]byte("a\n"), audit.MaxCheckpoint), "unsigned": []byte(testOrigin + "\n0\n" + root + "\n")} {
		if _, err := audit.ParseCheckpoint(raw, s.Verifier()); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	// The bits after the last byte of the signature, and what others add, are not
	// signed: neither may make a second text of one checkpoint, or a large one.
	good, err := s.SignCheckpoint(1, audit.LeafHash(nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"loose signature":            looseBase64(t, good),
		"large signature of another": fmt.Appendf(bytes.Clone(good), "— other %s\n", base64.StdEncoding.EncodeToString(make([]byte, audit.MaxCheckpoint))),
	} {
		if _, err := audit.ParseCheckpoint(raw, s.Verifier()); signing.CodeOf(err) != signing.Invalid {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	for name, f := range map[string]func() ([]byte, error){
		"root of 31 bytes": func() ([]byte, error) { return s.SignCheckpoint(1, make([]byte, 31)) },
		"size":             func() ([]byte, error) { return s.SignCheckpoint(1<<63, make([]byte, 32)) },
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// looseBase64 returns the note with another last digit of its signature that
// decodes to the same bytes for a lenient decoder.
func looseBase64(t *testing.T, raw []byte) []byte {
	t.Helper()
	text := strings.TrimSuffix(string(raw), "=\n")
	head, last := text[:len(text)-1], text[len(text)-1]
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	i := strings.IndexByte(digits, last)
	if i < 0 || i%4 != 0 {
		t.Fatalf("signature ends in %q", last)
	}
	return []byte(head + string(digits[i+1]) + "=\n")
}

func TestCheckpointCosignedByAWitnessIsStillOurs(t *testing.T) {
	l := honestLog(t, 3, 3)
	skey, _, err := note.GenerateKey(rand.Reader, "witness.example")
	if err != nil {
		t.Fatal(err)
	}
	witness, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := note.NewVerifier(l.signer.Verifier().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(l.checkpoints[0], note.VerifierList(ours))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := note.Sign(n, witness)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.ParseCheckpoint(raw, l.signer.Verifier()); err != nil {
		t.Error(err)
	}
}

func TestGuardRefusesALogThatDoesNotContinueTheLastCheckpoint(t *testing.T) {
	ctx := context.Background()
	l := honestLog(t, 300, 100)
	at := func(l *memLog, i int) *audit.Checkpoint {
		c, err := audit.ParseCheckpoint(l.checkpoints[i], l.signer.Verifier())
		if err != nil {
			t.Fatal(err)
		}
		return &c
	}
	fork := newLog(t, l.signer)
	fork.grow(400, 100, func(tb testing.TB, i int) []byte {
		if i == 150 {
			return eventBy(tb, i, "other")
		}
		return event(tb, i)
	})
	small := honestLog(t, 200, 100)
	for name, c := range map[string]struct {
		last *audit.Checkpoint
		log  *memLog
		ok   bool
	}{
		"first checkpoint":                    {nil, l, true},
		"same":                                {at(l, 2), l, true},
		"grown":                               {at(l, 0), l, true},
		"grown from empty":                    {at(honestLog(t, 0, 1), 0), l, true},
		"smaller, an old backup":              {at(l, 2), small, false},
		"same size, other entries":            {at(fork, 2), l, false},
		"an old backup that grew differently": {at(l, 2), fork, false},
		"grown, equal until the checkpoint":   {at(l, 0), fork, true},
	} {
		err := audit.Guard(ctx, c.last, uint64(len(c.log.leaves)), c.log.root(), c.log.read)
		if c.ok && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !c.ok && signing.CodeOf(err) != signing.Conflict {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	broken := func(context.Context, []audit.NodeID) ([][]byte, error) { return nil, fmt.Errorf("disk") }
	if err := audit.Guard(ctx, at(l, 0), 300, l.root(), broken); err == nil {
		t.Error("a log whose nodes cannot be read may be signed")
	}
}

func TestStatementIsReadAsWhatItIsOnly(t *testing.T) {
	s := newSigner(t, 1)
	content := signing.DigestOf([]byte("content"))
	raw, err := s.SignStatement("sealwright.dev/evidence/v1", content)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Verifier().OpenStatement("sealwright.dev/evidence/v1", raw); err != nil || got != content {
		t.Fatalf("%s, %v", got, err)
	}
	root, err := audit.Root(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := s.SignCheckpoint(0, root)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := bytes.Cut(raw, []byte("\n\n"))
	for what, bad := range map[string][]byte{
		"a checkpoint": checkpoint, "nothing": nil, "no signature": append(text, '\n'), "a signature twice": append(bytes.Clone(raw), raw[bytes.LastIndexByte(raw[:len(raw)-1], '\n')+1:]...),
		"another digest": bytes.Replace(raw, []byte(content.Hex()), []byte(signing.DigestOf(nil).Hex()), 1), "something huge": bytes.Repeat([]byte("x"), 1<<20),
	} {
		if _, err := s.Verifier().OpenStatement("sealwright.dev/evidence/v1", bad); !errors.Is(err, signing.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.Verifier().OpenStatement("sealwright.dev/other/v1", raw); !errors.Is(err, signing.Invalid) {
		t.Errorf("as another kind: %v", err)
	}
	if _, err := newSigner(t, 2).Verifier().OpenStatement("sealwright.dev/evidence/v1", raw); !errors.Is(err, signing.Invalid) {
		t.Errorf("by another key: %v", err)
	}
	if _, err := audit.ParseCheckpoint(raw, s.Verifier()); err == nil {
		t.Error("a statement is read as a checkpoint")
	}
	for _, what := range []string{"", "two\nlines"} {
		if _, err := s.SignStatement(what, content); err == nil {
			t.Errorf("%q was signed as a kind", what)
		}
	}
}
