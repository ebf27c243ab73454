//go:build conformance

package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A description of an API that is read whole takes Prism minutes, so that it gets
// the paths that are asked for.
const prismStart = 5 * time.Minute

// recordedRequest is a request of the GitHub client, as its tests write it.
type recordedRequest struct{ Method, URL, Accept, Type, Body string }

// TestEveryRequestToGitHubIsOneOfItsPublishedAPI runs the tests of the client, each
// request of which is written down, and holds all of them against GitHub's OpenAPI
// description by Prism, and the documents of GraphQL against GitHub's schema.
func TestEveryRequestToGitHubIsOneOfItsPublishedAPI(t *testing.T) {
	prism := tool(t, "prism")
	requests := recordedRequests(t)
	folder := filepath.Dir(prism)

	var rest []recordedRequest
	graph := map[string]bool{}
	for _, r := range requests {
		switch path, _, _ := strings.Cut(r.URL, "?"); {
		case path == "/graphql":
			var q struct{ Query string }
			if err := json.Unmarshal([]byte(r.Body), &q); err != nil {
				t.Errorf("a request to GraphQL is no JSON: %v", err)
			}
			graph[q.Query] = true
		case strings.HasPrefix(path, "/repositories/") && r.Method == http.MethodGet:
			// Where GitHub redirects to after a rename. It is not in the description.
		case path == "/blob", strings.HasPrefix(path, "/blob/"):
			// The storage that GitHub sends to for bundles of attestations.
		default:
			// {ref} is the one parameter in which a slash stands as it is.
			if before, ref, found := strings.Cut(path, "/git/ref/"); found {
				r.URL = before + "/git/ref/" + strings.ReplaceAll(ref, "/", "%2F") + strings.TrimPrefix(r.URL, path)
			}
			rest = append(rest, r)
		}
	}
	if len(rest) < 50 || len(graph) < 3 {
		t.Fatalf("%d requests and %d documents were written down: too few to be all", len(rest), len(graph))
	}

	t.Run("REST", func(t *testing.T) {
		description := trimmed(t, filepath.Join(folder, "node_modules", "@octokit", "openapi", "generated", "api.github.com.json"), rest)
		proxy := startPrism(t, prism, description)
		for _, r := range rest {
			for _, v := range prismViolations(t, proxy, r) {
				t.Errorf("%s %s %.300s: %s", r.Method, r.URL, r.Body, v)
			}
		}
		// It must be able to say no.
		for _, bad := range []recordedRequest{
			{Method: "POST", URL: "/repos/acme/web/statuses/" + strings.Repeat("0", 40), Type: "application/json", Body: `{"state":"waiting"}`},
			{Method: "POST", URL: "/repos/acme/web/issues/1/comments", Type: "application/json", Body: `{"text":"x"}`},
		} {
			if len(prismViolations(t, proxy, bad)) == 0 {
				t.Errorf("%s %s %s: Prism finds nothing wrong with it", bad.Method, bad.URL, bad.Body)
			}
		}
	})
	t.Run("GraphQL", func(t *testing.T) {
		check := func(documents []string) string {
			in, err := json.Marshal(documents)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
			defer cancel()
			cmd := exec.CommandContext(ctx, "node", filepath.Join(folder, "graphql.mjs"))
			cmd.Env = append(os.Environ(), "PATH="+filepath.Join(folder, "node_modules", ".bin")+":"+os.Getenv("PATH"))
			cmd.Stdin = bytes.NewReader(in)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return string(out)
		}
		if out := check(slices.Sorted(maps.Keys(graph))); out != "" {
			t.Error(out)
		}
		if check([]string{`query { nodes(ids: []) { nonsense } }`}) == "" {
			t.Error("nothing is found wrong with a field that GitHub does not have")
		}
	})
	t.Logf("%d requests, %d documents of GraphQL", len(rest), len(graph))
}

// recordedRequests runs the client's tests and returns what they asked, each once.
func recordedRequests(t *testing.T) []recordedRequest {
	t.Helper()
	file := filepath.Join(t.TempDir(), "requests")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "./internal/forge/github")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "SEALWRIGHT_RECORD_REQUESTS="+file)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := map[recordedRequest]bool{}
	var out []recordedRequest
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var r recordedRequest
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		if !seen[r] {
			seen[r] = true
			out = append(out, r)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// trimmed writes the description without the paths that no request matches. A
// request that matches none is not of the API.
func trimmed(t *testing.T, full string, requests []recordedRequest) string {
	t.Helper()
	text, err := os.ReadFile(full)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]json.RawMessage
	var paths map[string]json.RawMessage
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(doc["paths"], &paths); err != nil {
		t.Fatal(err)
	}
	templates := map[string]*regexp.Regexp{}
	for p := range paths {
		quoted := regexp.QuoteMeta(p)
		templates[p] = regexp.MustCompile("^" + regexp.MustCompile(`\\\{[a-z_]+\\\}`).ReplaceAllString(quoted, `[^/]+`) + "$")
	}
	kept := map[string]json.RawMessage{}
	for _, r := range requests {
		path, _, _ := strings.Cut(r.URL, "?")
		found := false
		for p, re := range templates {
			if re.MatchString(path) {
				kept[p], found = paths[p], true
			}
		}
		if !found {
			t.Errorf("%s %s is no path of GitHub's API", r.Method, r.URL)
		}
	}
	if doc["paths"], err = json.Marshal(kept); err != nil {
		t.Fatal(err)
	}
	// The server is where Prism listens.
	doc["servers"] = json.RawMessage(`[{"url":"/"}]`)
	if text, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "api.json")
	if err := os.WriteFile(out, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// upstreamStatus is none that GitHub has: what Prism says of the answers is one line.
const upstreamStatus = 299

// startPrism runs Prism as a proxy before a server that says yes to everything,
// and returns its address.
func startPrism(t *testing.T, prism, description string) string {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(upstreamStatus)
		_, _ = io.WriteString(w, "{}")
	}))
	t.Cleanup(upstream.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	ctx, cancel := context.WithCancel(context.Background())
	var log bytes.Buffer
	cmd := exec.CommandContext(ctx, prism, "proxy", description, upstream.URL, "-p", port, "-h", "127.0.0.1")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	for until := time.Now().Add(prismStart); ; time.Sleep(200 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return "http://" + addr
		}
		if time.Now().After(until) {
			t.Fatalf("Prism does not listen: %v", err)
		}
	}
}

// prismViolations returns what Prism says against a request. What it says of the answer
// is of no interest.
func prismViolations(t *testing.T, proxy string, r recordedRequest) []string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), r.Method, proxy+r.URL, strings.NewReader(r.Body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"Accept": r.Accept, "Content-Type": r.Type} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return []string{err.Error()}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	if resp.StatusCode != upstreamStatus {
		out = append(out, fmt.Sprintf("Prism answers %d %.500s", resp.StatusCode, answer))
	}
	header := resp.Header.Get("Sl-Violations")
	if header == "" {
		return out
	}
	if plain, err := url.PathUnescape(header); err == nil && json.Valid([]byte(plain)) {
		header = plain
	}
	var violations []struct {
		Location []any  `json:"location"`
		Severity string `json:"severity"`
		Message  string `json:"message"`
	}
	if err := json.Unmarshal([]byte(header), &violations); err != nil {
		t.Fatalf("Sl-Violations %q: %v", header, err)
	}
	for _, v := range violations {
		if len(v.Location) > 0 && v.Location[0] == "request" {
			out = append(out, fmt.Sprintf("%s at %v", v.Message, v.Location))
		}
	}
	return out
}
