package github

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// webFlow is the account on github.com that commits what people do on its pages.
	webFlow = 19864447
	// maxTrailers bounds the co-authors of a commit that are read; what is beyond
	// counts as one author who is not known.
	maxTrailers = 50
	// maxLookups bounds the addresses that are looked up for one question: the
	// search takes 30 in a minute.
	maxLookups = 20
)

// commit is a commit as the API returns it.
type commit struct {
	SHA       string `json:"sha"`
	Author    *user  `json:"author"` // null where the address is nobody's
	Committer *user  `json:"committer"`
	Commit    struct {
		Message   string `json:"message"`
		Author    *ident `json:"author"`
		Committer *ident `json:"committer"`
		Verified  struct {
			Verified bool `json:"verified"`
		} `json:"verification"`
	} `json:"commit"`
}

// ident is who git says it was. Whoever makes a commit writes it.
type ident struct {
	Name  string `json:"name"`
	Email string `json:"email"`
}

// commit asks for the build's commit.
func (b *build) commit(ctx context.Context) error {
	if !ask.IsCommit(b.o.SourceRepositoryDigest) {
		return ask.Lacks("a commit")
	}
	var c commit
	if err := b.get(ctx, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "commits", b.o.SourceRepositoryDigest), url.Values{"per_page": {"1"}}, &c, "contents: read"); err != nil {
		return err
	}
	if c.SHA != b.o.SourceRepositoryDigest {
		return ask.Garbled("the commit", "it is another one")
	}
	f := &signing.CommitFacts{SHA: c.SHA, Verified: c.Commit.Verified.Verified, Subject: subject(c.Commit.Message)}
	if err := (&authors{build: b}).add(ctx, c, &f.Authors, &f.Unmapped); err != nil {
		return err
	}
	b.facts.Commit = f
	return nil
}

// authors maps the people of commits to accounts.
type authors struct {
	*build
	mu      sync.Mutex
	looked  map[string]signing.Account // by address, in lower case; the zero Account is nobody
	lookups int
}

// add adds author, committer and co-authors of c, each once. Somebody who maps
// to no account is added to unmapped.
func (a *authors) add(ctx context.Context, c commit, known *[]signing.Account, unmapped *[]string) error {
	missing := func(what string) {
		if !slices.Contains(*unmapped, what) {
			*unmapped = append(*unmapped, what)
		}
	}
	person := func(u *user, who *ident, role string) error {
		by := a.account(u)
		if !by.Known() && who != nil {
			var err error
			if by, err = a.address(ctx, who.Email); err != nil {
				return err
			}
		}
		if !by.Known() {
			missing(calledAs(who, role, c.SHA))
			return nil
		}
		if !slices.ContainsFunc(*known, func(k signing.Account) bool { return k.ID == by.ID }) {
			*known = append(*known, by)
		}
		return nil
	}
	if err := person(c.Author, c.Commit.Author, "author"); err != nil {
		return err
	}
	if !a.pages(c) {
		if err := person(c.Committer, c.Commit.Committer, "committer"); err != nil {
			return err
		}
	}
	others, more := trailers(c.Commit.Message)
	for _, who := range others {
		if err := person(nil, &who, "co-author"); err != nil {
			return err
		}
	}
	if more {
		missing("more co-authors of commit " + ask.Clip(c.SHA) + " than are read")
	}
	return nil
}

// calledAs is how an author is called who maps to no account.
func calledAs(who *ident, role, sha string) string {
	if who == nil || who.Email == "" {
		return "the " + role + " of commit " + ask.Clip(sha)
	}
	return ask.Clip(who.Name) + " <" + ask.Clip(who.Email) + ">"
}

// pages reports whether GitHub's own pages made the commit for its author: the
// committer is no person then. On github.com such a commit is signed by GitHub;
// everybody can put its address into another one.
func (a *authors) pages(c commit) bool {
	if c.Committer == nil || c.Committer.Login != "web-flow" {
		return false
	}
	if a.host != "github.com" {
		return true // servers sign only where their administrator set it up
	}
	return c.Committer.ID == webFlow && c.Commit.Verified.Verified
}

// trailers returns who a message names as co-authors.
func trailers(message string) (out []ident, more bool) {
	const key = "co-authored-by:"
	for line := range strings.Lines(message) {
		line = strings.TrimSpace(line)
		if len(line) < len(key) || !strings.EqualFold(line[:len(key)], key) {
			continue
		}
		if len(out) == maxTrailers {
			return out, true
		}
		name, rest, _ := strings.Cut(line[len(key):], "<")
		email, _, _ := strings.Cut(rest, ">")
		out = append(out, ident{Name: strings.TrimSpace(name), Email: strings.TrimSpace(email)})
	}
	return out, false
}

// address maps an e-mail address to an account where that is certain: a private
// address of GitHub that names the account's id, or the public address of one
// account. Everything else is nobody.
func (a *authors) address(ctx context.Context, email string) (signing.Account, error) {
	key := strings.ToLower(strings.TrimSpace(email))
	if key == "" || len(key) > 254 || strings.Count(key, "@") != 1 || strings.ContainsAny(key, " \t\"<>:") {
		return signing.Account{}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if found, ok := a.looked[key]; ok {
		return found, nil
	}
	if a.lookups == maxLookups {
		return signing.Account{}, nil
	}
	a.lookups++
	found, err := a.lookup(ctx, key)
	if err != nil && !ask.Permanent(err) {
		return signing.Account{}, err
	}
	if a.looked == nil {
		a.looked = map[string]signing.Account{}
	}
	a.looked[key] = found // after a permanent error too: nobody
	return found, nil
}

func (a *authors) lookup(ctx context.Context, email string) (signing.Account, error) {
	local, domain, _ := strings.Cut(email, "@")
	if domain == "users.noreply."+a.host {
		id, _, ok := strings.Cut(local, "+")
		n, err := strconv.ParseInt(id, 10, 64)
		if !ok || err != nil || n <= 0 {
			return signing.Account{}, nil // the old form has a login only, which may be another's now
		}
		var u user
		if err := a.get(ctx, a.at.client, ask.Path("user", strconv.FormatInt(n, 10)), nil, &u, ""); err != nil || u.ID != n {
			return signing.Account{}, err
		}
		return a.account(&u), nil
	}
	var found struct {
		Total      int    `json:"total_count"`
		Incomplete bool   `json:"incomplete_results"`
		Items      []user `json:"items"`
	}
	if err := a.get(ctx, a.at.client, "search/users", url.Values{"q": {email + " in:email"}, "per_page": {"2"}}, &found, ""); err != nil {
		return signing.Account{}, err
	}
	if found.Total != 1 || len(found.Items) != 1 || found.Incomplete {
		return signing.Account{}, nil
	}
	// The search is by similarity: the address has to be the very one.
	var u struct {
		user
		Email string `json:"email"`
	}
	err := a.get(ctx, a.at.client, ask.Path("users", found.Items[0].Login), nil, &u, "")
	switch {
	case errors.Is(err, signing.NotFound):
		return signing.Account{}, nil
	case err != nil:
		return signing.Account{}, err
	case u.ID != found.Items[0].ID || !strings.EqualFold(u.Email, email):
		return signing.Account{}, nil
	}
	return a.account(&u.user), nil
}
