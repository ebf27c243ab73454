package devworld

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// keyBits is the size of the RSA keys that both platforms use.
const keyBits = 2048

type signingKey struct {
	id      string
	private *rsa.PrivateKey
}

// Issuer is an OIDC issuer for CI tokens and persons: discovery, a key set,
// GitHub's token endpoint, and the device flow. It signs with RS256. It is safe for concurrent use.
type Issuer struct {
	url string
	now func() time.Time

	mu    sync.Mutex // guards all below
	key   *signingKey
	known []jose.JSONWebKey      // published, newest first
	jobs  map[string]requestable // by hash of the request token
	// devices are the programs that wait for somebody to log in, by device code.
	devices map[string]*device
}

type requestable struct {
	path string
	job  GitHubJob
}

// NewIssuer returns an issuer that calls itself issuerURL (which may have a path;
// it serves below it) and has one key.
func NewIssuer(issuerURL string, now func() time.Time) (*Issuer, error) {
	k, err := newSigningKey()
	if err != nil {
		return nil, err
	}
	return newIssuer(issuerURL, now, k), nil
}

func newIssuer(issuerURL string, now func() time.Time, k *signingKey) *Issuer {
	i := &Issuer{url: issuerURL, now: now, jobs: map[string]requestable{}, devices: map[string]*device{}}
	i.use(k, false)
	return i
}

// IssuerKeys are the keys of the issuers of a World.
type IssuerKeys struct{ github, gitlab, people *signingKey }

// NewIssuerKeys makes new keys.
func NewIssuerKeys() (*IssuerKeys, error) {
	var list [3]*signingKey
	for i := range list {
		var err error
		if list[i], err = newSigningKey(); err != nil {
			return nil, err
		}
	}
	return &IssuerKeys{github: list[0], gitlab: list[1], people: list[2]}, nil
}

func newSigningKey() (*signingKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("making an issuer key: %w", err)
	}
	h := sha256.Sum256(private.N.Bytes())
	return &signingKey{id: strings.ToUpper(hex.EncodeToString(h[:20])), private: private}, nil
}

// URL returns the value of `iss`.
func (i *Issuer) URL() string { return i.url }

// Rotate makes a new key and signs with it from here on. Keys published before
// stay in the key set if keepOld.
func (i *Issuer) Rotate(keepOld bool) error {
	k, err := newSigningKey()
	if err != nil {
		return err
	}
	i.use(k, keepOld)
	return nil
}

func (i *Issuer) use(k *signingKey, keepOld bool) {
	public := jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Algorithm: string(jose.RS256), Use: "sig"}
	i.mu.Lock()
	defer i.mu.Unlock()
	if !keepOld {
		i.known = nil
	}
	i.key, i.known = k, append([]jose.JSONWebKey{public}, i.known...)
}

func (i *Issuer) current() *signingKey { i.mu.Lock(); defer i.mu.Unlock(); return i.key }

// KeySet returns the key set as JSON, for the `jwks_file` of an air gap.
func (i *Issuer) KeySet() ([]byte, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: i.known})
	if err != nil {
		return nil, fmt.Errorf("encoding the key set: %w", err)
	}
	return b, nil
}

// GitHubClaims returns the claims that a token for j would have if it were
// issued now; an empty audience is GitHub's default.
func (i *Issuer) GitHubClaims(j GitHubJob, audience string) map[string]any {
	return j.claims(i.url, audience, uuid(), i.now())
}

// GitLabClaims returns the claims that a token for j would have if it were
// issued now.
func (i *Issuer) GitLabClaims(j GitLabJob, audience string) map[string]any {
	return j.claims(i.url, audience, uuid(), i.now())
}

// GitHubToken returns a token for j, as its runner would get it.
func (i *Issuer) GitHubToken(j GitHubJob, audience string) (string, error) {
	return i.Mint(i.GitHubClaims(j, audience), Flaw{})
}

// GitLabToken returns an ID token for j, as GitLab would put it in a variable.
func (i *Issuer) GitLabToken(j GitLabJob, audience string) (string, error) {
	return i.Mint(i.GitLabClaims(j, audience), Flaw{})
}

// RegisterGitHubJob starts a job: it returns the environment of its steps, with
// the URL and the token by which it asks for its ID tokens.
func (i *Issuer) RegisterGitHubJob(j GitHubJob) map[string]string {
	token := "ghr_" + randomText()
	path := "/idtoken/" + uuid() + "/" + uuid()
	h := sha256.Sum256([]byte(token))
	i.mu.Lock()
	i.jobs[hex.EncodeToString(h[:])] = requestable{path: path, job: j}
	i.mu.Unlock()
	env := j.env()
	// As on the real platform the URL already has a query.
	env["ACTIONS_ID_TOKEN_REQUEST_URL"] = i.url + path + "?api-version=2.0"
	env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = token
	return env
}

// GitLabEnv returns the environment of the job j whose `id_tokens:` declares
// variable for audience.
func (i *Issuer) GitLabEnv(j GitLabJob, variable, audience string) (map[string]string, error) {
	token, err := i.GitLabToken(j, audience)
	if err != nil {
		return nil, err
	}
	env := j.env(i.url)
	env[variable] = token
	return env, nil
}

// ServeHTTP serves discovery, key set and token requests below the issuer's URL.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	base := ""
	if u, err := url.Parse(i.url); err == nil {
		base = u.Path
	}
	path, ok := strings.CutPrefix(r.URL.Path, base)
	switch {
	case !ok:
		http.NotFound(w, r)
	case path == "/device/code":
		i.serveDevice(w, r)
	case path == "/token":
		i.serveDeviceToken(w, r)
	case r.Method != http.MethodGet:
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
	case path == "/.well-known/openid-configuration":
		writeJSON(w, map[string]any{
			"issuer": i.url, "jwks_uri": i.url + "/.well-known/jwks",
			"device_authorization_endpoint": i.url + "/device/code", "token_endpoint": i.url + "/token", "grant_types_supported": []string{deviceGrant},
			"subject_types_supported": []string{"public", "pairwise"}, "response_types_supported": []string{"id_token"},
			"id_token_signing_alg_values_supported": []string{"RS256"}, "scopes_supported": []string{"openid"},
		})
	case path == "/.well-known/jwks":
		b, err := i.KeySet()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b) // a client that hangs up loses its answer
	case path == "/device":
		_, _ = io.WriteString(w, "This identity provider has no page to log in on: enter the code with `sealwrightd dev login`.\n") // as above
	case strings.HasPrefix(path, "/idtoken/"):
		i.serveToken(w, r, path)
	default:
		http.NotFound(w, r)
	}
}

// serveToken answers a job's request for an ID token. It is strict: the runner
// service refuses a wrong scheme, another job's URL and a missing api-version.
func (i *Issuer) serveToken(w http.ResponseWriter, r *http.Request, path string) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	h := sha256.Sum256([]byte(token))
	i.mu.Lock()
	known, ok := i.jobs[hex.EncodeToString(h[:])]
	i.mu.Unlock()
	if !strings.EqualFold(scheme, "bearer") || !ok || subtle.ConstantTimeCompare([]byte(known.path), []byte(path)) != 1 {
		http.Error(w, "the request token is not that of this job", http.StatusUnauthorized)
		return
	}
	if r.URL.Query().Get("api-version") == "" {
		http.Error(w, "api-version is missing: append &audience= to the URL, do not replace its query", http.StatusBadRequest)
		return
	}
	value, err := i.GitHubToken(known.job, r.URL.Query().Get("audience"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, map[string]any{"count": len(value), "value": value})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(v) // a client that hangs up loses its answer
}

// randomText returns 256 bits of randomness. crypto/rand does not fail.
func randomText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // documented never to return an error
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// uuid returns a random UUID (RFC 9562, version 4).
func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // documented never to return an error
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
