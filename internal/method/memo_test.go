package method

import (
	"encoding/binary"
	"errors"
	"testing"
)

func number(n int) (out Question) {
	binary.BigEndian.PutUint64(out[:], uint64(n))
	return out
}

func TestEndlessDataAnswersAreForgotten(t *testing.T) {
	var m Memo[int]
	for n := range 3 * MaxMemo {
		for range 2 {
			if v, err := m.Ask(number(n), func() (int, error) { return n, nil }); v != n || err != nil {
				t.Fatal(v, err)
			}
		}
	}
	if m.Len() != MaxMemo || len(m.order) != MaxMemo {
		t.Errorf("%d remembered, %d in order", m.Len(), len(m.order))
	}
	// In this order: what is asked anew is remembered in the place of another.
	for _, c := range []struct{ n, want int }{{3*MaxMemo - 1, 0}, {2 * MaxMemo, 0}, {0, 1}} {
		asked := 0
		if _, err := m.Ask(number(c.n), func() (int, error) { asked++; return c.n, nil }); err != nil || asked != c.want {
			t.Errorf("answer %d was asked for %d times, want %d", c.n, asked, c.want)
		}
	}
}

func TestRefusalsAreNotRemembered(t *testing.T) {
	var m Memo[int]
	refused := errors.New("refused")
	for range 2 {
		if _, err := m.Ask(number(1), func() (int, error) { return 1, refused }); !errors.Is(err, refused) {
			t.Error(err)
		}
	}
	if v, err := m.Ask(number(1), func() (int, error) { return 2, nil }); v != 2 || err != nil {
		t.Error(v, err)
	}
}
