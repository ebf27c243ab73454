package policy

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// rowKey is a forge and, on it, the id or name of a repository, an owner or a group.
type rowKey struct{ forge, key string }

// row is a repository, or every repository of an owner, with the images that it
// may sign.
type row struct {
	repository
	path    string // "repositories[3]"
	project *project
	images  []imagePattern
}

// whole reports whether r is about every repository of an owner or group.
func (r *row) whole() bool { return r.Owner != "" || r.Group != "" }

// owner returns the name of the owner or group that r is about, and the id that
// a token has to state for it.
func (r *row) owner() (name, id string) {
	if r.Group != "" {
		return r.Group, r.ID
	}
	return r.Owner, r.OwnerID
}

// label names r for people.
func (r *row) label() string {
	if name, _ := r.owner(); r.whole() {
		return name + "/*"
	}
	return r.Name
}

// row finds what the repository of a build may sign: its own row, else that of
// the owner or group directly above it. Only ids are looked at; Evaluate compares
// the names.
func (s *Set) row(o signing.Origin) *row {
	if o.Forge == "" || o.SourceRepositoryIdentifier == "" {
		return nil
	}
	if r := s.rows[rowKey{o.Forge, o.SourceRepositoryIdentifier}]; r != nil {
		return r
	}
	if o.SourceRepositoryOwnerIdentifier == "" {
		return nil
	}
	return s.owners[rowKey{o.Forge, o.SourceRepositoryOwnerIdentifier}]
}

// above and base split the name of a repository at its last slash.
func above(name string) string { return name[:max(strings.LastIndexByte(name, '/'), 0)] }
func base(name string) string  { return name[strings.LastIndexByte(name, '/')+1:] }

// hole is what stands for the name of the repository in an image of a row about
// an owner or a group.
const hole = "{repository}"

// imagePattern is an entry of `images`. Where it has a hole, the last part of the
// repository's name is put in, as text and never as a pattern.
type imagePattern struct {
	pattern // "*" in place of the hole: what overlaps are looked for by
	written string
	hole    bool
}

// component is the grammar of one part of an image's path: what the
// distribution specification allows, so that no name of a repository can be a
// path of its own, a wildcard or a way up.
var component = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)

// fill returns the pattern for builds of the named repository. It is an error if
// the name cannot be part of an image's path.
func (p imagePattern) fill(name string) (pattern, error) {
	if !p.hole {
		return p.pattern, nil
	}
	// Forges ignore the case of names, registries have none.
	part := fold(base(name))
	if !component.MatchString(part) {
		return pattern{}, errors.New("the name of the repository cannot be a part of an image's path")
	}
	return compileGlob(strings.Replace(p.written, hole, part, 1))
}

// fill returns the patterns of the row for builds of the named repository.
func (r *row) fill(name string) (patterns, error) {
	out := make(patterns, 0, len(r.images))
	for _, i := range r.images {
		p, err := i.fill(name)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// claim is one image pattern of a row.
type claim struct {
	pattern pattern
	row     *row
	index   int
}

func (c claim) path() string { return config.Index(c.row.path+".images", c.index) }

// repository checks one row and adds it to the set.
func (l *loader) repository(s scope, pr *project, r repository) {
	if l.rows++; l.rows > MaxRepositories {
		if l.rows == MaxRepositories+1 {
			s.add("", "more than %d repositories in all files", MaxRepositories)
		}
		return
	}
	row := &row{repository: r, path: s.path, project: pr}
	if !reForge.MatchString(r.Forge) {
		s.add("forge", "must be the lower-case host of a forge, such as github.com")
	}
	l.names(s, r)
	if len(r.Images) == 0 || len(r.Images) > MaxImages {
		s.add("images", "a repository has 1 to %d images, found %d", MaxImages, len(r.Images))
	}
	for i, text := range r.Images[:min(len(r.Images), MaxImages)] {
		p, err := compileImage(text, row.whole())
		if err != nil {
			s.at("images").index(i).add("", "%v", err)
			continue
		}
		row.images = append(row.images, p)
		c := claim{p.pattern, row, i}
		l.claims = append(l.claims, c)
		if p.re == nil {
			l.set.literals[p.text] = append(l.set.literals[p.text], row)
		} else {
			l.set.globs = append(l.set.globs, c)
		}
	}
	l.index(s, row)
	pr.rows = append(pr.rows, row)
}

// names checks which repositories a row is about: one, or all of an owner or group.
func (l *loader) names(s scope, r repository) {
	switch {
	case r.Group != "" && (r.Owner != "" || r.Name != "" || r.OwnerID != ""):
		s.add("group", "a row is about one repository (`name`, `id`), every repository of an owner (`owner`, `owner_id`), or every one of a group (`group`, `id`): write one of the three")
	case r.Group != "":
		if !reGroup.MatchString(r.Group) || len(r.Group) > signing.MaxRepository {
			s.add("group", "must be the full path of a group, such as acme/payments")
		}
		if !reID.MatchString(r.ID) {
			s.add("id", "must be the forge's id of the group, in quotes: paths can be taken over, ids cannot")
		}
	case r.Owner != "" && (r.Name != "" || r.ID != ""):
		s.add("owner", "with `owner` a row is about every repository of it: leave `name` and `id` out, or `owner`")
	case r.Owner != "":
		if !reOwner.MatchString(r.Owner) {
			s.add("owner", "must be the name of a user or organisation, such as acme")
		}
		if !reID.MatchString(r.OwnerID) {
			s.add("owner_id", "must be the forge's id of the owner, in quotes: names can be taken over, ids cannot")
		}
	default:
		if !validRepository(r.Name) {
			s.add("name", "must be OWNER/NAME as the forge writes it")
		}
		if !reID.MatchString(r.ID) {
			s.add("id", "must be the forge's id of the repository, in quotes: names can be taken over, ids cannot")
		}
		if r.OwnerID != "" && !reID.MatchString(r.OwnerID) {
			s.add("owner_id", "must be the forge's id of the owner, in quotes")
		}
	}
}

// index enters a row under its id and name, which no other may have.
func (l *loader) index(s scope, r *row) {
	ids, names, what, word, nameWord := l.set.rows, l.set.names, "repository", "id", "name"
	name, id := r.Name, r.ID
	if r.whole() {
		ids, names, what = l.set.owners, l.set.ownerNames, "owner"
		if name, id = r.owner(); r.Group != "" {
			what, nameWord = "group", "group"
		} else {
			word, nameWord = "owner_id", "owner"
		}
	}
	if id == "" || name == "" {
		return // that it is missing was said
	}
	byID, byName := rowKey{r.Forge, id}, rowKey{r.Forge, fold(name)}
	if other := ids[byID]; other != nil {
		s.add(word, "%s %s of %s is in project %s already, as %s", what, id, r.Forge, other.project.name, other.label())
	} else if other := names[byName]; other != nil {
		_, otherID := other.owner()
		if !other.whole() {
			otherID = other.ID
		}
		s.add(nameWord, "%s of %s is in project %s already, with id %s", name, r.Forge, other.project.name, otherID)
	}
	ids[byID], names[byName] = r, r
}

// validRepository reports whether name is OWNER/NAME, or a GitLab path of groups.
func validRepository(name string) bool {
	return len(name) <= signing.MaxRepository && reRepo.MatchString(name)
}

// compileImage reads a repository name with its registry, in whose path globs
// may stand. The registry is written out, in one way only, because it decides
// who gets credentials and whether two projects mean the same image.
func compileImage(text string, whole bool) (imagePattern, error) {
	if strings.HasPrefix(text, regexPrefix) {
		return imagePattern{}, errors.New("an image is a name or a glob: whether regular expressions of two projects overlap cannot be told")
	}
	out := imagePattern{written: text, hole: strings.Contains(text, hole)}
	switch rest := text; {
	case out.hole && !whole:
		return out, errors.New(hole + " is for rows about an owner or a group: write the name out")
	case !out.hole && whole:
		return out, errors.New("every repository of the owner or group could sign this image: put " + hole + " where the name of the repository stands, or give the repository a row of its own")
	case out.hole:
		before, after, _ := strings.Cut(rest, hole)
		if !strings.HasSuffix(before, "/") || after != "" && !strings.HasPrefix(after, "/") || strings.Contains(after, hole) {
			return out, errors.New(hole + " stands once, for a whole part of the path: registry.acme.dev/payments/" + hole)
		}
		text = before + "*" + after
	}
	p, err := compileGlob(text)
	if err != nil {
		return out, err
	}
	out.pattern = p
	host, path, _ := strings.Cut(text, "/")
	sample := host + "/" + strings.ReplaceAll(path, "*", "x")
	switch {
	case strings.Contains(host, "*") || len(text) > signing.MaxRepository || signing.Repository(sample).Validate() != nil:
		return out, errors.New("must be REGISTRY/PATH without tag or digest, such as registry.acme.dev/payments/web or registry.acme.dev/payments/*")
	case host != fold(host) || strings.HasSuffix(host, ":443"):
		return out, errors.New("write the registry in lower case and without the default port 443")
	case host == "index.docker.io" || host == "registry-1.docker.io":
		return out, errors.New("write docker.io for Docker Hub")
	}
	return out, nil
}

// maxComparisons bounds the search for overlaps: it is reached only by
// thousands of globs that differ after their first wildcard alone.
const maxComparisons = 1_000_000

// overlaps reports image patterns that two projects share. Sorted by the text
// before the first wildcard, every pattern whose text goes on from a's comes
// directly after a.
func (l *loader) overlaps() {
	type key struct {
		project *project
		text    string
	}
	seen := map[key]bool{}
	claims := slices.DeleteFunc(l.claims, func(c claim) bool {
		k := key{c.row.project, c.pattern.text}
		was := seen[k]
		seen[k] = true
		return was
	})
	slices.SortStableFunc(claims, func(a, b claim) int {
		return strings.Compare(literal(a.pattern.text), literal(b.pattern.text))
	})
	compared := 0
	for i, a := range claims {
		prefix := literal(a.pattern.text)
		for _, b := range claims[i+1:] {
			// A name without a wildcard is matched by nothing that is longer.
			if other := literal(b.pattern.text); !strings.HasPrefix(other, prefix) || a.pattern.re == nil && other != prefix {
				break
			}
			if compared++; compared > maxComparisons || len(l.problems) > config.MaxProblems {
				l.problems = append(l.problems, a.row.project.doc.Problem(a.path(), "too many image patterns like %s to tell whether projects overlap: write more text before the first *", a.pattern.text))
				return
			}
			if a.row.project != b.row.project && overlap(a.pattern.text, b.pattern.text) {
				l.problems = append(l.problems, b.row.project.doc.Problem(b.path(), "%s overlaps with %s of project %s: an image belongs to one project", b.written(), a.written(), a.row.project.name))
			}
		}
	}
}

// written is the pattern as the file has it.
func (c claim) written() string { return c.row.Images[c.index] }
