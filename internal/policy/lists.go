package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/sealwright/sealwright/internal/signing"
)

// Owner returns the repository under whose row a person's list of images falls, as
// an Origin that names the repository and nothing else: the list has no build. In
// its threads people are asked. Rows about an owner or a group are none: which
// repository of theirs would be asked is not known.
//
// name, where it is not empty, is the repository, as in acme/web. Without it the
// row is the only one whose images hold all of images and whose project has the
// policy. That it is found allows nothing: Evaluate decides.
//
// Errors: Denied if there is none, or more than one.
func (s *Set) Owner(policy, name string, images []signing.Artifact) (signing.Origin, error) {
	var found []*row
	var short []string
	for _, pr := range slices.SortedFunc(maps.Values(s.projects), func(a, b *project) int { return cmp.Compare(a.name, b.name) }) {
		if p := pr.policies[policy]; p == nil || p.Log() || !p.Lists() {
			continue
		}
		for _, r := range pr.rows {
			if r.whole() || name != "" && fold(r.Name) != fold(name) {
				continue
			}
			if i := slices.IndexFunc(images, func(a signing.Artifact) bool { return !r.signs(a.Repository) }); i >= 0 {
				short = append(short, fmt.Sprintf("%s has no %s", r.Name, clip(string(images[i].Repository))))
				continue
			}
			found = append(found, r)
		}
	}
	switch {
	case len(found) == 1:
		r := found[0]
		return signing.Origin{Forge: r.Forge, Kind: kindList, SourceRepository: r.Name, SourceRepositoryIdentifier: r.ID, SourceRepositoryOwnerIdentifier: r.OwnerID}, nil
	case len(found) > 1:
		var names []string
		for _, r := range found {
			names = append(names, r.Name)
		}
		return signing.Origin{}, &signing.Error{Code: signing.Denied, Message: "several repositories may have these images signed", Expected: "the one in which people are to be asked", Found: oneOf(names), Fix: "name it, with `--repository`"}
	}
	return signing.Origin{}, &signing.Error{
		Code: signing.Denied, Message: "no repository may have this list of images signed",
		Expected: "a row of one repository (`name`, `id`) with all of the images, in a project whose policy " + clip(policy) + " is for people and has nothing under `origin` but `human`",
		Found:    cmp.Or(oneOf(short[:min(len(short), maxWanted)]), "no such policy"),
		Fix:      "bring the images of each repository as a list of its own, or add them to the row",
	}
}

// kindList is the kind of an Origin that is no build.
const kindList = "list"

// signs reports whether builds of the one repository that r is about may sign image.
func (r *row) signs(image signing.Repository) bool {
	return slices.ContainsFunc(r.images, func(p imagePattern) bool { return p.match(string(image)) })
}
