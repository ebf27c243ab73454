package server_test

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/server"
	"github.com/sealwright/sealwright/internal/workflow"
)

func TestWhatEndsIsAMetric(t *testing.T) {
	m := server.NewMetrics(func() float64 { return 0 })
	m.Ends(func() []workflow.Ending {
		return []workflow.Ending{{Repository: "registry.acme.dev/web", Part: "targets/releases", Untraced: []string{"v1", "v2"}, Ends: []method.End{{Name: "root", Expires: time.Unix(1800000000, 0)}}}}
	})
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(rec.Body)
	ok(t, err)
	for _, line := range []string{
		`sealwright_trust_ends_timestamp_seconds{part="targets/releases",repository="registry.acme.dev/web",role="root"} 1.8e+09`,
		`sealwright_trust_not_renewed{part="targets/releases",repository="registry.acme.dev/web",why="untraced"} 2`,
		`sealwright_trust_not_renewed{part="targets/releases",repository="registry.acme.dev/web",why="failed"} 0`,
	} {
		if !strings.Contains(string(body), line+"\n") {
			t.Errorf("no line %s in\n%s", line, body)
		}
	}
}
