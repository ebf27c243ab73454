package ask

import (
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// Group is one parsed entry of ApprovalGroup.From. One of Permission, ID and Name
// is set.
type Group struct {
	Text       string // the entry
	Permission string // of FORGE:permission=
	ID         string // of FORGE:@LOGIN#ID
	Name       string // of FORGE:NAME, a team or group
}

// GroupWords are how a forge names groups of people.
type GroupWords struct {
	Host  string
	Form  string // of names, for refusals: "ORG/TEAM"
	Kind  string // "team"
	Named func(name string) bool
}

// Parse reads entries that are all of this forge.
func (w GroupWords) Parse(entries []string) ([]Group, error) {
	var out []Group
	for _, text := range entries {
		g := Group{Text: text}
		rest, ours := strings.CutPrefix(text, w.Host+":")
		permission, isPermission := strings.CutPrefix(rest, "permission=")
		account, isAccount := strings.CutPrefix(rest, "@")
		var good bool
		switch {
		case isPermission:
			g.Permission = permission
			good = permission == "write" || permission == "maintain" || permission == "admin"
		case isAccount:
			_, g.ID, _ = strings.Cut(account, "#")
			good = IsNumber(g.ID)
		default:
			g.Name = rest
			good = rest != "" && w.Named(rest)
		}
		if !ours || !good {
			return nil, &signing.Error{Code: signing.Invalid, Message: "not a group of people on " + w.Host, Expected: w.names() + " or " + w.Host + ":permission=write, maintain or admin", Found: strconv.Quote(Clip(text))}
		}
		out = append(out, g)
	}
	return out, nil
}

func (w GroupWords) names() string {
	return w.Host + ":" + w.Form + ", " + w.Host + ":@LOGIN#ID"
}

// Elsewhere refuses entries that mean nothing to a repository of another forge:
// permissions.
func (w GroupWords) Elsewhere(groups []Group) error {
	for _, g := range groups {
		if g.Permission != "" {
			return &signing.Error{Code: signing.Invalid, Message: "nobody has a permission on " + w.Host + " in a repository of another forge", Expected: strings.Replace(w.names(), ", ", " or ", 1), Found: strconv.Quote(Clip(g.Text)), Fix: "name a " + w.Kind + " in the policy"}
		}
	}
	return nil
}
