package testenv

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

// Memory is a forge without HTTP: people, groups, one pull request for each commit,
// and comments, as tests set them. What goes over the wire is tested with the
// strict local forges; this one is for tests that need ten thousand requests.
type Memory struct {
	Name string // host
	Now  func() time.Time

	mu       sync.Mutex // guards all below
	down     error
	people   map[string]signing.Account // by id
	groups   map[string][]string        // ids, by name as in ApprovalGroup.From
	authors  []string                   // ids of who wrote every commit
	unmapped []string
	threads  map[string]signing.Thread // by commit
	comments map[string][]forge.Comment
	checks   map[string]forge.Check
	policies map[string][]byte           // the repository's own policy by commit, "" for the default branch
	reading  func(context.Context) error // is asked first by PolicyFile
	writes   int
	hidden   map[string]bool // by place and id
	bare     bool            // no commit has a pull request
	closed   map[string]bool // issues, by place
	mute     error
	told     []string // states of checks, as they were written
}

var _ forge.Forge = (*Memory)(nil)

// memoryBot is the account that the service writes as.
const memoryBot = "1"

// NewMemory returns a forge with nobody in it.
func NewMemory(host string, now func() time.Time) *Memory {
	return &Memory{Name: host, Now: now, people: map[string]signing.Account{}, groups: map[string][]string{}, threads: map[string]signing.Thread{}, comments: map[string][]forge.Comment{}, checks: map[string]forge.Check{}, policies: map[string][]byte{}, hidden: map[string]bool{}, closed: map[string]bool{}}
}

// Person adds an account that is in groups.
func (m *Memory) Person(id, login string, groups ...string) signing.Account {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := signing.Account{Forge: m.Name, ID: id, Login: login}
	m.people[id] = a
	for _, g := range groups {
		m.groups[g] = append(m.groups[g], id)
	}
	return a
}

// Leave takes an account out of a group.
func (m *Memory) Leave(id, group string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.groups[group] = slices.DeleteFunc(m.groups[group], func(other string) bool { return other == id })
}

// Join puts an account into a group, once.
func (m *Memory) Join(id, group string) {
	m.Leave(id, group)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.groups[group] = append(m.groups[group], id)
}

// Wrote says who wrote every commit; Unmapped are authors without an account.
func (m *Memory) Wrote(ids []string, unmapped ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.authors, m.unmapped = ids, unmapped
}

// Down makes everything that is asked fail, until nil.
func (m *Memory) Down(err error) { m.mu.Lock(); defer m.mu.Unlock(); m.down = err }

// Mute makes every check and status that is written fail, until nil.
func (m *Memory) Mute(err error) { m.mu.Lock(); defer m.mu.Unlock(); m.mute = err }

// Told returns the states of the checks that were written, in their order.
func (m *Memory) Told() []string { m.mu.Lock(); defer m.mu.Unlock(); return slices.Clone(m.told) }

// NoPulls says that no commit came by a pull request.
func (m *Memory) NoPulls() { m.mu.Lock(); defer m.mu.Unlock(); m.bare = true }

// Closed reports whether an issue is closed.
func (m *Memory) Closed(t signing.Thread) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed[place(t)]
}

// Written returns how many comments, edits, checks and statuses were written.
func (m *Memory) Written() int { m.mu.Lock(); defer m.mu.Unlock(); return m.writes }

// Host implements forge.Forge.
func (m *Memory) Host() string { return m.Name }

func (m *Memory) accounts(ids []string) []signing.Account {
	var out []signing.Account
	for _, id := range ids {
		out = append(out, m.people[id])
	}
	return out
}

// Ask implements forge.Origin: the run is in progress, the branch protected, and
// the commit came by an open pull request.
func (m *Memory) Ask(_ context.Context, o signing.Origin, _ []signing.Artifact, q signing.ForgeQuestion) (*signing.ForgeFacts, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	f := &signing.ForgeFacts{Forge: m.Name, At: m.Now()}
	who := signing.Account{Forge: m.Name, ID: o.ActorID, Login: o.Actor}
	if q.Run {
		f.Run = &signing.RunFacts{
			RepositoryID: o.SourceRepositoryIdentifier, HeadRepositoryID: o.SourceRepositoryIdentifier, ID: o.RunID, Attempt: o.RunAttempt, Commit: o.SourceRepositoryDigest,
			Ref: strings.TrimPrefix(strings.TrimPrefix(o.SourceRepositoryRef, "refs/heads/"), "refs/tags/"), Event: o.BuildTrigger, Path: ".github/workflows/release.yml", JobID: o.JobID, Status: "in_progress", Running: true, JobRunning: true, Actor: who, Restarter: who,
		}
	}
	if q.Ref {
		f.Ref = &signing.RefFacts{Ref: o.SourceRepositoryRef, Exists: true, Commit: o.SourceRepositoryDigest, Contains: true, Protected: true}
	}
	if q.Pulls && m.bare {
		f.Pulls = &signing.PullFacts{}
	} else if q.Pulls {
		pull := signing.PullRequest{Number: m.number(o.SourceRepositoryDigest), Open: true, Base: "main", Head: o.SourceRepositoryDigest, Authors: m.accounts(m.authors), Unmapped: m.unmapped}
		if len(pull.Authors) > 0 {
			pull.Author = pull.Authors[0]
		}
		f.Pulls = &signing.PullFacts{Pulls: []signing.PullRequest{pull}}
	}
	if q.Commit {
		f.Commit = &signing.CommitFacts{SHA: o.SourceRepositoryDigest, Subject: "a change", Authors: m.accounts(m.authors), Unmapped: m.unmapped}
	}
	if q.PolicyFile {
		f.PolicyFile = m.policyAt("")
	}
	for _, b := range q.Branches {
		f.Branches = append(f.Branches, signing.RefFacts{Ref: b, Exists: true, Contains: true, Protected: true})
	}
	return f, nil
}

// Compare implements forge.Origin.
func (m *Memory) Compare(context.Context, forge.Repository, string, string) (forge.Comparison, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return forge.Comparison{Commits: 1, Subjects: []string{"a change"}}, m.down
}

// Policy sets the repository's own policy at a commit, "" for the default branch;
// nil is no file.
func (m *Memory) Policy(commit string, text []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.policies[commit] = text
}

// OnPolicy has PolicyFile call f first, and fail if f does; nil ends it.
func (m *Memory) OnPolicy(f func(context.Context) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reading = f
}

// PolicyFile implements forge.Origin: a commit has what Policy set.
func (m *Memory) PolicyFile(ctx context.Context, _ forge.Repository, commit string) (*signing.PolicyFileFacts, error) {
	m.mu.Lock()
	first := m.reading
	m.mu.Unlock()
	if first != nil {
		if err := first(ctx); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	if _, ok := m.policies[commit]; commit != "" && !ok {
		return nil, &signing.Error{Code: signing.NotFound, Message: "no such commit"}
	}
	return m.policyAt(commit), nil
}

func (m *Memory) policyAt(commit string) *signing.PolicyFileFacts {
	f := &signing.PolicyFileFacts{Commit: commit}
	if commit == "" {
		f.Branch, f.Commit = "main", strings.Repeat("a", 40)
	}
	if text := m.policies[commit]; text != nil {
		f.Exists, f.Text, f.Digest = true, text, signing.DigestOf(text)
	}
	return f
}

// number is that of the pull request of a commit.
func (m *Memory) number(commit string) string {
	if t, ok := m.threads[commit]; ok {
		return t.Number
	}
	m.threads[commit] = signing.Thread{Forge: m.Name, Kind: signing.ThreadPull, Number: strconv.Itoa(len(m.threads) + 1)}
	return m.threads[commit].Number
}

// Standing implements forge.People.
func (m *Memory) Standing(_ context.Context, _ forge.Repository, who signing.Account, groups []string) (forge.Standing, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.people[who.ID]
	switch {
	case m.down != nil:
		return forge.Standing{}, m.down
	case !ok || who.Forge != m.Name:
		return forge.Standing{}, &signing.Error{Code: signing.NotFound, Message: "no such account"}
	}
	s := forge.Standing{Account: a, Reads: true}
	for _, g := range groups {
		if slices.Contains(m.groups[g], who.ID) {
			s.Groups = append(s.Groups, g)
		}
	}
	return s, nil
}

// Members implements forge.People.
func (m *Memory) Members(_ context.Context, _ forge.Repository, groups []string) (map[string][]signing.Account, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]signing.Account{}
	for _, g := range groups {
		out[g] = m.accounts(m.groups[g])
	}
	return out, m.down
}

// Account implements forge.People.
func (m *Memory) Account(_ context.Context, id string) (signing.Account, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, ok := m.people[id]; ok || m.down != nil {
		return a, m.down
	}
	return signing.Account{}, &signing.Error{Code: signing.NotFound, Message: "no such account"}
}

// Find implements forge.Threads.
func (m *Memory) Find(_ context.Context, r forge.Repository, commit string) (signing.Thread, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return signing.Thread{}, m.down
	}
	if m.bare {
		return signing.Thread{}, &signing.Error{Code: signing.NotFound, Message: "no pull request"}
	}
	m.number(commit)
	t := m.threads[commit]
	t.RepositoryID, t.Repository, t.URL = r.ID, r.Name, "https://"+m.Name+"/"+r.Name+"/pull/"+t.Number
	return t, nil
}

// Open implements forge.Threads. The one of a title that is there is found.
func (m *Memory) Open(_ context.Context, r forge.Repository, title, body string) (signing.Thread, forge.Comment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return signing.Thread{}, forge.Comment{}, m.down
	}
	t, known := m.threads[title]
	if !known {
		number := strconv.Itoa(len(m.threads) + 1)
		t = signing.Thread{Forge: m.Name, Kind: signing.ThreadIssue, Number: number, RepositoryID: r.ID, Repository: r.Name, URL: "https://" + m.Name + "/" + r.Name + "/issues/" + number}
		m.threads[title] = t
		m.writes++
		m.add(t, signing.Account{Forge: m.Name, ID: memoryBot, Login: "sealwright[bot]", Bot: true}, body)
	}
	return t, m.comments[place(t)][0], nil
}

// Close implements forge.Threads.
func (m *Memory) Close(_ context.Context, t signing.Thread) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down == nil {
		m.closed[place(t)] = true
	}
	return m.down
}

func place(t signing.Thread) string { return t.RepositoryID + " " + t.Kind + " " + t.Number }

// Comment implements forge.Threads.
func (m *Memory) Comment(_ context.Context, t signing.Thread, id string) (forge.Comment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return forge.Comment{}, m.down
	}
	for _, c := range m.comments[place(t)] {
		if c.ID == id {
			return c, nil
		}
	}
	return forge.Comment{}, &signing.Error{Code: signing.NotFound, Message: "no such comment"}
}

// Comments implements forge.Threads.
func (m *Memory) Comments(_ context.Context, t signing.Thread, since time.Time) ([]forge.Comment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []forge.Comment
	for _, c := range m.comments[place(t)] {
		if !c.Created.Before(since) {
			out = append(out, c)
		}
	}
	return out, m.down
}

// Say writes a comment of a person.
func (m *Memory) Say(t signing.Thread, who signing.Account, body string) forge.Comment {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.add(t, who, body)
}

func (m *Memory) add(t signing.Thread, who signing.Account, body string) forge.Comment {
	at := m.Now()
	c := forge.Comment{ID: fmt.Sprintf("%s-%d", t.Number, len(m.comments[place(t)])+1), Kind: "comment", Author: who, Body: body, Created: at, Updated: at}
	m.comments[place(t)] = append(m.comments[place(t)], c)
	return c
}

// Post implements forge.Writer.
func (m *Memory) Post(_ context.Context, t signing.Thread, body string) (forge.Comment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return forge.Comment{}, m.down
	}
	m.writes++
	return m.add(t, signing.Account{Forge: m.Name, ID: memoryBot, Login: "sealwright[bot]", Bot: true}, body), nil
}

// Edit implements forge.Writer.
func (m *Memory) Edit(_ context.Context, t signing.Thread, id, body string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, c := range m.comments[place(t)] {
		if c.ID == id && m.down == nil {
			m.comments[place(t)][i].Body = body
			m.writes++
			return nil
		}
	}
	return cmp.Or(m.down, error(&signing.Error{Code: signing.NotFound, Message: "no such comment"}))
}

// Mine implements forge.Writer.
func (m *Memory) Mine(_ context.Context, t signing.Thread, marker string) ([]forge.Comment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []forge.Comment
	for _, c := range m.comments[place(t)] {
		if first, _, _ := strings.Cut(c.Body, "\n"); c.Author.ID == memoryBot && first == marker {
			out = append(out, c)
		}
	}
	return out, m.down
}

// Collapse implements forge.Writer.
func (m *Memory) Collapse(_ context.Context, t signing.Thread, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down == nil {
		m.hidden[place(t)+" "+id] = true
	}
	return m.down
}

// Collapsed reports whether a comment is hidden as outdated.
func (m *Memory) Collapsed(t signing.Thread, id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hidden[place(t)+" "+id]
}

// React implements forge.Writer.
func (m *Memory) React(context.Context, signing.Thread, forge.Comment, string) error { return nil }

// Check implements forge.Reports.
func (m *Memory) Check(_ context.Context, _ forge.Repository, c forge.Check) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.down, m.mute); err != nil {
		return "", err
	}
	m.writes++
	for id, other := range m.checks { // as GitHub's adapter finds that which was made before
		if c.ID == "" && c.Key != "" && other.Key == c.Key && other.Name == c.Name && other.Commit == c.Commit {
			c.ID = id
		}
	}
	m.told = append(m.told, string(c.State))
	c.ID = cmp.Or(c.ID, strconv.Itoa(len(m.checks)+1))
	m.checks[c.ID] = c
	return c.ID, nil
}

// Status implements forge.Reports.
func (m *Memory) Status(context.Context, forge.Repository, forge.Status) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes++
	return cmp.Or(m.down, m.mute)
}

// ReadCheck implements forge.Reports.
func (m *Memory) ReadCheck(_ context.Context, _ forge.Repository, id string) (forge.Check, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.checks[id]; ok || m.down != nil {
		return c, m.down
	}
	return forge.Check{}, &signing.Error{Code: signing.NotFound, Message: "no such check"}
}

// Checks returns the checks, in the order in which they were made.
func (m *Memory) Checks() []forge.Check {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]forge.Check, 0, len(m.checks))
	for i := range len(m.checks) {
		out = append(out, m.checks[strconv.Itoa(i+1)])
	}
	return out
}

// Authenticate implements forge.Hooks: nothing is delivered here.
func (m *Memory) Authenticate(http.Header, []byte, time.Time) (forge.Delivery, error) {
	return forge.Delivery{}, &signing.Error{Code: signing.Unauthenticated, Message: "no deliveries here"}
}

// Parse implements forge.Hooks.
func (m *Memory) Parse(forge.Delivery) (forge.Event, error) {
	return forge.Event{Kind: forge.EventIgnored, Why: "no use"}, nil
}

// Delete removes a comment, as somebody with the permission can.
func (m *Memory) Delete(t signing.Thread, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.comments[place(t)] = slices.DeleteFunc(m.comments[place(t)], func(c forge.Comment) bool { return c.ID == id })
}
