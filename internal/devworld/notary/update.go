package notary

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// refusal is one of the server's errors.
type refusal struct {
	code   string
	detail any
}

func invalid(name, format string, args ...any) *refusal {
	return &refusal{"INVALID_UPDATE", map[string]any{"Name": name, "Error": map[string]any{"Msg": fmt.Sprintf(format, args...)}}}
}

// meta is a signed document as far as the server reads it.
type meta struct {
	Signed struct {
		Type    string         `json:"_type"`
		Version int64          `json:"version"`
		Expires time.Time      `json:"expires"`
		Keys    map[string]key `json:"keys"`
		Roles   map[string]who `json:"roles"`
		Deleg   struct {
			Keys  map[string]key `json:"keys"`
			Roles []who          `json:"roles"`
		} `json:"delegations"`
		Meta map[string]entry `json:"meta"`
	} `json:"signed"`
	Signatures []struct {
		KeyID  string `json:"keyid"`
		Method string `json:"method"`
		Sig    []byte `json:"sig"`
	} `json:"signatures"`
	message []byte
}

type key struct {
	Type  string `json:"keytype"`
	Value struct {
		Public []byte `json:"public"`
	} `json:"keyval"`
}

type who struct {
	Name      string   `json:"name"`
	KeyIDs    []string `json:"keyids"`
	Threshold int      `json:"threshold"`
}

type entry struct {
	Length int64             `json:"length"`
	Hashes map[string][]byte `json:"hashes"`
}

var reDelegation = regexp.MustCompile(`^targets/[-a-z0-9_/]+$`)

func validRole(role string) bool {
	switch role {
	case "root", "targets", "snapshot", "timestamp":
		return true
	}
	return reDelegation.MatchString(role) && path.Clean(role) == role && len(role) < 256
}

// canonical is canonical JSON for text without what Go escapes.
func canonical(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // a value of encoding/json
	return bytes.TrimRight(b.Bytes(), "\n")
}

func read(raw []byte) (*meta, error) {
	var m meta
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	var parts struct{ Signed any }
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&parts); err != nil {
		return nil, err
	}
	m.message = canonical(parts.Signed)
	return &m, nil
}

// signedBy reports whether enough keys of w have signed m.
func (m *meta) signedBy(w who, keys map[string]key) bool {
	good := map[string]bool{}
	for _, s := range m.Signatures {
		k, ok := keys[s.KeyID]
		if ok && slices.Contains(w.KeyIDs, s.KeyID) && k.verifies(s.Method, s.Sig, m.message) {
			good[s.KeyID] = true
		}
	}
	return w.Threshold > 0 && len(good) >= w.Threshold
}

func (k key) verifies(method string, sig, message []byte) bool {
	raw := k.Value.Public
	if strings.HasSuffix(k.Type, "-x509") {
		b, _ := pem.Decode(raw)
		if b == nil {
			return false
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return false
		}
		raw = c.RawSubjectPublicKeyInfo
	}
	public, err := x509.ParsePKIXPublicKey(raw)
	if err != nil {
		return false
	}
	sum := sha256.Sum256(message)
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		half := len(sig) / 2
		return method == "ecdsa" && len(sig) == 2*((p.Params().BitSize+7)/8) && ecdsa.Verify(p, sum[:], new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:]))
	case *rsa.PublicKey:
		return method == "rsapss" && rsa.VerifyPSS(p, 5, sum[:], sig, &rsa.PSSOptions{SaltLength: 32}) == nil // 5 is crypto.SHA256
	}
	return false
}

// update checks documents and takes them, with a new snapshot and timestamp. The
// caller holds mu.
func (s *Server) update(gun string, updates map[string][]byte) *refusal {
	r := s.repo(gun)
	next := map[string]*meta{}
	for role, raw := range updates {
		m, err := read(raw)
		if err != nil {
			return &refusal{code: "MALFORMED_JSON"}
		}
		next[role] = m
	}
	root, refused := r.checkRoot(next["root"])
	if refused != nil {
		return refused
	}
	for role, m := range next {
		if role == "targets" || strings.HasPrefix(role, "targets/") {
			if refused := r.checkTargets(role, m, root, next); refused != nil {
				return refused
			}
		}
		if d, ok := r.current(role); ok && m.Signed.Version <= d.version {
			return &refusal{code: "VERSION"}
		}
	}
	if m := next["snapshot"]; m != nil && !m.signedBy(root.Signed.Roles["snapshot"], root.Signed.Keys) {
		return invalid("ErrBadSnapshot", "not signed by its keys")
	}
	for _, role := range []string{"snapshot", "timestamp"} {
		if next[role] == nil && !r.holds(role, root) {
			if role == "snapshot" {
				return invalid("ErrBadHierarchy", "no snapshot was included in update and server does not hold current snapshot key for repository")
			}
			return invalid("ErrBadRoot", "no timestamp keys exist on the server")
		}
	}
	for role, raw := range updates {
		if role != "timestamp" {
			r.docs[role] = append(r.docs[role], doc{next[role].Signed.Version, raw})
		}
	}
	if next["snapshot"] == nil {
		s.makeSnapshot(r)
	}
	s.makeTimestamp(r)
	return nil
}

// checkRoot returns the root that is valid after an update.
func (r *repo) checkRoot(m *meta) (*meta, *refusal) {
	have, ok := r.current("root")
	var old *meta
	if ok {
		old, _ = read(have.raw)
	}
	switch {
	case m == nil && old == nil:
		return nil, invalid("ErrValidation", "no pre-existing root and no root provided in update.")
	case m == nil:
		return old, nil
	case !m.signedBy(m.Signed.Roles["root"], m.Signed.Keys):
		return nil, invalid("ErrBadRoot", "failed to validate integrity of roots")
	case old != nil && m.Signed.Version != old.Signed.Version+1:
		return nil, invalid("ErrBadRoot", "Root modifications must increment the version")
	case old != nil && !m.signedBy(old.Signed.Roles["root"], old.Signed.Keys):
		return nil, invalid("ErrBadRoot", "failed to validate data with current trusted certificates")
	}
	return m, nil
}

// checkTargets holds targets, or a delegation, against the role above.
func (r *repo) checkTargets(role string, m, root *meta, next map[string]*meta) *refusal {
	if m.Signed.Type != "Targets" || m.Signed.Version < 1 {
		return invalid("ErrBadTargets", "not targets")
	}
	if role == "targets" {
		if !m.signedBy(root.Signed.Roles["targets"], root.Signed.Keys) {
			return invalid("ErrBadTargets", "valid signatures did not meet threshold for targets")
		}
		return nil
	}
	parent := next[path.Dir(role)]
	if d, ok := r.current(path.Dir(role)); parent == nil && ok {
		parent, _ = read(d.raw)
	}
	if parent != nil {
		for _, w := range parent.Signed.Deleg.Roles {
			if w.Name == role && m.signedBy(w, parent.Signed.Deleg.Keys) {
				return nil
			}
		}
	}
	return invalid("ErrBadTargets", "valid signatures did not meet threshold for %s", role)
}

// serverKey is a key that the server holds.
type serverKey struct {
	private *ecdsa.PrivateKey
	id      string
	value   map[string]any
}

func newServerKey() *serverKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // a machine without randomness
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		panic(err)
	}
	v := map[string]any{"keytype": "ecdsa", "keyval": map[string]any{"private": nil, "public": base64.StdEncoding.EncodeToString(der)}}
	sum := sha256.Sum256(canonical(v))
	return &serverKey{private: k, id: hex.EncodeToString(sum[:]), value: v}
}

// holds reports whether the root names a key of the server for the role.
func (r *repo) holds(role string, root *meta) bool { return r.signer(role, root) != nil }

func (r *repo) signer(role string, root *meta) *serverKey {
	for _, k := range r.keys[role] {
		if slices.Contains(root.Signed.Roles[role].KeyIDs, k.id) {
			return k
		}
	}
	return nil
}

func (s *Server) serveKey(w http.ResponseWriter, gun, role string, rotate bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repo(gun)
	if keys := r.keys[role]; len(keys) == 0 || rotate {
		r.keys[role] = append(keys, newServerKey())
	}
	_, _ = w.Write(canonical(r.keys[role][len(r.keys[role])-1].value))
}

func (s *Server) makeSnapshot(r *repo) {
	files := map[string]any{}
	for role := range r.docs {
		if d, _ := r.current(role); role != "snapshot" && role != "timestamp" {
			files[role] = describe(d.raw)
		}
	}
	s.make(r, "snapshot", "Snapshot", snapshotLife, files)
}

func (s *Server) makeTimestamp(r *repo) {
	d, _ := r.current("snapshot")
	s.make(r, "timestamp", "Timestamp", timestampLife, map[string]any{"snapshot": describe(d.raw)})
}

// refresh makes a new timestamp where the old has expired, as the real server does when
// it is asked. The caller holds mu.
func (s *Server) refresh(r *repo) {
	d, ok := r.current("timestamp")
	if !ok {
		return
	}
	if m, err := read(d.raw); err == nil && m.Signed.Expires.Before(s.now()) {
		s.makeTimestamp(r)
	}
}

func (s *Server) make(r *repo, role, kind string, life time.Duration, files map[string]any) {
	d, _ := r.current(role)
	root, _ := r.current("root")
	m, err := read(root.raw)
	if err != nil {
		return
	}
	if k := r.signer(role, m); k != nil {
		body := map[string]any{"_type": kind, "version": d.version + 1, "expires": s.now().Add(life).UTC().Format(time.RFC3339), "meta": files}
		r.docs[role] = append(r.docs[role], doc{d.version + 1, k.sign(body)})
	}
}

// Sign signs a body with the server's own key of snapshot or timestamp, as whoever
// has broken into the server can.
func (s *Server) Sign(gun, role string, body map[string]any) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := s.repo(gun).keys[role]
	return keys[len(keys)-1].sign(body)
}

func (k *serverKey) sign(body map[string]any) []byte {
	message := canonical(body)
	sum := sha256.Sum256(message)
	a, b, err := ecdsa.Sign(rand.Reader, k.private, sum[:])
	if err != nil {
		panic(err)
	}
	sig := make([]byte, 64)
	a.FillBytes(sig[:32])
	b.FillBytes(sig[32:])
	return canonical(map[string]any{"signed": json.RawMessage(message), "signatures": []any{map[string]any{"keyid": k.id, "method": "ecdsa", "sig": sig}}})
}

// Describe is what a snapshot or a timestamp says of a document.
func Describe(raw []byte) map[string]any { return describe(raw) }

func describe(raw []byte) map[string]any {
	sum := sha256.Sum256(raw)
	return map[string]any{"length": len(raw), "hashes": map[string]any{"sha256": sum[:]}}
}

func sumHex(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
