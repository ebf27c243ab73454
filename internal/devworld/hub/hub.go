// Package hub is a strict GitHub on loopback, in memory: the part of the REST and
// GraphQL APIs that a GitHub App of this service uses, and the webhooks that it
// gets. It refuses what GitHub refuses (a wrong App token, a missing permission,
// what the App may not see, unknown fields, too long texts, too many requests),
// with GitHub's status and error document.
//
// Tests and `sealwrightd dev` make users, organisations and repositories by the
// methods of Hub, let people act (Say, EditComment, Submit, Press, Push), and make
// the forge misbehave (Fail, Lose). Everything is under one lock: state that is
// changed while the Hub serves is changed inside Do.
package hub

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxBody bounds a request: GitHub takes a little more than its longest text.
	maxBody = 1 << 20
	// maxText is GitHub's limit of a body, a summary or a text in characters.
	maxText = 65_536

	defaultRate      = 5_000 // requests an hour of an installation
	contentPerMinute = 80
	contentPerHour   = 500
	contentWait      = 60 // seconds, in Retry-After

	// maxLog bounds the log of requests, and that of deliveries, of a Hub that runs for
	// days; the older half goes.
	maxLog = 10_000
)

// Options configure a Hub; the zero value is ready to use.
type Options struct {
	Now func() time.Time // time.Now by default
	// Web is the base of html_url, "https://github.com" by default.
	Web string
	// Rate is how many requests an installation may make in an hour, 5,000 by default.
	Rate int
}

// Hub is a GitHub. It is an http.Handler, of the API at its root and, as on GitHub
// Enterprise Server, at /api/v3 and /api/graphql. Close it.
type Hub struct {
	now    func() time.Time
	web    string
	rate   int
	routes []route // in order of registration

	mu     sync.Mutex // guards all below, and all state that hangs on it
	lastID int64
	users  []*User
	orgs   []*Org
	repos  []*Repo
	apps   []*App
	tokens map[string]*token
	usage  map[int64]*usage // by installation id, 0 for Apps themselves
	faults []*Fault
	log    []Access
	post   *postman
}

// usage is what an installation has asked for.
type usage struct {
	reset   time.Time
	left    int
	content []time.Time // of the last hour
}

// Access is a request that was answered.
type Access struct {
	At          time.Time
	Method      string
	Path, Query string
	Body        string
	Status      int
}

// New returns an empty Hub.
func New(o Options) *Hub {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Web == "" {
		o.Web = "https://github.com"
	}
	if o.Rate == 0 {
		o.Rate = defaultRate
	}
	h := &Hub{now: o.Now, web: o.Web, rate: o.Rate, lastID: 1000, tokens: map[string]*token{}, usage: map[int64]*usage{}}
	h.post = newPostman(h)
	h.appRoutes()
	h.peopleRoutes()
	h.threadRoutes()
	h.writeRoutes()
	h.pullRoutes()
	h.checkRoutes()
	h.on("POST /graphql", anyToken, h.graphql)
	h.originRoutes()
	return h
}

// Close ends the sending of webhooks.
func (h *Hub) Close() { h.post.close() }

// Do runs f while nothing is served. f must not call methods of Hub or of its
// state that lock: those that make or do something.
func (h *Hub) Do(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// id returns a number that nothing else has. It must be called with the lock held.
func (h *Hub) id() int64 { h.lastID += 7; return h.lastID }

// second is the time as GitHub writes it: whole seconds.
func (h *Hub) second() time.Time { return h.now().UTC().Truncate(time.Second) }

// Log returns the requests that were answered, oldest first.
func (h *Hub) Log() []Access {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Access(nil), h.log...)
}

// obj is a JSON object.
type obj = map[string]any

// reply is an answer. A nil body is sent as nothing.
type reply struct {
	status int
	body   any
	link   string
	header http.Header
}

func ok(body any) reply      { return reply{status: 200, body: body} }
func created(body any) reply { return reply{status: 201, body: body} }
func nothing() reply         { return reply{status: 204} }

// failed is GitHub's error document.
func failed(status int, message string) reply {
	return reply{status: status, body: obj{"message": message, "documentation_url": "https://docs.github.com/rest", "status": strconv.Itoa(status)}}
}

func notFound() reply { return failed(404, "Not Found") }

// unprocessable is the document of a failed validation.
func unprocessable(resource, field, code, message string) reply {
	r := failed(422, "Validation Failed")
	r.body.(obj)["errors"] = []obj{{"resource": resource, "field": field, "code": code, "message": message}}
	return r
}

// call is one authenticated request.
type call struct {
	h   *Hub
	r   *http.Request
	raw []byte
	app *App
	// token is nil where the App itself asks.
	token *token
	repo  *Repo // of {owner} and {repo}
	org   *Org  // of {org}
}

// The words of on besides permissions.
const (
	appItself = "app" // a JWT of the App
	anyToken  = ""    // an installation token
)

// on registers a route of the API. need is appItself, anyToken, or permissions of
// which the token needs one: "issues:read|pull_requests:read". A route with
// {owner} and {repo} or with {org} is answered only for what the installation sees.
func (h *Hub) on(pattern, need string, f func(*call) reply) {
	h.handle(pattern, func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err != nil || len(raw) > maxBody {
			h.send(w, r, nil, raw, failed(413, "Payload too big"))
			return
		}
		if h.misbehave(w, r, raw) {
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		c := &call{h: h, r: r, raw: raw}
		answer, done := c.admit(need)
		if !done {
			answer = f(c)
		}
		h.send(w, r, c, raw, answer)
	})
}

// ServeHTTP implements http.Handler.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p := r.URL.Path; p == "/api/graphql" || strings.HasPrefix(p, "/api/v3/") {
		cut := "/api"
		if p != "/api/graphql" {
			cut = "/api/v3"
		}
		r = r.Clone(r.Context())
		r.URL.Path = strings.TrimPrefix(r.URL.Path, cut)
		r.URL.RawPath = strings.TrimPrefix(r.URL.RawPath, cut)
	}
	f := h.route(r)
	if f == nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.send(w, r, nil, nil, notFound())
		return
	}
	f(w, r)
}

// admit checks who asks, and what of the path the asker may see. done says that
// the reply is the answer.
func (c *call) admit(need string) (answer reply, done bool) {
	if agent := c.r.Header.Get("User-Agent"); agent == "" {
		return failed(403, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header"), true
	}
	if !c.authenticate(need == appItself) {
		return failed(401, "Bad credentials"), true
	}
	if r, limited := c.limit(); limited {
		return r, true
	}
	if owner, name := c.r.PathValue("owner"), c.r.PathValue("repo"); owner != "" {
		if c.repo = c.h.repoNamed(owner, name); c.repo == nil {
			return notFound(), true
		}
		if c.repo.FullName() != owner+"/"+name && c.r.Method == http.MethodGet && c.repo.wasCalled(owner+"/"+name) {
			return c.moved(), true
		}
	}
	if org := c.r.PathValue("org"); org != "" {
		if c.org = c.h.orgNamed(org); c.org == nil {
			return notFound(), true
		}
	}
	if need == appItself || need == anyToken {
		return reply{}, false
	}
	return c.permitted(need)
}

// moved redirects to the repository by its id, as GitHub does after a rename.
func (c *call) moved() reply {
	rest := strings.SplitN(strings.TrimPrefix(c.r.URL.EscapedPath(), "/repos/"), "/", 3)
	u := fmt.Sprintf("%s/repositories/%d", c.base(), c.repo.ID)
	if len(rest) == 3 {
		u += "/" + rest[2]
	}
	r := failed(301, "Moved Permanently")
	r.body.(obj)["url"] = u
	r.header = http.Header{"Location": {u}}
	return r
}

// permitted checks the permission of the token on what the path names.
func (c *call) permitted(need string) (answer reply, done bool) {
	has := ""
	for _, alternative := range strings.Split(need, "|") {
		name, level, _ := strings.Cut(alternative, ":")
		if got := c.token.permissions[name]; got == "write" || got == "admin" || got == level {
			has = alternative
		}
	}
	refused := failed(403, "Resource not accessible by integration")
	refused.header = http.Header{"X-Accepted-Github-Permissions": {strings.ReplaceAll(strings.ReplaceAll(need, ":", "="), "|", "; ")}}
	if c.repo != nil {
		on := c.token.sees(c.repo)
		switch {
		case !on && c.repo.Private:
			return notFound(), true
		case !on && c.r.Method != http.MethodGet:
			return refused, true
		case !on:
			return reply{}, false // public: anybody reads
		}
	}
	if c.org != nil && c.token.in.Account != c.org.User {
		// Another organisation's members are not for us.
		return notFound(), true
	}
	if has == "" {
		return refused, true
	}
	return reply{}, false
}

// limit counts the request and refuses it if it is one too many.
func (c *call) limit() (reply, bool) {
	u := c.usage()
	if u.left <= 0 {
		return failed(403, "API rate limit exceeded for installation"), true
	}
	u.left--
	if c.token == nil || !c.makesContent() {
		return reply{}, false
	}
	now := c.h.now()
	fresh, minute := u.content[:0], 0
	for _, t := range u.content {
		if now.Sub(t) < time.Hour {
			fresh = append(fresh, t)
		}
		if now.Sub(t) < time.Minute {
			minute++
		}
	}
	u.content = fresh
	if minute >= contentPerMinute || len(fresh) >= contentPerHour {
		r := failed(403, "You have exceeded a secondary rate limit and have been temporarily blocked from content creation. Please retry your request again later.")
		r.body.(obj)["documentation_url"] = "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"
		r.header = http.Header{"Retry-After": {strconv.Itoa(contentWait)}}
		return r, true
	}
	u.content = append(u.content, now)
	return reply{}, false
}

func (c *call) makesContent() bool {
	if c.r.URL.Path == "/graphql" {
		return bytes.Contains(c.raw, []byte("mutation"))
	}
	return c.r.Method == http.MethodPost || c.r.Method == http.MethodPatch || c.r.Method == http.MethodPut
}

func (c *call) usage() *usage {
	var of int64
	if c.token != nil {
		of = c.token.in.ID
	}
	u := c.h.usage[of]
	now := c.h.now()
	if u == nil || !now.Before(u.reset) {
		u = &usage{reset: now.Add(time.Hour), left: c.h.rate}
		c.h.usage[of] = u
	}
	return u
}

// base is the URL of the API as the caller knows it.
func (c *call) base() string { return "http://" + c.r.Host }

// send writes an answer, with an ETag where it is a read that worked. It must be
// called with the lock held.
func (h *Hub) send(w http.ResponseWriter, r *http.Request, c *call, raw []byte, a reply) {
	head := w.Header()
	for k, v := range a.header {
		head[k] = v
	}
	head.Set("X-Github-Request-Id", randomHex(8))
	head.Set("X-Github-Media-Type", "github.v3; format=json")
	if a.link != "" {
		head.Set("Link", a.link)
	}
	var body []byte
	if a.body != nil {
		head.Set("Content-Type", "application/json; charset=utf-8")
		var err error
		if body, err = json.Marshal(a.body); err != nil {
			a.status, body = 500, []byte(`{"message":"`+err.Error()+`"}`)
		}
	}
	if r.Method == http.MethodGet && a.status == 200 {
		sum := sha256.Sum256(body)
		etag := `W/"` + hex.EncodeToString(sum[:]) + `"`
		head.Set("Etag", etag)
		head.Set("Cache-Control", "private, max-age=60, s-maxage=60")
		if r.Header.Get("If-None-Match") == etag {
			a.status, body = http.StatusNotModified, nil
			if c != nil {
				c.usage().left++ // a 304 is not counted
			}
		}
	}
	if c != nil && c.app != nil {
		u := c.usage()
		resource := "core"
		if r.URL.Path == "/graphql" {
			resource = "graphql"
		}
		head.Set("X-Ratelimit-Limit", strconv.Itoa(h.rate))
		head.Set("X-Ratelimit-Remaining", strconv.Itoa(u.left))
		head.Set("X-Ratelimit-Used", strconv.Itoa(h.rate-u.left))
		head.Set("X-Ratelimit-Reset", strconv.FormatInt(u.reset.Unix(), 10))
		head.Set("X-Ratelimit-Resource", resource)
	}
	if len(h.log) >= maxLog {
		h.log = append([]Access(nil), h.log[maxLog/2:]...)
	}
	h.log = append(h.log, Access{At: h.now(), Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Body: string(raw), Status: a.status})
	w.WriteHeader(a.status)
	_, _ = w.Write(body) // a client that hangs up loses its answer
}

// decode reads the JSON body into a struct. Fields that it has not are refused,
// as GitHub does.
func (c *call) decode(v any) (reply, bool) {
	d := json.NewDecoder(bytes.NewReader(c.raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if name, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
			return failed(422, "Invalid request.\n\n"+name+" is not a permitted key."), false
		}
		if _, wrong := err.(*json.UnmarshalTypeError); wrong {
			return failed(422, "Invalid request.\n\n"+err.Error()), false
		}
		return failed(400, "Problems parsing JSON"), false
	}
	return reply{}, true
}

// number reads a whole number from the path; 0 is none.
func (c *call) number(name string) int64 {
	n, err := strconv.ParseInt(c.r.PathValue(name), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// page returns the asked page of a list, and the links to the others. Under key,
// the list is in an object with total_count.
func (c *call) page(items []obj, key string) reply {
	q := c.r.URL.Query()
	size, page := 30, 1
	if n, err := strconv.Atoi(q.Get("per_page")); err == nil && n > 0 {
		size = min(n, 100)
	}
	if n, err := strconv.Atoi(q.Get("page")); err == nil && n > 0 {
		page = n
	}
	last := max((len(items)+size-1)/size, 1)
	from, to := min((page-1)*size, len(items)), min(page*size, len(items))
	part := append([]obj{}, items[from:to]...)
	var links []string
	link := func(n int, rel string) {
		q.Set("page", strconv.Itoa(n))
		q.Set("per_page", strconv.Itoa(size))
		links = append(links, fmt.Sprintf(`<%s%s?%s>; rel=%q`, c.base(), c.r.URL.EscapedPath(), q.Encode(), rel))
	}
	if page > 1 {
		link(page-1, "prev")
	}
	if page < last {
		link(page+1, "next")
		link(last, "last")
	}
	if page > 1 {
		link(1, "first")
	}
	a := reply{status: 200, body: part, link: strings.Join(links, ", ")}
	if key != "" {
		a.body = obj{"total_count": len(items), key: part}
	}
	return a
}
