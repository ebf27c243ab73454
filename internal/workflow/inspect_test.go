package workflow_test

import (
	"sync/atomic"
	"testing"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// unread is a method that cannot read what it remembers, a number of times.
type unread struct {
	method.Method
	left *atomic.Int64
	code signing.Code
}

func (u unread) Inspect(in signing.Intent) (signing.Statement, error) {
	if u.left.Add(-1) >= 0 {
		return signing.Statement{}, &signing.Error{Code: u.code, Message: "not now"}
	}
	return u.Method.Inspect(in)
}

func TestBytesThatCannotBeReadBackYetAreReadBackLaterAndOnesThatAreRefusedEndTheRequest(t *testing.T) {
	for code, want := range map[signing.Code]signing.RequestState{signing.Unavailable: signing.Completed, signing.Denied: signing.Failed} {
		var left atomic.Int64
		left.Store(1)
		e := testenv.New(t, testenv.Options{Method: func(m method.Method) method.Method { return unread{m, &left, code} }})
		s := e.Start(nil)
		a := e.Image(string(code))
		r, capability := submit(t, s, "k", a)
		uses := 0
		if want == signing.Completed {
			uses = 1
		}
		if r = finish(t, s, r.ID, capability); r.State != want || e.KeyUses() != uses || e.Signatures(a) != uses {
			t.Errorf("%s: %s with %d key uses: %+v", code, r.State, e.KeyUses(), r.Failure)
		}
	}
}
