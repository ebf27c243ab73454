package hub

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"time"
	"unicode/utf8"
)

// GitHub's limits of a check run and of a status.
const (
	maxSummary     = 65_535
	maxAnnotations = 50 // in one request
	maxActions     = 3
	maxStatuses    = 1000 // of one context on one commit
	maxDescription = 140
)

var (
	checkStates = []string{"queued", "in_progress", "completed"}
	conclusions = []string{"success", "failure", "neutral", "cancelled", "skipped", "timed_out", "action_required"}
)

// checkIn is the body of both requests that write a check run.
type checkIn struct {
	Name        *string      `json:"name"`
	HeadSHA     *string      `json:"head_sha"`
	DetailsURL  *string      `json:"details_url"`
	ExternalID  *string      `json:"external_id"`
	Status      *string      `json:"status"`
	StartedAt   *time.Time   `json:"started_at"`
	Conclusion  *string      `json:"conclusion"`
	CompletedAt *time.Time   `json:"completed_at"`
	Output      *checkOutput `json:"output"`
	Actions     []Action     `json:"actions"`
}

type checkOutput struct {
	Title       *string           `json:"title"`
	Summary     *string           `json:"summary"`
	Text        *string           `json:"text"`
	Annotations []Annotation      `json:"annotations"`
	Images      []json.RawMessage `json:"images"`
}

// checkRoutes are those of check runs and statuses.
func (h *Hub) checkRoutes() {
	const base = "/repos/{owner}/{repo}"
	h.on("POST "+base+"/check-runs", "checks:write", h.newCheck)
	h.on("PATCH "+base+"/check-runs/{id}", "checks:write", h.patchCheck)
	h.on("GET "+base+"/check-runs/{id}", "checks:read", func(c *call) reply {
		k := c.check()
		if k == nil {
			return notFound()
		}
		return ok(k.doc(c.base()))
	})
	h.on("GET "+base+"/check-runs/{id}/annotations", "checks:read", func(c *call) reply {
		k := c.check()
		if k == nil {
			return notFound()
		}
		var out []obj
		for _, a := range k.Annotations {
			out = append(out, obj{"path": a.Path, "start_line": a.StartLine, "end_line": a.EndLine, "annotation_level": a.Level, "title": orNull(a.Title), "message": a.Message, "start_column": nil, "end_column": nil, "raw_details": nil, "blob_href": ""})
		}
		return c.page(out, "")
	})
	h.on("POST "+base+"/statuses/{sha}", "statuses:write", h.newStatus)
}

func (c *call) check() *CheckRun {
	for _, k := range c.repo.Checks {
		if k.ID == c.number("id") {
			return k
		}
	}
	return nil
}

func (h *Hub) newCheck(c *call) reply {
	var in checkIn
	if r, fine := c.decode(&in); !fine {
		return r
	}
	if in.Name == nil || *in.Name == "" || in.HeadSHA == nil {
		return failed(422, "Invalid request.\n\nNo subschema in \"oneOf\" matched.\n\"name\", \"head_sha\" wasn't supplied.")
	}
	if c.repo.Commits[*in.HeadSHA] == nil {
		return failed(422, "No commit found for SHA: "+*in.HeadSHA)
	}
	k := &CheckRun{Repo: c.repo, App: c.app, SHA: *in.HeadSHA, Status: "queued"}
	if r, fine := h.fill(k, in); !fine {
		return r
	}
	k.ID = h.id()
	c.repo.Checks = append(c.repo.Checks, k)
	return created(k.doc(c.base()))
}

func (h *Hub) patchCheck(c *call) reply {
	k := c.check()
	if k == nil {
		return notFound()
	}
	if k.App != c.app {
		return failed(403, "Invalid app_id `"+c.app.Slug+"` - check run can only be modified by the GitHub App that created it.")
	}
	var in checkIn
	if r, fine := c.decode(&in); !fine {
		return r
	}
	if in.HeadSHA != nil && *in.HeadSHA != k.SHA {
		return failed(422, "Invalid request.\n\n\"head_sha\" is not a permitted key.")
	}
	after := *k
	after.Annotations = slices.Clone(k.Annotations)
	if r, fine := h.fill(&after, in); !fine {
		return r
	}
	*k = after
	return ok(k.doc(c.base()))
}

// fill applies what a request says. k is of no use where it refuses.
func (h *Hub) fill(k *CheckRun, in checkIn) (reply, bool) {
	if r, fine := in.validate(); !fine {
		return r, false
	}
	for to, from := range map[*string]*string{&k.Name: in.Name, &k.DetailsURL: in.DetailsURL, &k.ExternalID: in.ExternalID} {
		if from != nil {
			*to = *from
		}
	}
	if in.StartedAt != nil {
		k.Started = *in.StartedAt
	}
	if k.Started.IsZero() {
		k.Started = h.second()
	}
	if in.Status != nil {
		k.Status = *in.Status
	}
	if k.Status != "completed" {
		k.Conclusion, k.Completed = "", time.Time{}
	}
	if in.Conclusion != nil {
		// A conclusion completes the run.
		k.Conclusion, k.Status, k.Completed = *in.Conclusion, "completed", h.second()
	}
	if k.Status == "completed" && k.Conclusion == "" {
		return failed(422, "Invalid request.\n\n\"conclusion\" wasn't supplied."), false
	}
	if o := in.Output; o != nil {
		k.Summary = *o.Summary
		if o.Title != nil {
			k.Title = *o.Title
		}
		k.Text = ""
		if o.Text != nil {
			k.Text = *o.Text
		}
		k.Annotations = append(k.Annotations, o.Annotations...) // each request adds
	}
	if in.Actions != nil {
		k.Actions = in.Actions
	}
	return reply{}, true
}

func (in checkIn) validate() (reply, bool) {
	refuse := func(m string) (reply, bool) { return failed(422, "Invalid request.\n\n"+m), false }
	switch {
	case in.Status != nil && !slices.Contains(checkStates, *in.Status):
		return refuse(*in.Status + " is not a member of [\"queued\", \"in_progress\", \"completed\"].")
	case in.Conclusion != nil && !slices.Contains(conclusions, *in.Conclusion):
		return refuse(*in.Conclusion + " is not a member of the conclusions.")
	case in.DetailsURL != nil && !isURL(*in.DetailsURL):
		return unprocessable("CheckRun", "details_url", "custom", "details_url must use http or https scheme"), false
	case len(in.Actions) > maxActions:
		return refuse("No more than 3 items are allowed; 4 were supplied.")
	}
	for _, a := range in.Actions {
		if a.Label == "" || a.Description == "" || a.Identifier == "" || longer(a.Label, 20) || longer(a.Description, 40) || longer(a.Identifier, 20) {
			return refuse("An action needs a label (20), a description (40) and an identifier (20 characters at most).")
		}
	}
	o := in.Output
	if o == nil {
		return reply{}, true
	}
	switch {
	case o.Summary == nil || in.HeadSHA != nil && o.Title == nil:
		return refuse("\"title\", \"summary\" weren't supplied.")
	case longer(*o.Summary, maxSummary) || o.Text != nil && longer(*o.Text, maxSummary):
		return refuse("Only 65535 characters are allowed.")
	case len(o.Annotations) > maxAnnotations:
		return refuse("No more than 50 items are allowed.")
	}
	for _, a := range o.Annotations {
		if a.Path == "" || a.StartLine < 1 || a.EndLine < a.StartLine || a.Message == "" || !slices.Contains([]string{"notice", "warning", "failure"}, a.Level) || len(a.Message) > 64<<10 || longer(a.Title, 255) {
			return refuse("An annotation is not valid.")
		}
	}
	return reply{}, true
}

func longer(s string, most int) bool { return utf8.RuneCountInString(s) > most }

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func (h *Hub) newStatus(c *call) reply {
	sha := c.r.PathValue("sha")
	if c.repo.Commits[sha] == nil {
		return failed(422, "No commit found for SHA: "+sha)
	}
	var in struct {
		State       string  `json:"state"`
		TargetURL   *string `json:"target_url"`
		Description *string `json:"description"`
		Context     string  `json:"context"`
	}
	if r, fine := c.decode(&in); !fine {
		return r
	}
	if !slices.Contains([]string{"error", "failure", "pending", "success"}, in.State) {
		return unprocessable("Status", "state", "invalid", "state is not included in the list")
	}
	s := &Status{ID: h.id(), SHA: sha, State: in.State, Context: in.Context, Creator: c.app.Bot, App: c.app, At: h.second()}
	if s.Context == "" {
		s.Context = "default"
	}
	if in.Description != nil {
		if longer(*in.Description, maxDescription) {
			return unprocessable("Status", "description", "custom", "description is too long (maximum is 140 characters)")
		}
		s.Description = *in.Description
	}
	if in.TargetURL != nil && *in.TargetURL != "" {
		if !isURL(*in.TargetURL) {
			return unprocessable("Status", "target_url", "custom", "target_url must use http(s) scheme")
		}
		s.TargetURL = *in.TargetURL
	}
	if longer(s.Context, 255) {
		return unprocessable("Status", "context", "custom", "context is too long (maximum is 255 characters)")
	}
	same := 0
	for _, o := range c.repo.Statuses {
		if o.SHA == sha && o.Context == s.Context {
			same++
		}
	}
	if same >= maxStatuses {
		return unprocessable("Status", "base", "custom", "This SHA and context has reached the maximum number of statuses.")
	}
	c.repo.Statuses = append(c.repo.Statuses, s)
	r := created(s.doc())
	r.header = http.Header{"Location": {c.base() + c.r.URL.Path}}
	return r
}
