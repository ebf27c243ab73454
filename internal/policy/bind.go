package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

// labelRevision is the label by which an image says which commit it was made
// from (OCI image specification, annotations).
const labelRevision = "org.opencontainers.image.revision"

// digestsOnly refuses images that the job named by a tag: between the push and
// the look-up somebody else may have moved it.
func digestsOnly(images []signing.Image) signing.Reason {
	const wanted = "the digest that the push reported"
	return each("bind.digests_only", images, wanted, func(i signing.Image) *signing.Reason {
		if i.Artifact.ResolvedFrom == "" {
			return nil
		}
		why := leaf("", false, wanted, fmt.Sprintf("%s, resolved from the tag %s", i.Artifact.Repository, i.Artifact.ResolvedFrom), "give the step the digest that the build or push step put out, in place of the tag")
		return &why
	})
}

// revisionLabel compares the revision that each image says with the commit of the
// build. An index must say it by every image in it, and have one.
func revisionLabel(images []signing.Image, commit string) signing.Reason {
	wanted := labelRevision + "=" + commit
	if commit == "" {
		return leaf("bind.revision_label", false, "the commit of the build in the token", "", "sign from a CI whose token states the commit, or take the rule out")
	}
	return each("bind.revision_label", images, wanted, func(i signing.Image) *signing.Reason {
		const fix = "build the image with this label (docker/metadata-action sets it) from the commit that the job runs for"
		parts := i.Parts()
		if len(parts) == 0 {
			why := leaf("", false, wanted, i.Artifact.String()+" has no image in it", fix)
			return &why
		}
		for _, m := range parts {
			was, ok := m.Labels[labelRevision]
			if ok && was == commit {
				continue
			}
			if !ok {
				was = "no such label"
			}
			why := leaf("", false, wanted, m.Artifact.String()+": "+was, fix)
			return &why
		}
		return nil
	})
}

// window is a time in which nothing is signed: from its first day's beginning to
// its last day's end, UTC.
type window struct {
	text     string
	from, to time.Time // to is the first moment after it
}

// maxFreeze bounds one interval: what lasts longer is a rule, or a typing error.
const maxFreeze = 366 * 24 * time.Hour

// parseWindow reads FIRST-DAY/LAST-DAY, or one day.
func parseWindow(text interval) (window, error) {
	first, last, interval := strings.Cut(string(text), "/")
	from, err := time.Parse(time.DateOnly, first)
	if err != nil {
		return window{}, errors.New("must be FIRST-DAY/LAST-DAY as in 2026-12-20/2027-01-04, both of them included, or one day")
	}
	to := from
	if interval {
		if to, err = time.Parse(time.DateOnly, last); err != nil {
			return window{}, errors.New("must be FIRST-DAY/LAST-DAY as in 2026-12-20/2027-01-04, both of them included, or one day")
		}
	}
	to = to.AddDate(0, 0, 1)
	switch {
	case !from.Before(to):
		return window{}, errors.New("the last day is before the first")
	case to.Sub(from) > maxFreeze:
		return window{}, errors.New("longer than a year: take the policy out, or write several intervals")
	}
	return window{string(text), from, to}, nil
}

// Freeze says whether the policy lets anything be signed at this moment. The
// second value is false where the policy has no such rule.
func (p *Policy) Freeze(now time.Time) (signing.Reason, bool) {
	if len(p.freeze) == 0 {
		return signing.Reason{}, false
	}
	if now.IsZero() {
		return leaf("freeze", false, "a time outside "+p.windows(), "", "judge the rule with a time"), true
	}
	now = now.UTC()
	was := now.Format(time.RFC3339)
	for _, w := range p.freeze {
		if !now.Before(w.from) && now.Before(w.to) {
			return leaf("freeze", false, "a time outside "+w.text, was, "wait until "+w.to.Format(time.RFC3339)+", or ask the owner of the policy for an exception"), true
		}
	}
	return leaf("freeze", true, "a time outside "+p.windows(), was, ""), true
}

func (p *Policy) windows() string {
	texts := make([]string, len(p.freeze))
	for i, w := range p.freeze {
		texts[i] = w.text
	}
	return oneOf(texts)
}
