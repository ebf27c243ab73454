// Package notary is a Notary v1 server in the test's own process, for tests and for
// `sealwrightd dev` where no real one is installed. It is strict: it refuses what
// Debian's notary-server refuses, in the same words, and it shares no code with the
// client that it tests: both read Notary's own documentation.
package notary

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxUpload bounds one update, as large as the client's own bound for a document
	// and a little.
	maxUpload = 32 << 20
	// How long the server's own documents are valid, as the real one's.
	snapshotLife  = 3 * 365 * 24 * time.Hour
	timestampLife = 14 * 24 * time.Hour
)

// Server is the server. The zero value is ready; its fields must be set before it
// answers its first request.
type Server struct {
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// User and Password, if set, are what the token service at /token asks for.
	User, Password string
	// Realm overrides where the server sends its clients for a token; /token of the
	// server itself if empty.
	Realm string
	// Before sees each request first; true says that it has answered. Nil is none.
	Before func(w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	repos    map[string]*repo // by GUN; guarded by mu
	override map[string][]byte
	tokens   map[string]string // token to scope; guarded by mu
}

// repo is one GUN. Documents are kept for ever, by version and by hash.
type repo struct {
	keys map[string][]*serverKey // of timestamp and snapshot; the last is current
	docs map[string][]doc        // by role, rising versions
}

type doc struct {
	version int64
	raw     []byte
}

func (r *repo) current(role string) (doc, bool) {
	d := r.docs[role]
	if len(d) == 0 {
		return doc{}, false
	}
	return d[len(d)-1], true
}

// paths of the API, as the real server routes them.
var (
	reUpload = regexp.MustCompile(`^/v2/([^*]+)/_trust/tuf/$`)
	reKey    = regexp.MustCompile(`^/v2/([^*]+)/_trust/tuf/(snapshot|timestamp)\.key$`)
	reHash   = regexp.MustCompile(`^/v2/([^*]+)/_trust/tuf/(root|targets(?:/[^/\s]+)*|snapshot|timestamp)\.([a-fA-F0-9]{64})\.json$`)
	reNumber = regexp.MustCompile(`^/v2/([^*]+)/_trust/tuf/([1-9]*[0-9]+)\.(root|targets(?:/[^/\s]+)*|snapshot|timestamp)\.json$`)
	reLatest = regexp.MustCompile(`^/v2/([^*]+)/_trust/tuf/(root|targets(?:/[^/\s]+)*|snapshot|timestamp)\.json$`)
)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Before != nil && s.Before(w, r) {
		return
	}
	if r.URL.Path == "/token" {
		s.token(w, r)
		return
	}
	if m := reUpload.FindStringSubmatch(r.URL.Path); m != nil && r.Method == http.MethodPost {
		if s.authorized(w, r, m[1], "pull,push") {
			s.upload(w, r, m[1])
		}
		return
	}
	if m := reKey.FindStringSubmatch(r.URL.Path); m != nil {
		access := map[string]string{http.MethodGet: "pull,push", http.MethodPost: "*"}[r.Method]
		if access != "" && s.authorized(w, r, m[1], access) {
			s.serveKey(w, m[1], m[2], r.Method == http.MethodPost)
		}
		return
	}
	if r.Method != http.MethodGet {
		fail(w, http.StatusNotFound, "METADATA_NOT_FOUND", nil)
		return
	}
	for _, f := range []func(string) (gun, role, hash string, version int64){byHash, byNumber, latest} {
		if gun, role, hash, version := f(r.URL.Path); gun != "" {
			if s.authorized(w, r, gun, "pull") {
				s.get(w, gun, role, hash, version)
			}
			return
		}
	}
	fail(w, http.StatusNotFound, "METADATA_NOT_FOUND", nil)
}

func byHash(p string) (gun, role, hash string, version int64) {
	if m := reHash.FindStringSubmatch(p); m != nil {
		return m[1], m[2], strings.ToLower(m[3]), 0
	}
	return "", "", "", 0
}

func byNumber(p string) (gun, role, hash string, version int64) {
	if m := reNumber.FindStringSubmatch(p); m != nil {
		n, err := strconv.ParseInt(m[2], 10, 64)
		if err == nil {
			return m[1], m[3], "", n
		}
	}
	return "", "", "", 0
}

func latest(p string) (gun, role, hash string, version int64) {
	if m := reLatest.FindStringSubmatch(p); m != nil {
		return m[1], m[2], "", 0
	}
	return "", "", "", 0
}

// get serves the newest document of a role, one by its hash, or one by its version.
func (s *Server) get(w http.ResponseWriter, gun, role, hash string, version int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := role
	switch {
	case hash != "":
		name = role + "." + hash
	case version > 0:
		name = strconv.FormatInt(version, 10) + "." + role
	}
	for _, n := range []string{name, role} {
		if raw, ok := s.override[gun+" "+n]; ok {
			_, _ = w.Write(raw)
			return
		}
	}
	r := s.repos[gun]
	if r == nil {
		fail(w, http.StatusNotFound, "METADATA_NOT_FOUND", nil)
		return
	}
	if role == "timestamp" && hash == "" && version == 0 {
		s.refresh(r)
	}
	for i := len(r.docs[role]) - 1; i >= 0; i-- {
		d := r.docs[role][i]
		if hash != "" && sumHex(d.raw) != hash || version > 0 && d.version != version {
			continue
		}
		_, _ = w.Write(d.raw)
		return
	}
	fail(w, http.StatusNotFound, "METADATA_NOT_FOUND", nil)
}

// Serve has the server answer with raw for a document, whatever it has; nil ends that.
// name is a role for all of its versions, else "3.root" or "targets.HASH".
func (s *Server) Serve(gun, name string, raw []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.override == nil {
		s.override = map[string][]byte{}
	}
	if raw == nil {
		delete(s.override, gun+" "+name)
		return
	}
	s.override[gun+" "+name] = raw
}

// Document returns the newest document of a role, and its version; nil and 0 if there
// is none.
func (s *Server) Document(gun, role string) (raw []byte, version int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.repos[gun]; r != nil {
		if d, ok := r.current(role); ok {
			return d.raw, d.version
		}
	}
	return nil, 0
}

// repo returns the repository of a GUN, made if there is none. The caller holds mu.
func (s *Server) repo(gun string) *repo {
	if s.repos == nil {
		s.repos = map[string]*repo{}
	}
	if s.repos[gun] == nil {
		s.repos[gun] = &repo{keys: map[string][]*serverKey{}, docs: map[string][]doc{}}
	}
	return s.repos[gun]
}

func (s *Server) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// upload takes documents in the parts of one form, all or none.
func (s *Server) upload(w http.ResponseWriter, r *http.Request, gun string) {
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || params["boundary"] == "" {
		fail(w, http.StatusBadRequest, "MALFORMED_UPLOAD", nil)
		return
	}
	form := multipart.NewReader(io.LimitReader(r.Body, maxUpload), params["boundary"])
	updates := map[string][]byte{}
	for {
		part, err := form.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			fail(w, http.StatusBadRequest, "MALFORMED_UPLOAD", nil)
			return
		}
		// Not part.FileName: it drops the folders of a delegation.
		_, p, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
		role := strings.TrimSuffix(p["filename"], ".json")
		raw, readErr := io.ReadAll(part)
		switch {
		case err != nil || role == "":
			fail(w, http.StatusBadRequest, "NO_FILENAME", nil)
			return
		case !validRole(role):
			fail(w, http.StatusBadRequest, "INVALID_ROLE", role)
			return
		case readErr != nil || !json.Valid(raw):
			fail(w, http.StatusBadRequest, "MALFORMED_JSON", nil)
			return
		}
		updates[role] = raw
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.update(gun, updates); err != nil {
		fail(w, http.StatusBadRequest, err.code, err.detail)
	}
}

// fail writes an error as the real server does.
func fail(w http.ResponseWriter, status int, code string, detail any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{"code": code, "message": "refused", "detail": detail}}})
}

// authorized asks for a token where the server has a user.
func (s *Server) authorized(w http.ResponseWriter, r *http.Request, gun, access string) bool {
	if s.User == "" {
		return true
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	scope, ok := s.tokens[token]
	s.mu.Unlock()
	if granted, has := strings.CutPrefix(scope, "repository:"+gun+":"); ok && has && (granted == access || access == "pull" && strings.HasPrefix(granted, "pull")) {
		return true
	}
	realm := s.Realm
	if realm == "" {
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		realm = scheme + "://" + r.Host + "/token"
	}
	w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="notary",scope="repository:%s:%s"`, realm, gun, access))
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", nil)
	return false
}

func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	user, password, ok := r.BasicAuth()
	if !ok || user != s.User || password != s.Password {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", nil)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens == nil {
		s.tokens = map[string]string{}
	}
	token := fmt.Sprintf("token-%d", len(s.tokens)+1)
	s.tokens[token] = r.URL.Query().Get("scope")
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
}
