package workflow_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/devworld"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/testenv"
)

// TestFreezeThatBeginsAfterTheDecisionStopsTheKey: it is judged again when signing
// starts, by the time of then.
func TestFreezeThatBeginsAfterTheDecisionStopsTheKey(t *testing.T) {
	world := testenv.NewWorld(t, true)
	for name, days := range map[string]int{"begins": 3, "does not begin": 0} {
		t.Run(name, func(t *testing.T) {
			from := time.Now().UTC().AddDate(0, 0, 2).Format(time.DateOnly)
			e := testenv.New(t, testenv.Options{World: world, Policy: strings.Replace(testenv.Policy, "    tags:", "    freeze: [\""+from+"/"+time.Now().UTC().AddDate(0, 0, 9).Format(time.DateOnly)+"\"]\n    tags:", 1)})
			s := e.Start(nil)
			tag := "v" + strings.ReplaceAll(name, " ", "-")
			a := e.ImageIn("payments/web", tag, t.Name())
			a.Tag = tag
			// The signed tag is resolved again when signing is about to start.
			hold := world.Registry.Add(devworld.Rule{Path: regexp.MustCompile("/manifests/" + a.Tag + "$"), Times: 1, Hold: true})
			defer hold.Remove()
			body := strings.Replace(testenv.Body("release", a), "{", `{"deadlineSeconds":604800,`, 1)
			ans := s.Post("/v1/requests", e.GitHub(devworld.NewGitHubJob()), "k", body)
			var r api.Request
			ans.JSON(t, &r)
			capability := ans.Header.Get(api.HeaderCapability)
			<-hold.Arrived()
			e.Clock.Add(int64(time.Duration(days) * 24 * time.Hour))
			hold.Release()
			want, uses := signing.Completed, 1
			if days > 0 {
				want, uses = signing.RequestDenied, 0
			}
			if r = finish(t, s, r.ID, capability); r.State != want || e.KeyUses() != uses {
				t.Fatalf("%s, %d key uses: %+v", r.State, e.KeyUses(), r.Failure)
			}
			if days > 0 && !strings.Contains(r.Failure.Message, "recheck.freeze") {
				t.Errorf("%+v", r.Failure)
			}
		})
	}
}
