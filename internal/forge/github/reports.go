package github

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

// GitHub's bounds of a check run and of a status, in characters where it is text.
const (
	notesAtOnce    = 50
	maxNotes       = 500 // ten requests; a refusal has one note for each reason
	maxNote        = 8_000
	maxButtons     = 3
	maxLabel       = 20
	maxHint        = 40
	maxIdentifier  = 20
	maxCheckTitle  = 255
	maxDescription = 140
	maxContext     = 255
	// maxSameName bounds the check runs of our own of one name on one commit that
	// are read: GitHub keeps 1,000.
	maxSameName = 1_000
)

// writtenRun is the body of a request that writes one.
type writtenRun struct {
	Name       string   `json:"name,omitempty"`
	SHA        string   `json:"head_sha,omitempty"` // of a new one only
	Key        string   `json:"external_id,omitempty"`
	URL        string   `json:"details_url,omitempty"`
	Status     string   `json:"status"`
	Conclusion string   `json:"conclusion,omitempty"`
	Output     output   `json:"output"`
	Actions    []button `json:"actions"` // none takes those away that were there
}

type output struct {
	Title       string       `json:"title"`
	Summary     string       `json:"summary"`
	Text        string       `json:"text,omitempty"`
	Annotations []annotation `json:"annotations,omitempty"`
}

type button struct {
	Label       string `json:"label"`
	Description string `json:"description"`
	Identifier  string `json:"identifier"`
}

type annotation struct {
	Path      string `json:"path"`
	StartLine int    `json:"start_line"`
	EndLine   int    `json:"end_line"`
	Level     string `json:"annotation_level"`
	Title     string `json:"title,omitempty"`
	Message   string `json:"message"`
}

// keptRun is a check run as it is read.
type keptRun struct {
	ID         int64  `json:"id"`
	Name       string `json:"name"`
	SHA        string `json:"head_sha"`
	Key        string `json:"external_id"`
	URL        string `json:"details_url"`
	Status     string `json:"status"`
	Conclusion string `json:"conclusion"`
	App        *struct {
		ID int64 `json:"id"`
	} `json:"app"`
	Output struct {
		Title   string `json:"title"`
		Summary string `json:"summary"`
		Text    string `json:"text"`
		Notes   int    `json:"annotations_count"`
	} `json:"output"`
}

// words returns status and conclusion of a state.
func words(s forge.CheckState) (status, conclusion string, err error) {
	switch s {
	case forge.CheckRunning:
		return "in_progress", "", nil
	case forge.CheckWaiting:
		return "completed", "action_required", nil
	case forge.CheckPassed:
		return "completed", "success", nil
	case forge.CheckFailed:
		return "completed", "failure", nil
	case forge.CheckCanceled:
		return "completed", "cancelled", nil
	case forge.CheckNeutral:
		return "completed", "neutral", nil
	}
	return "", "", &signing.Error{Code: signing.Invalid, Message: "not the state of a check", Found: strconv.Quote(ask.Clip(string(s)))}
}

// Check implements forge.Reports. Texts that are too long are cut. A check run
// without an id, but with the key of one that is there, updates that one: its
// making may have been answered to nobody.
func (c *Client) Check(ctx context.Context, r forge.Repository, k forge.Check) (string, error) {
	if !ask.IsCommit(k.Commit) || k.Name == "" {
		return "", &signing.Error{Code: signing.Invalid, Message: "a check needs a name and the id of a commit", Found: strconv.Quote(ask.Clip(k.Name + " " + k.Commit))}
	}
	in, err := c.body(k)
	if err != nil {
		return "", err
	}
	notes, err := annotations(k.Notes)
	if err != nil {
		return "", err
	}
	p, err := c.place(ctx, r)
	if err != nil {
		return "", err
	}
	there, err := c.there(ctx, p, k)
	if err != nil {
		return "", err
	}
	// GitHub adds the annotations of each request to those that are there.
	notes = notes[min(there.Output.Notes, len(notes)):]
	in.Output.Annotations = notes[:min(len(notes), notesAtOnce)]
	method, at := http.MethodPost, ask.Path("repos", p.owner, p.name, "check-runs")
	if there.ID > 0 {
		method, at = http.MethodPatch, at+"/"+strconv.FormatInt(there.ID, 10)
		in.SHA = ""
	}
	var made keptRun
	if _, err := c.do(ctx, p.client, method, at, nil, in, &made, "checks: write"); err != nil {
		return "", err
	}
	if made.ID <= 0 {
		return "", ask.Garbled("the check run", "it has no id")
	}
	id := strconv.FormatInt(made.ID, 10)
	in.SHA = ""
	for part := range slices.Chunk(notes[len(in.Output.Annotations):], notesAtOnce) {
		in.Output.Annotations = part
		if _, err := c.do(ctx, p.client, http.MethodPatch, ask.Path("repos", p.owner, p.name, "check-runs", id), nil, in, nil, "checks: write"); err != nil {
			return id, err
		}
	}
	return id, nil
}

// body makes the request for k, without its notes.
func (c *Client) body(k forge.Check) (writtenRun, error) {
	status, conclusion, err := words(k.State)
	if err != nil {
		return writtenRun{}, err
	}
	in := writtenRun{Name: k.Name, SHA: k.Commit, Key: k.Key, URL: k.URL, Status: status, Conclusion: conclusion, Actions: []button{}}
	in.Output = output{Title: shorten(k.Title, maxCheckTitle), Summary: cut(k.Summary, forge.MaxSummary), Text: cut(k.Text, forge.MaxSummary)}
	if in.Output.Title == "" {
		in.Output.Title = k.Name
	}
	if len(k.Buttons) > maxButtons {
		return writtenRun{}, &signing.Error{Code: signing.Invalid, Message: "a check run has too many buttons", Expected: fmt.Sprintf("at most %d", maxButtons), Found: strconv.Itoa(len(k.Buttons))}
	}
	for _, b := range k.Buttons {
		if !within(b.Label, maxLabel) || !within(b.Description, maxHint) || !within(b.Identifier, maxIdentifier) {
			return writtenRun{}, &signing.Error{Code: signing.Invalid, Message: "a button of a check run has a text that is empty or too long", Expected: "label and identifier of at most 20 characters, description of at most 40", Found: strconv.Quote(ask.Clip(b.Label + ", " + b.Description + ", " + b.Identifier))}
		}
		in.Actions = append(in.Actions, button(b))
	}
	return in, nil
}

func within(s string, most int) bool { return s != "" && utf8.RuneCountInString(s) <= most }

// there returns the check run that k updates, the zero one if it is new. That of
// another App cannot be ours.
func (c *Client) there(ctx context.Context, p *place, k forge.Check) (keptRun, error) {
	if k.ID != "" {
		return c.readRun(ctx, p, k.ID)
	}
	if k.Key == "" {
		return keptRun{}, nil
	}
	q := url.Values{"check_name": {k.Name}, "app_id": {strconv.FormatInt(p.app.id, 10)}, "filter": {"all"}}
	all, err := wrapped[keptRun](ctx, c, p.client, ask.Path("repos", p.owner, p.name, "commits", k.Commit, "check-runs"), q, "check_runs", maxSameName, "checks: read")
	if err != nil {
		return keptRun{}, err
	}
	for _, x := range all {
		if x.Key == k.Key && x.Name == k.Name && x.SHA == k.Commit && x.App != nil && x.App.ID == p.app.id && x.ID > 0 {
			return x, nil
		}
	}
	return keptRun{}, nil
}

func (c *Client) readRun(ctx context.Context, p *place, id string) (keptRun, error) {
	if !ask.IsNumber(id) {
		return keptRun{}, &signing.Error{Code: signing.Invalid, Message: "not the id of a check run", Found: strconv.Quote(ask.Clip(id))}
	}
	var k keptRun
	if err := c.get(ctx, p.client, ask.Path("repos", p.owner, p.name, "check-runs", id), nil, &k, "checks: read"); err != nil {
		return keptRun{}, err
	}
	if strconv.FormatInt(k.ID, 10) != id {
		return keptRun{}, ask.Garbled("check run "+id, "it is another one")
	}
	if k.App == nil || k.App.ID != p.app.id {
		return keptRun{}, &signing.Error{Code: signing.Denied, Message: "check run " + id + " is another App's", Expected: fmt.Sprintf("one of App %d", p.app.id)}
	}
	return k, nil
}

// ReadCheck implements forge.Reports. The state is that which Check was given,
// as far as it can be told.
func (c *Client) ReadCheck(ctx context.Context, r forge.Repository, id string) (forge.Check, error) {
	p, err := c.place(ctx, r)
	if err != nil {
		return forge.Check{}, err
	}
	k, err := c.readRun(ctx, p, id)
	if err != nil {
		return forge.Check{}, err
	}
	out := forge.Check{ID: id, Name: k.Name, Commit: k.SHA, Key: k.Key, Title: k.Output.Title, Summary: k.Output.Summary, Text: k.Output.Text, URL: k.URL, State: forge.CheckRunning}
	for _, s := range []forge.CheckState{forge.CheckWaiting, forge.CheckPassed, forge.CheckFailed, forge.CheckCanceled, forge.CheckNeutral} {
		if status, conclusion, _ := words(s); k.Status == status && k.Conclusion == conclusion {
			out.State = s
		}
	}
	if k.Status == "completed" && out.State == forge.CheckRunning {
		return forge.Check{}, ask.Garbled("check run "+id, "its conclusion is none of ours: "+k.Conclusion)
	}
	return out, nil
}

// annotations checks and cuts the notes.
func annotations(notes []forge.Note) ([]annotation, error) {
	var out []annotation
	for _, n := range notes[:min(len(notes), maxNotes)] {
		if n.Path == "" || n.Message == "" || n.Level != "notice" && n.Level != "warning" && n.Level != "failure" {
			return nil, &signing.Error{Code: signing.Invalid, Message: "a note of a check run lacks its path, its message or its level", Found: strconv.Quote(ask.Clip(n.Path + " " + n.Level))}
		}
		line := max(n.Line, 1)
		out = append(out, annotation{Path: n.Path, StartLine: line, EndLine: line, Level: n.Level, Title: shorten(n.Title, maxCheckTitle), Message: shorten(n.Message, maxNote)})
	}
	return out, nil
}

// Status implements forge.Reports.
func (c *Client) Status(ctx context.Context, r forge.Repository, s forge.Status) error {
	state := map[forge.CheckState]string{
		forge.CheckRunning: "pending", forge.CheckWaiting: "pending", forge.CheckPassed: "success", forge.CheckNeutral: "success",
		forge.CheckFailed: "failure", forge.CheckCanceled: "error",
	}[s.State]
	if state == "" || !ask.IsCommit(s.Commit) || s.Context == "" {
		return &signing.Error{Code: signing.Invalid, Message: "a status needs a state, a context and the id of a commit", Found: strconv.Quote(ask.Clip(string(s.State) + ", " + s.Context + ", " + s.Commit))}
	}
	p, err := c.place(ctx, r)
	if err != nil {
		return err
	}
	in := struct {
		State       string `json:"state"`
		Context     string `json:"context"`
		Description string `json:"description,omitempty"`
		URL         string `json:"target_url,omitempty"`
	}{state, shorten(s.Context, maxContext), shorten(s.Description, maxDescription), s.URL}
	_, err = c.do(ctx, p.client, http.MethodPost, ask.Path("repos", p.owner, p.name, "statuses", s.Commit), nil, in, nil, "statuses: write")
	return err
}

// shorten cuts text to most characters.
func shorten(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-3]) + "..."
}

// cut shortens Markdown to most bytes, at the end of a line, and says so. A code
// block that it cuts in two is ended, so that what follows is not part of it.
func cut(s string, most int) string {
	const room = 100 // for the words below
	if len(s) <= most {
		return s
	}
	head := strings.ToValidUTF8(s[:most-room], "")
	if n := strings.LastIndexByte(head, '\n'); n > 0 {
		head = head[:n]
	}
	fence := ""
	for line := range strings.Lines(head) {
		line = strings.TrimSpace(line)
		switch {
		case fence != "" && strings.HasPrefix(line, fence):
			fence = ""
		case fence == "" && (strings.HasPrefix(line, "```") || strings.HasPrefix(line, "~~~")):
			fence = line[:3]
		}
	}
	if fence != "" {
		head += "\n" + fence
	}
	return head + fmt.Sprintf("\n\n(Cut here: %d more bytes.)\n", len(s)-len(head))
}
