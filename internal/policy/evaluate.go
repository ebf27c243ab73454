package policy

import (
	"fmt"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxFound bounds text of strangers in a reason.
	maxFound = 300
	// maxListed bounds how many artifacts one rule explains: of 500 that fail,
	// the first are enough to see why.
	maxListed = 20
	// maxWanted bounds how many patterns a reason lists.
	maxWanted = 10
)

// Evaluate holds facts against the policy, and against the repository's own
// where the forge was asked for it. If any reason of the tree does not pass the
// effect is Deny. Else it is NeedsApproval where people are asked (ApprovalsWith
// says who), and Allow where nobody is. It never panics and has no side effect.
//
// A policy in log mode is evaluated for requests of the policy that it shadows.
func (p *Policy) Evaluate(f signing.Facts) (signing.Effect, signing.Reason) {
	children := []signing.Reason{p.request(f)}
	switch {
	case p.Human():
		children = append(children, p.human(f))
	case f.List != nil || f.Source != nil:
		children = append(children, leaf("origin.human", false, "a build that asks for itself", "a request of a person", "name a policy for people: `origin: {human: true}`"))
	}
	children = append(children, p.repository(f))
	children = append(children, p.rest(f)...)
	for _, u := range p.unavailable {
		children = append(children, leaf(u.Path, false, "the rule is evaluated", "this version of Sealwright cannot evaluate "+u.Path+" yet", "remove the rule only if the policy is right without it, or use a version that has it"))
	}
	own, why := p.repositoryPolicy(f)
	if why.Rule != "" {
		children = append(children, why)
	}
	root := node(config.Key("policies", p.name), children...)
	switch {
	case !root.Pass:
		return signing.Deny, root
	case p.rules.Approvals != nil || own != nil && own.Approvals(p.name) != nil:
		return signing.NeedsApproval, root
	}
	return signing.Allow, root
}

// rest holds the rules that a repository's own policy may have too.
func (p *Policy) rest(f signing.Facts) []signing.Reason {
	var children []signing.Reason
	images, untrust := len(f.Images) > 0, len(f.Untrust) > 0
	if (images || untrust) && (!p.narrow || p.rules.Tags != nil) {
		children = append(children, p.signedTags(allNamed(f)))
	}
	if images {
		children = append(children, p.bind(f)...)
	}
	if p.rules.Origin != nil && !p.Lists() {
		children = append(children, p.origin(asked{f.Origin, f.Forge})...)
	}
	if frozen, ok := p.Freeze(f.Now); ok {
		children = append(children, frozen)
	}
	if len(p.when) > 0 {
		facts := factsOf(f)
		for _, c := range p.when {
			children = append(children, c.judge(facts))
		}
	}
	return children
}

// request checks that the facts are of a request that this policy is for.
func (p *Policy) request(f signing.Facts) signing.Reason {
	name := p.name
	if p.Log() {
		name = p.rules.Shadows
	}
	issuer := leaf("request.issuer", f.Identity.Role == signing.RoleCI, "a token of an issuer with the role ci", string(f.Identity.Role), "submit with the token of a CI job")
	if p.Human() {
		issuer = leaf("request.issuer", f.Identity.Has(signing.Submitter), "the token of a person with the role submitter", describeRoles(f.Identity), "submit with `sealwright`, as a person who may submit")
	}
	return node("request",
		leaf("request.policy", f.Policy == name, name, f.Policy, "evaluate the policy that the job asked for"),
		issuer,
		asks(f),
	)
}

// asks checks that something is asked for, and not too much.
func asks(f signing.Facts) signing.Reason {
	n, was := len(f.Images)+len(f.Untrust), count(len(f.Images), "image")
	if len(f.Untrust) > 0 {
		was += " and " + count(len(f.Untrust), "tag") + " to untrust"
	}
	return leaf("request.images", n > 0 && n <= signing.MaxArtifacts, fmt.Sprintf("1 to %d images", signing.MaxArtifacts), was, "name the images to be signed by digest")
}

// kindUntrust marks a tag without a digest; no image has this kind.
const kindUntrust = "untrust"

// allNamed returns everything whose name is judged: the images, and the tags whose
// trust is to be withdrawn.
func allNamed(f signing.Facts) []signing.Image {
	var out []signing.Image
	for _, i := range f.Images {
		out = append(out, signing.Image{Artifact: i.Artifact})
	}
	for _, a := range f.Untrusted() {
		out = append(out, signing.Image{Artifact: a, Kind: kindUntrust})
	}
	return out
}

// repository checks that the build is one of a repository of the project, and
// that each image is one that this repository may sign.
func (p *Policy) repository(f signing.Facts) signing.Reason {
	o := f.Origin
	r := p.set.row(o)
	if r == nil || r.project != p.project {
		why := p.set.unknown(o)
		if r != nil {
			why.Wanted, why.Fix = "a repository of project "+p.project.name, "ask for a policy of the repository's own project"
		}
		return node("repositories", why)
	}
	children := r.named(o)
	if all := allNamed(f); len(all) > 0 {
		children = append(children, p.images(r, o, all))
	}
	return node(r.path, children...)
}

// named compares the names of a row that was found by id, so that a row says to
// its reader what it is about.
func (r *row) named(o signing.Origin) []signing.Reason {
	if name, id := r.owner(); r.whole() {
		word, idWord := ".owner", ".owner_id"
		if r.Group != "" {
			word, idWord = ".group", ".id"
		}
		return []signing.Reason{
			leaf(r.path+idWord, true, id, o.SourceRepositoryOwnerIdentifier, ""),
			leaf(r.path+word, fold(above(o.SourceRepository)) == fold(name), name, above(o.SourceRepository), "the owner or group was renamed or moved: update the row if that is right"),
		}
	}
	out := []signing.Reason{
		leaf(r.path+".id", true, r.ID, o.SourceRepositoryIdentifier+boundBy(o), ""),
		leaf(r.path+".name", fold(o.SourceRepository) == fold(r.Name), r.Name, o.SourceRepository, "the repository was renamed or moved: update the row if that is right"),
	}
	if r.OwnerID != "" {
		out = append(out, leaf(r.path+".owner_id", o.SourceRepositoryOwnerIdentifier == r.OwnerID, r.OwnerID, o.SourceRepositoryOwnerIdentifier, "the repository has another owner than the row: update the row if that is right"))
	}
	return out
}

// boundBy says who says so, where it is not the token.
func boundBy(o signing.Origin) string {
	if o.Pipeline == "" {
		return ""
	}
	return ", which the configuration of the service says of pipeline " + o.Pipeline
}

func (p *Policy) images(r *row, o signing.Origin, images []signing.Image) signing.Reason {
	own, err := r.fill(o.SourceRepository)
	if err != nil {
		return leaf(r.path+".images", false, oneOf(r.Images), o.SourceRepository, err.Error()+": give the repository a row of its own, with its images written out")
	}
	wanted := own.String()
	return each(r.path+".images", images, wanted, func(i signing.Image) *signing.Reason {
		a := i.Artifact
		err, form, fix := a.Validate(), "an image with repository and digest", "name the image as REGISTRY/PATH@sha256:..."
		if i.Kind == kindUntrust {
			err, form, fix = a.ValidateUntrust(), "a tag to untrust", "name it as REGISTRY/PATH:TAG"
		}
		if err != nil {
			why := leaf("", false, form, a.String(), fix)
			return &why
		}
		if own.match(string(a.Repository)) {
			return nil
		}
		why := leaf("", false, wanted, string(a.Repository), p.set.owner(r, string(a.Repository)))
		return &why
	})
}

// owner says who may sign an image that r may not. A repository of another
// project is not named: only its project is.
func (s *Set) owner(r *row, image string) string {
	owners := append([]*row(nil), s.literals[image]...)
	for _, c := range s.globs {
		if c.pattern.match(image) {
			owners = append(owners, c.row)
		}
	}
	for _, other := range owners {
		if other.project == r.project {
			return "the image may be signed by builds of " + other.label() + " only: sign it there, or add it to the images of this repository"
		}
	}
	if len(owners) > 0 {
		return "the image belongs to project " + owners[0].project.name + ": sign it there"
	}
	return "add the image to the images of this repository, if it is meant to sign it"
}

// signedTags checks the tags that are to be signed along.
func (p *Policy) signedTags(images []signing.Image) signing.Reason {
	wanted := "no tag: this policy lets none be signed"
	if len(p.tags) > 0 {
		wanted = "no tag, or " + p.tags.String()
	}
	return each("tags", images, wanted, func(i signing.Image) *signing.Reason {
		a := i.Artifact
		if a.Tag == "" || p.tags.match(a.Tag) && signing.ValidateTag(a.Tag) == nil {
			return nil
		}
		why := leaf("", false, wanted, a.Tag, "submit the image without the tag, or add the tag to `tags` of the policy")
		return &why
	})
}

// bind holds the rules on how close what is signed is to the build.
func (p *Policy) bind(f signing.Facts) []signing.Reason {
	var out []signing.Reason
	b := p.rules.Bind
	if b != nil && given(b.DigestsOnly) {
		out = append(out, digestsOnly(f.Images))
	}
	if b != nil && given(b.RevisionLabel) {
		out = append(out, revisionLabel(f.Images, f.Origin.SourceRepositoryDigest))
	}
	if b != nil && given(b.Attestation) {
		out = append(out, asked{f.Origin, f.Forge}.attestation(f.Images))
	}
	return out
}

// namedCondition is a `when` of the policy, or of a base.
type namedCondition struct {
	rule, text string
	*condition
}

func (c namedCondition) judge(facts map[string]any) signing.Reason {
	ok, err := c.holds(facts)
	was := "false"
	switch {
	case err != nil:
		was = "no answer: " + err.Error()
	case ok:
		was = "true"
	}
	return leaf(c.rule, ok && err == nil, clip(strings.Join(strings.Fields(c.text), " ")), was, "the condition of the policy is not met: see which of its facts differ")
}

// AsksRegistry reports whether a rule of the tree of reasons rests on what the
// registry says of an image: it fails for facts that hold none yet.
func AsksRegistry(rule string) bool {
	return rule == "bind.revision_label" || rule == "when" || strings.HasSuffix(rule, ".when")
}

// each holds one rule against every artifact. If all pass it is one leaf, else
// a node with those that do not.
func each(rule string, images []signing.Image, wanted string, check func(signing.Image) *signing.Reason) signing.Reason {
	var bad []signing.Reason
	failed := 0
	for _, img := range images {
		why := check(img)
		if why == nil {
			continue
		}
		if failed++; failed <= maxListed {
			why.Rule = rule
			bad = append(bad, *why)
		}
	}
	if failed == 0 {
		return leaf(rule, true, wanted, count(len(images), "image"), "")
	}
	if failed > maxListed {
		bad = append(bad, leaf(rule, false, wanted, fmt.Sprintf("%d more images that fail", failed-maxListed), "correct the first ones and try again"))
	}
	if len(bad) == 1 {
		return bad[0]
	}
	return node(rule, bad...)
}

// node passes if it has children and all of them pass.
func node(rule string, children ...signing.Reason) signing.Reason {
	r := signing.Reason{Rule: rule, Pass: len(children) > 0, Children: children}
	for _, c := range children {
		r.Pass = r.Pass && c.Pass
	}
	return r
}

// leaf says what one rule wanted and found; the fix is for those that fail.
func leaf(rule string, pass bool, wanted, was, fix string) signing.Reason {
	r := signing.Reason{Rule: rule, Pass: pass, Wanted: wanted, Found: found(was)}
	if !pass {
		r.Fix = fix
	}
	return r
}

// found is a fact as a reason shows it.
func found(s string) string {
	if s == "" {
		return "nothing: the fact is missing"
	}
	return clip(s)
}

// clip bounds text of strangers and takes control characters out.
func clip(s string) string {
	if len(s) > maxFound {
		s = s[:maxFound] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// oneOf lists alternatives.
func oneOf(texts []string) string {
	if len(texts) > maxWanted {
		return fmt.Sprintf("%s or one of %d more", strings.Join(texts[:maxWanted], ", "), len(texts)-maxWanted)
	}
	if len(texts) < 2 {
		return strings.Join(texts, "")
	}
	return strings.Join(texts[:len(texts)-1], ", ") + " or " + texts[len(texts)-1]
}

// fold makes names of owners and repositories comparable: forges ignore the
// case of ASCII letters in them, and in nothing else.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
}

// describe names a repository for people.
func describe(o signing.Origin) string {
	return clip(fmt.Sprintf("%s of %s with id %s", o.SourceRepository, o.Forge, o.SourceRepositoryIdentifier))
}
