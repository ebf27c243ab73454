package github

import (
	"context"
	"encoding/json"
	"reflect"
	"strconv"
	"time"

	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

// maxVersions bounds the versions of a ruleset that are compared, each a request.
const maxVersions = 20

// since fills in from when on the protection of f has been at least what it is:
// since the youngest of the rulesets that make it is as it is.
func (b *build) since(ctx context.Context, f *signing.RefFacts, rs []ruleset) error {
	if !b.q.Since || !f.Protected || f.SinceUnknown != "" {
		return nil
	}
	var newest time.Time
	for _, r := range rs {
		var one signing.RefFacts
		if r.apply(&one); !one.Protected {
			continue // it adds nothing
		}
		t, err := b.unchanged(ctx, r)
		if err != nil {
			return err
		}
		if t.IsZero() {
			f.SinceUnknown = "GitHub does not say when " + r.label() + " was changed"
			return nil
		}
		if t.After(newest) {
			newest = t
		}
	}
	if newest.IsZero() {
		f.SinceUnknown = "no ruleset protects it"
	}
	f.Since = newest
	return nil
}

// version is one entry of a ruleset's history.
type version struct {
	ID      int64           `json:"version_id"`
	Updated string          `json:"updated_at"`
	State   json.RawMessage `json:"state"`
}

// unchanged returns since when a ruleset demands what it demands now: the time of
// its last change, or an earlier one where the history shows that what changed
// later was no more than its name. Only an administrator may read the history.
func (b *build) unchanged(ctx context.Context, r ruleset) (time.Time, error) {
	last := stamp(r.Updated)
	base := ask.Path("repos", b.at.owner, b.at.name, "rulesets", strconv.FormatInt(r.ID, 10), "history")
	if r.SourceType != "Repository" || last.IsZero() {
		return last, nil // an organisation's history is not the App's to read
	}
	history, err := list[version](ctx, b.Client, b.at.client, base, nil, maxRules, "administration: write")
	if ask.Permanent(err) {
		return last, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	var now any
	for i, v := range history {
		if i == maxVersions {
			break
		}
		state, at, err := b.version(ctx, base, v)
		if ask.Permanent(err) {
			break
		}
		if err != nil {
			return time.Time{}, err
		}
		switch {
		case i == 0:
			// The newest has to be what is in force, else the history is not whole.
			if !at.Equal(last) {
				return last, nil
			}
			now = state
		case at.IsZero() || at.After(last) || state == nil || !reflect.DeepEqual(state, now):
			return last, nil
		default:
			last = at
		}
	}
	return last, nil
}

// version returns what one version demanded, in a form that can be compared.
func (b *build) version(ctx context.Context, base string, v version) (any, time.Time, error) {
	var whole version
	if err := b.get(ctx, b.at.client, base+"/"+strconv.FormatInt(v.ID, 10), nil, &whole, "administration: write"); err != nil {
		return nil, time.Time{}, err
	}
	var state map[string]any
	if whole.ID != v.ID || json.Unmarshal(whole.State, &state) != nil {
		return nil, time.Time{}, nil
	}
	return []any{state["enforcement"], state["conditions"], state["rules"], state["bypass_actors"], state["target"]}, stamp(v.Updated), nil
}
