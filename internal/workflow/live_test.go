package workflow

import (
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

func TestJobIsAnsweredAtOnceAtTheEndAndOnceWhenPeopleAreAsked(t *testing.T) {
	for _, c := range []struct {
		state   signing.RequestState
		known   int64 // the request is at version 7
		settled bool
		want    bool
	}{
		{signing.Completed, 6, false, true},
		{signing.Completed, 7, false, true}, // nothing more will come
		{signing.AwaitingApproval, 6, false, true},
		{signing.AwaitingApproval, 7, false, false}, // it was told: no hot loop while people think
		{signing.AwaitingApproval, 7, true, false},
		{signing.Signing, 6, false, false}, // it may be over in a moment
		{signing.Signing, 6, true, true},
		{signing.Signing, 7, true, false},
	} {
		s := Snapshot{Request: &signing.Request{State: c.state, Version: 7}}
		if got := s.due(c.known, c.settled); got != c.want {
			t.Errorf("%s, version 7, %d known, settled %t: answered %t", c.state, c.known, c.settled, got)
		}
	}
}
