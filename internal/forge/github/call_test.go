package github

import (
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

func TestANullIsNoEmptyList(t *testing.T) {
	f, c := world(t)
	f.set("GET "+web+"/commits/"+sha+"/pulls", says("null"))
	if facts, err := c.Ask(t.Context(), origin(), nil, askPulls); !signing.Temporary(err) || facts != nil {
		t.Errorf("null for a list: %+v, %v", facts, err)
	}
	checksOf(f, "", "")
	f.set("GET "+web+"/commits/"+sha+"/check-runs", says(`{"check_runs":null}`))
	if facts, err := c.Ask(t.Context(), origin(), nil, signing.ForgeQuestion{Checks: true}); !signing.Temporary(err) || facts != nil {
		t.Errorf("null for the list of an object: %+v, %v", facts, err)
	}
}
