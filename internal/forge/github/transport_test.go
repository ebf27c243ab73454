package github

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func ticking(t *testing.T) (*fake, *Client, *clock) {
	k := &clock{t: time.Now()}
	f, c := world(t, func(_ *forge.Config, o *Options) { o.Now = k.now })
	return f, c, k
}

func TestALimitOfTheForgeIsObeyedUntilItIsOver(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		head   map[string]string
		body   string
		want   time.Duration
	}{
		{"primary, 403", 403, map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "+90"}, `{"message":"API rate limit exceeded"}`, 91 * time.Second},
		{"primary, 429", 429, map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "+90"}, `{}`, 91 * time.Second},
		{"primary, no reset", 403, map[string]string{"X-RateLimit-Remaining": "0"}, `{}`, time.Minute},
		{"secondary, Retry-After", 403, map[string]string{"Retry-After": "30"}, `{"message":"You have exceeded a secondary rate limit"}`, 30 * time.Second},
		{"secondary, 429", 429, nil, `{}`, time.Minute},
		{"secondary by its text", 403, nil, `{"message":"You have exceeded a secondary rate limit. Please wait."}`, time.Minute},
		{"secondary by its link", 403, nil, `{"message":"x","documentation_url":"https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api#about-secondary-rate-limits"}`, time.Minute},
	} {
		f, cl, k := ticking(t)
		if _, _, _, err := cl.repo(t.Context(), standing); err != nil {
			t.Fatal(err)
		}
		limited := true
		f.set("GET "+web+"/commits/"+sha, func(w http.ResponseWriter, r *http.Request) {
			if !limited {
				says(person(sha, 11, "x"))(w, r)
				return
			}
			for n, v := range c.head {
				if d, ok := strings.CutPrefix(v, "+"); ok {
					n2, _ := strconv.Atoi(d)
					v = strconv.FormatInt(k.now().Add(time.Duration(n2)*time.Second).Unix(), 10)
				}
				w.Header().Set(n, v)
			}
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.body)
		})
		q := signing.ForgeQuestion{Commit: true}
		_, err := cl.Ask(t.Context(), origin(), nil, q)
		e := wantCode(t, err, signing.RateLimited)
		if d := c.want - e.RetryAfter; d < 0 || d > 2*time.Second {
			t.Errorf("%s: retry after %v, want %v", c.name, e.RetryAfter, c.want)
		}
		limited = false
		n := f.count("GET")
		k.pass(c.want / 2)
		if _, err := cl.Ask(t.Context(), origin(), nil, q); !signing.Temporary(err) || f.count("GET") != n {
			t.Errorf("%s: %v; %d requests while the limit lasts", c.name, err, f.count("GET")-n)
		}
		k.pass(c.want)
		if _, err := cl.Ask(t.Context(), origin(), nil, q); err != nil {
			t.Errorf("%s: after it: %v", c.name, err)
		}
	}
}

func TestAMissingPermissionIsNoLimit(t *testing.T) {
	f, c, _ := ticking(t)
	f.set("GET "+web+"/commits/"+sha, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-RateLimit-Remaining", "4999")
		w.Header().Set("X-Accepted-GitHub-Permissions", "contents=read")
		fails(403, "Resource not accessible by integration")(w, r)
	})
	if why := question(t, c, origin(), signing.ForgeQuestion{Commit: true}).Unknown[signing.PartCommit]; !strings.Contains(why, "contents: read") {
		t.Errorf("Unknown = %q", why)
	}
}

func TestContentIsMadeWithinGitHubsLimits(t *testing.T) {
	f, c, k := ticking(t)
	f.set("POST "+web+"/issues/1/comments", says(`{"id":1}`))
	f.set("POST /graphql", says(`{"data":{}}`))
	g, _, _, err := c.repo(t.Context(), standing)
	if err != nil {
		t.Fatal(err)
	}
	post := func(path string, in any) error {
		_, err := c.do(t.Context(), g, "POST", path, nil, in, nil, "issues: write")
		return err
	}
	comment := func() error { return post("repos/acme/web/issues/1/comments", map[string]string{"body": "x"}) }
	made := 0
	for range contentPerMinute {
		if err := comment(); err != nil {
			t.Fatal(err)
		}
		made++
	}
	e := wantCode(t, comment(), signing.RateLimited, "80 requests")
	if e.RetryAfter <= 0 || e.RetryAfter > time.Minute {
		t.Errorf("retry after %v", e.RetryAfter)
	}
	// Reading goes on, by GraphQL too; a mutation makes content.
	if err := c.get(t.Context(), g, "repos/acme/web", nil, nil, ""); err != nil {
		t.Error(err)
	}
	if err := post("graphql", map[string]string{"query": "query { viewer { login } }"}); err != nil {
		t.Error(err)
	}
	wantCode(t, post("graphql", map[string]string{"query": "mutation { x }"}), signing.RateLimited)
	for made < contentPerHour {
		k.pass(time.Second)
		if comment() == nil {
			made++
		}
	}
	k.pass(time.Minute)
	e = wantCode(t, comment(), signing.RateLimited, "500 requests")
	if e.RetryAfter < 30*time.Minute || e.RetryAfter > time.Hour {
		t.Errorf("retry after %v", e.RetryAfter)
	}
	k.pass(e.RetryAfter)
	if err := comment(); err != nil {
		t.Error(err)
	}
	if n := f.count("POST " + web); n != contentPerHour+1 {
		t.Errorf("%d comments were made, want %d", n, contentPerHour+1)
	}
}

func TestACachedAnswerIsUsedOnlyAfterTheForgeConfirmsIt(t *testing.T) {
	f, c, k := ticking(t)
	version, status := "a", 200
	var conditional, full int
	f.set("GET "+web+"/commits/"+sha, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"`+version+`"`)
		if r.Header.Get("If-None-Match") == `"`+version+`"` && status == 200 {
			conditional++
			w.WriteHeader(304)
			return
		}
		if status != 200 {
			fails(status, "no")(w, r)
			return
		}
		full++
		says(person(sha, 11, "version "+version))(w, r)
	})
	q := signing.ForgeQuestion{Commit: true}
	for range 3 {
		k.pass(time.Minute)
		if got := question(t, c, origin(), q).Commit; got.Subject != "version a" {
			t.Errorf("%+v", got)
		}
	}
	if full != 1 || conditional != 2 {
		t.Errorf("%d whole and %d conditional answers, want 1 and 2", full, conditional)
	}
	version = "b"
	if got := question(t, c, origin(), q).Commit; got.Subject != "version b" {
		t.Errorf("a change was not seen: %+v", got)
	}
	// Access that was taken away, and a forge that fails, are not covered up.
	status = 403
	if got := question(t, c, origin(), q); got.Commit != nil || got.Unknown[signing.PartCommit] == "" {
		t.Errorf("%+v", got)
	}
	status = 500
	if _, err := c.Ask(t.Context(), origin(), nil, q); !signing.Temporary(err) {
		t.Errorf("error = %v", err)
	}
}

func TestAnUnaskedNotModifiedIsNoAnswer(t *testing.T) {
	f, c := world(t)
	f.set("GET "+web+"/commits/"+sha, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(304) })
	if _, err := c.Ask(t.Context(), origin(), nil, signing.ForgeQuestion{Commit: true}); !signing.Temporary(err) {
		t.Errorf("error = %v", err)
	}
}

func TestTheCacheIsBoundedAndForgetsWhatIsNotUsed(t *testing.T) {
	c := newCache()
	c.put("kept", &entry{etag: "x", body: []byte("x")})
	for i := range maxCached + 100 {
		c.get("kept")
		c.put(strconv.Itoa(i), &entry{body: []byte("y")})
	}
	if len(c.entries) > maxCached || c.get("kept") == nil || c.get("0") != nil {
		t.Errorf("%d entries", len(c.entries))
	}
	for i := range 200 {
		c.put("large"+strconv.Itoa(i), &entry{body: make([]byte, maxCachedBody)})
	}
	sum := 0
	for _, e := range c.entries {
		sum += len(e.body)
	}
	if c.bytes != sum || c.bytes > maxCachedBytes {
		t.Errorf("%d bytes, counted %d", sum, c.bytes)
	}
}

func TestAnAnswerBeyondItsBoundIsRefused(t *testing.T) {
	f, c := world(t, func(_ *forge.Config, o *Options) { o.Outbound.MaxBody = 2000 })
	f.set("GET "+web+"/commits/"+sha, says(person(sha, 11, strings.Repeat("x", 3000))))
	if why := question(t, c, origin(), signing.ForgeQuestion{Commit: true}).Unknown[signing.PartCommit]; !strings.Contains(why, "larger") {
		t.Errorf("Unknown = %q", why)
	}
}

func TestAPageOnAnotherHostIsNotFollowed(t *testing.T) {
	f, c := world(t)
	runs(t, f)
	jobs := web + "/actions/runs/30433642/attempts/1/jobs"
	f.set("GET "+jobs, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", `<https://evil.example/x?page=2>; rel="next"`)
		says(recorded(t, "jobs.json"))(w, r)
	})
	f.set("GET "+jobs+"?page=2&per_page=100", says(`{"jobs":[]}`))
	if got := question(t, c, origin(), signing.ForgeQuestion{Run: true}).Run; got == nil {
		t.Error("the page was not asked for at its own host")
	}
}

func TestAnEmptyAnswerIsNoAnswer(t *testing.T) {
	f, c := world(t)
	g, _, _, err := c.repo(t.Context(), standing)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"", " \n"} {
		f.set("GET "+web, says(body))
		var r repository
		wantCode(t, c.get(t.Context(), g, "repos/acme/web", nil, &r, ""), signing.Unavailable)
	}
}

func TestWhatIsLeftOfALimitIsToldForEachInstallation(t *testing.T) {
	told := map[string]int64{}
	f, c := world(t, func(_ *forge.Config, o *Options) {
		o.Left = func(forge, account, limit string, left int64) { told[forge+" "+account+" "+limit] = left }
	})
	inner := f.answers["GET "+web+"/installation"]
	f.set("GET "+web+"/installation", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-RateLimit-Remaining", "4999")
		inner(w, r)
	})
	remaining := func(resource, left string) {
		inner := says(`{"id":1296269,"full_name":"acme/web","default_branch":"main"}`)
		f.set("GET "+web, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-RateLimit-Resource", resource)
			w.Header().Set("X-RateLimit-Remaining", left)
			inner(w, r)
		})
		if _, _, _, err := c.repo(t.Context(), standing); err != nil {
			t.Fatal(err)
		}
		c.places = map[string]*place{} // asked again
	}
	remaining("core", "4711")
	remaining("a\nlabel of strangers", "3")
	remaining("core", "many")
	remaining("core", "-1")
	want := map[string]int64{"github.com app 5 core": 4999, "github.com installation 77 core": 4711, "github.com installation 77 other": 3}
	if d := cmp.Diff(want, told); d != "" {
		t.Error(d)
	}
}
