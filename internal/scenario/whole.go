package scenario

import (
	"crypto"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

// Image is what a scenario signs.
type Image struct{ r *request }

// Reference is REPOSITORY@DIGEST in the registry of the scenario, which speaks HTTP
// on loopback.
func (i Image) Reference() string {
	return string(i.r.image.Repository) + "@" + string(i.r.image.Digest)
}

// Public is the half of the service's key that verifiers are given.
func (i Image) Public() crypto.PublicKey { return i.info().Public }

func (i Image) info() signing.KeyInfo {
	i.r.w.t.Helper()
	info, ok := i.r.w.s.Keys.Info("release")
	if !ok {
		i.r.w.t.Fatal("no key")
	}
	return info
}

// Whole is the whole way on each forge: a CI's token, a decision that asks people,
// a comment in the thread of the change, signed webhooks, the forge asked who may
// approve, the quorum, the signature, and what the forge shows then. look sees the
// image when people have been asked and when all but one of them have approved,
// not signed, and when the last one has, signed.
func Whole(t *testing.T, look func(t *testing.T, image Image, signed bool)) {
	t.Helper()
	way := func(t *testing.T, w *world) {
		r := w.submit(honest())
		code := r.asked()
		q := r.read()
		if q.Decision == nil || q.Decision.Effect != signing.NeedsApproval || q.Approval == nil || q.Approval.Code != code {
			t.Fatalf("decided %+v, asked %+v, the comment has the code %s", q.Decision, q.Approval, code)
		}
		if got := fmt.Sprint(r.build.pull); q.Approval.Number != got || q.Approval.Forge != w.f.host() {
			t.Errorf("asked in %s of %s, the change came by %s", q.Approval.Number, q.Approval.Forge, got)
		}
		w.until("the forge shows that people are asked", func() bool {
			state, _ := w.f.check(r.build.sha)
			return w.f.status(r.build.sha) == "pending" && state != ""
		})
		question := w.f.ours(r.build.pull)
		r.unsigned()
		look(t, Image{r}, false)

		r.approve("ann")
		r.given(1)
		r.unsigned()
		look(t, Image{r}, false)
		if q := r.read(); q.State != signing.AwaitingApproval {
			t.Errorf("after one of two: %s", q.State)
		}
		r.approve("bob")
		r.signed()
		look(t, Image{r}, true)
		r.shown(question)
	}
	for name, make := range sides() { // one after the other: look is the caller's
		t.Run(name, func(t *testing.T) { way(t, start(t, make, options{})) })
	}
}

// shown waits until the forge shows that r is signed; question is what it showed
// before.
func (r *request) shown(question []string) {
	w := r.w
	w.t.Helper()
	w.until("the comment says what became of it", func() bool {
		now := w.f.ours(r.build.pull)
		return len(now) > 0 && !slices.Equal(now, question) && !strings.Contains(strings.Join(now, "\n"), "/sealwright approve")
	})
	w.until("the check has ended and the status is set", func() bool {
		state, _ := w.f.check(r.build.sha)
		return w.f.status(r.build.sha) == "success" && (state == "success" || state == "completed success")
	})
	if n := len(w.f.ours(r.build.pull)); n != len(question) {
		w.t.Errorf("%d comments of the service, %d when it had asked: the comment is edited in place", n, len(question))
	}
}
