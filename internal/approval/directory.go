package approval

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// MaxPeople bounds the configured people: only those with more than one account,
// or with an account and an identity, need an entry.
const MaxPeople = 10_000

// Person is an entry of `people` in the service's configuration: one human being
// and everything that acts in that name.
type Person struct {
	Name string `yaml:"name"`
	// Accounts are FORGE:ID, the forge's number: "github.com:583231".
	Accounts []string `yaml:"accounts"`
	// Identities are those of the organisation's identity provider.
	Identities []PersonIdentity `yaml:"identities"`
}

// PersonIdentity is a person as an issuer of role people names it.
type PersonIdentity struct {
	Issuer  string `yaml:"issuer"`
	Subject string `yaml:"subject"`
}

// Directory says which accounts and identities are one person. It does not
// change; a nil Directory knows nobody.
type Directory struct {
	byAccount  map[string]string
	byIdentity map[PersonIdentity]string
	accounts   map[string][]signing.Account
}

var (
	// rePersonName has neither ":" nor "#", so that no name can be that of an
	// account or an identity without an entry.
	rePersonName = regexp.MustCompile(`^[\p{L}\p{N}](?:[\p{L}\p{N} ._'-]{0,98}[\p{L}\p{N}.])?$`)
	reAccountKey = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?:[1-9][0-9]{0,18}$`)
)

// NewDirectory checks people and returns their directory, or config.Problems with
// everything that is wrong. at is where they stand in the configuration.
func NewDirectory(people []Person, at string) (*Directory, config.Problems) {
	var problems config.Problems
	bad := func(path, format string, args ...any) {
		problems = append(problems, config.Problem{Path: path, Message: fmt.Sprintf(format, args...)})
	}
	d := &Directory{byAccount: map[string]string{}, byIdentity: map[PersonIdentity]string{}, accounts: map[string][]signing.Account{}}
	if len(people) > MaxPeople {
		bad(at, "%d people; at most %d are read", len(people), MaxPeople)
		return nil, problems
	}
	names := map[string]bool{}
	for i, p := range people {
		path := config.Index(at, i)
		switch {
		case !rePersonName.MatchString(p.Name):
			bad(path+".name", "must be 1 to 100 letters, digits, spaces and ._'-, so that it cannot be taken for an account")
		case names[p.Name]:
			bad(path+".name", "%s is there twice", p.Name)
		}
		names[p.Name] = true
		if len(p.Accounts)+len(p.Identities) == 0 {
			bad(path, "needs an account or an identity")
		}
		for j, key := range p.Accounts {
			at := config.Index(path+".accounts", j)
			if !reAccountKey.MatchString(key) {
				bad(at, "must be FORGE:ID with the forge's number of the account, as in github.com:583231; logins can be taken over")
				continue
			}
			if other, ok := d.byAccount[key]; ok {
				bad(at, "%s is an account of %s already: one account is one person", key, other)
			}
			d.byAccount[key] = p.Name
			i := strings.LastIndexByte(key, ':')
			d.accounts[p.Name] = append(d.accounts[p.Name], signing.Account{Forge: key[:i], ID: key[i+1:]})
		}
		for j, id := range p.Identities {
			at := config.Index(path+".identities", j)
			if !strings.HasPrefix(id.Issuer, "https://") && !strings.HasPrefix(id.Issuer, "http://") || id.Subject == "" || len(id.Issuer)+len(id.Subject) > 1000 {
				bad(at, "must be an issuer, exactly as in `issuers`, and a subject")
				continue
			}
			if other, ok := d.byIdentity[id]; ok {
				bad(at, "this identity is that of %s already: one identity is one person", other)
			}
			d.byIdentity[id] = p.Name
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return d, nil
}

// OfAccount returns who an account is: the configured name, else FORGE:ID.
func (d *Directory) OfAccount(a signing.Account) string {
	if d != nil {
		if name, ok := d.byAccount[a.Key()]; ok {
			return name
		}
	}
	return a.Key()
}

// OfIdentity returns who an identity is: the configured name, else ISSUER#SUBJECT.
func (d *Directory) OfIdentity(id signing.Identity) string {
	if d != nil {
		if name, ok := d.byIdentity[PersonIdentity{id.Issuer, id.Subject}]; ok {
			return name
		}
	}
	return id.Issuer + "#" + id.Subject
}

// Accounts returns the configured accounts of a person: none for one who has no
// entry.
func (d *Directory) Accounts(person string) []signing.Account {
	if d == nil {
		return nil
	}
	return slices.Clone(d.accounts[person])
}

// Account returns the account of a person on a forge. A person with two accounts
// on one forge, or with none, has no such account.
func (d *Directory) Account(person, forge string) (signing.Account, bool) {
	var found []signing.Account
	for _, a := range d.Accounts(person) {
		if a.Forge == forge {
			found = append(found, a)
		}
	}
	if len(found) != 1 {
		return signing.Account{}, false
	}
	return found[0], true
}

// persons returns who is excluded, and how many authors map to no account.
func (d *Directory) persons(excluded []signing.Exclusion) (why map[string]string, unmapped int) {
	why = map[string]string{}
	for _, e := range excluded {
		switch {
		case e.Account.Known():
			why[d.OfAccount(e.Account)] = e.Why
		default:
			unmapped++ // also what says neither who nor what: one more is needed
		}
	}
	return why, unmapped
}
