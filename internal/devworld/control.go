package devworld

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxControlBody bounds the bodies of control requests: a job or an image
	// spec is some hundred bytes.
	maxControlBody = 64 << 10
	// maxHeldWait bounds how long /dev/held waits for a request to be held.
	maxHeldWait = 5 * time.Minute
)

// control adds the endpoints by which scripts drive the world. All are POST with
// a JSON body, but /dev/held; all want the control token as a bearer token, so
// that no web page opened on the same machine can use them.
//
//	POST /dev/job/github  body: GitHubJob over NewGitHubJob       -> NAME='value' lines
//	POST /dev/job/gitlab  body: GitLabJob over NewGitLabJob;
//	     ?audience=&variable=SEALWRIGHT_ID_TOKEN                  -> NAME='value' lines
//	POST /dev/person      body: Person over NewPerson; ?audience=  -> an ID token
//	POST /dev/login       body: {user_code, refuse, person: Person over NewPerson}
//	POST /dev/image       body: ImageSpec                         -> REPOSITORY@DIGEST
//	POST /dev/merge       body: {by}, octocat by default          -> NAME='value' lines
//	POST /dev/comment     body: {by, text, pull}                  -> where it is
//	GET  /dev/thread?pull=N                                       -> its comments
//	POST /dev/hold        body: {method, path, after, skip}       -> id
//	GET  /dev/held/{id}?wait=30s  200 when a request is held, 504 if none comes
//	POST /dev/release/{id}?drop=true                              -> number of requests seen
func (w *World) control(mux *http.ServeMux) {
	for pattern, h := range map[string]func(*http.Request) (string, error){
		"POST /dev/job/github":   w.devGitHubJob,
		"POST /dev/job/gitlab":   w.devGitLabJob,
		"POST /dev/person":       w.devPerson,
		"POST /dev/login":        w.devLogin,
		"POST /dev/image":        w.devImage,
		"POST /dev/merge":        w.devMerge,
		"POST /dev/comment":      w.devComment,
		"GET /dev/thread":        w.devThread,
		"POST /dev/hold":         w.devHold,
		"GET /dev/held/{id}":     w.devHeld,
		"POST /dev/release/{id}": w.devRelease,
	} {
		mux.HandleFunc(pattern, func(rw http.ResponseWriter, r *http.Request) {
			scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			if !strings.EqualFold(scheme, "bearer") || subtle.ConstantTimeCompare([]byte(token), []byte(w.ControlToken)) != 1 {
				http.Error(rw, "wanted: Authorization: Bearer and the control token of this world", http.StatusUnauthorized)
				return
			}
			text, err := h(r)
			var refused *controlError
			switch {
			case errors.As(err, &refused):
				http.Error(rw, refused.Error(), refused.status)
			case err != nil:
				http.Error(rw, err.Error(), http.StatusBadRequest)
			default:
				_, _ = io.WriteString(rw, text) // a client that hangs up loses its answer
			}
		})
	}
}

type controlError struct {
	status int
	text   string
}

func (e *controlError) Error() string { return e.text }

func decode(r *http.Request, v any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxControlBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil && !errors.Is(err, io.EOF) { // an empty body changes nothing
		return fmt.Errorf("reading the request: %w", err)
	}
	return nil
}

func (w *World) devGitHubJob(r *http.Request) (string, error) {
	j := NewGitHubJob()
	if err := decode(r, &j); err != nil {
		return "", err
	}
	return shellLines(w.GitHub.RegisterGitHubJob(j)), nil
}

func (w *World) devGitLabJob(r *http.Request) (string, error) {
	j := NewGitLabJob()
	if err := decode(r, &j); err != nil {
		return "", err
	}
	variable := r.URL.Query().Get("variable")
	if variable == "" {
		variable = "SEALWRIGHT_ID_TOKEN"
	}
	env, err := w.GitLab.GitLabEnv(j, variable, r.URL.Query().Get("audience"))
	if err != nil {
		return "", err
	}
	return shellLines(env), nil
}

func (w *World) devImage(r *http.Request) (string, error) {
	s := ImageSpec{Repository: "payments/web", Tag: "v1.0.0"}
	if err := decode(r, &s); err != nil {
		return "", err
	}
	image, err := w.Registry.PushImage(r.Context(), s)
	if err != nil {
		return "", err
	}
	return image.Reference() + "\n", nil
}

func (w *World) devHold(r *http.Request) (string, error) {
	var q struct {
		Method string `json:"method"`
		Path   string `json:"path"`
		After  bool   `json:"after"`
		Skip   int    `json:"skip"`
	}
	if err := decode(r, &q); err != nil {
		return "", err
	}
	path, err := regexp.Compile(q.Path)
	if err != nil {
		return "", fmt.Errorf("reading path: %w", err)
	}
	h := w.Registry.Add(Rule{Method: q.Method, Path: path, After: q.After, Skip: q.Skip, Hold: true})
	w.mu.Lock()
	defer w.mu.Unlock()
	id := strconv.Itoa(len(w.holds) + 1)
	w.holds[id] = h
	return id + "\n", nil
}

func (w *World) hold(r *http.Request) (*Fault, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h, ok := w.holds[r.PathValue("id")]
	if !ok {
		return nil, &controlError{http.StatusNotFound, "no such hold"}
	}
	return h, nil
}

func (w *World) devHeld(r *http.Request) (string, error) {
	h, err := w.hold(r)
	if err != nil {
		return "", err
	}
	wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil || wait < 0 || wait > maxHeldWait {
		wait = maxHeldWait
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-h.Arrived():
		return "held\n", nil
	case <-r.Context().Done():
		return "", r.Context().Err()
	case <-t.C:
		return "", &controlError{http.StatusGatewayTimeout, "no request was held in " + wait.String()}
	}
}

func (w *World) devRelease(r *http.Request) (string, error) {
	h, err := w.hold(r)
	if err != nil {
		return "", err
	}
	if r.URL.Query().Get("drop") == "true" {
		h.Drop()
	}
	// What was dropped stays dropped; later requests pass.
	h.Remove()
	return fmt.Sprintln(h.Seen()), nil
}

// shellLines returns NAME='value' lines that a POSIX shell reads back unchanged.
func shellLines(env map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&b, "export %s='%s'\n", k, strings.ReplaceAll(env[k], "'", `'\''`))
	}
	return b.String()
}
