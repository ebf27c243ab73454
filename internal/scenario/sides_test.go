package scenario_test

import (
	"testing"

	"github.com/sealwright/sealwright/internal/testenv"
)

// sides are the forges.
func sides() map[string]func(t *testing.T, e *testenv.Env) side {
	return map[string]func(t *testing.T, e *testenv.Env) side{"github": newHub, "gitlab": newLab}
}
