package submit_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
	"github.com/sealwright/sealwright/internal/testenv"
)

func TestTagsAreMovedToTheImageOnceItIsSigned(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	a := e.Image("new") // an index of two platforms
	old := e.ImageIn("payments/web", "latest", "old")
	j := newJob(t, s)
	code := j.run(string(a.Repository)+"@"+string(a.Digest), "--tags-after", "v1.2.3,"+string(a.Repository)+":latest")
	if code != submit.ExitOK {
		t.Fatalf("exit code %d\n%s", code, j.log())
	}
	for _, tag := range []string{"v1.2.3", "latest"} {
		if got := j.names(a.Repository, tag); got != string(a.Digest) {
			t.Errorf("%s names %s, not %s (before: %s)", tag, got, a.Digest, old.Digest)
		}
		if want := string(a.Repository) + ":" + tag + "@" + string(a.Digest); !strings.Contains(j.file("outputs"), want) {
			t.Errorf("the outputs do not have %s:\n%s", want, j.file("outputs"))
		}
	}
	if e.Signatures(a) != 1 {
		t.Errorf("%d signatures", e.Signatures(a))
	}
	if !strings.Contains(j.file("summary"), "`"+string(a.Repository)+":latest` names `"+string(a.Digest)+"`") {
		t.Errorf("the summary does not say so:\n%s", j.file("summary"))
	}
}

// TestATagNeverNamesAnImageWithoutItsSignatures ends the step at each of its
// calls to the outside: before it, after it, and with the call failing. After
// every call the tag must name the old image, or the new one with its signature.
func TestATagNeverNamesAnImageWithoutItsSignatures(t *testing.T) {
	world := testenv.NewWorld(t, true)
	run := func(t *testing.T, step string, mode testenv.Mode) []string {
		e := testenv.New(t, testenv.Options{World: world})
		s := e.Start(nil)
		a, repository := e.ImageIn("payments/"+pathOf(t), "", "new"), ""
		old := e.ImageIn("payments/"+pathOf(t), "v1", "old")
		repository = string(a.Repository)
		j := newJob(t, s)
		j.faults = testenv.NewFaults(step, mode)
		check := func() {
			if got := j.names(a.Repository, "v1"); got != string(old.Digest) && !(got == string(a.Digest) && e.Signatures(a) == 1) {
				t.Errorf("the tag names %s with %d signatures", got, e.Signatures(a))
			}
		}
		j.after = check
		args := []string{repository + "@" + string(a.Digest), "--tags-after", "v1"}
		code := j.run(args...)
		check()
		if step != "" && !j.faults.Hit() {
			t.Fatalf("%s did not come to pass; it is not the same run", step)
		}
		select {
		case <-j.faults.Died():
		default:
			if code != submit.ExitOK && j.names(a.Repository, "v1") == string(a.Digest) {
				t.Logf("the tag was moved, and the step failed: %s", j.log())
			}
		}
		// The same step again makes it whole.
		steps := j.faults.Steps()
		j.faults = nil
		if code := j.run(args...); code != submit.ExitOK {
			t.Fatalf("again: exit code %d\n%s", code, j.log())
		}
		if got := j.names(a.Repository, "v1"); got != string(a.Digest) {
			t.Errorf("in the end the tag names %s", got)
		}
		return steps
	}
	var steps []string
	t.Run("clean", func(t *testing.T) { steps = run(t, "", "") })
	for _, want := range []string{"service POST /v1/requests#1", "registry PUT tag#1"} {
		if !strings.Contains(strings.Join(steps, ","), want) {
			t.Fatalf("the table lacks %s: %q", want, steps)
		}
	}
	for _, step := range steps {
		if strings.HasPrefix(step, "service GET") && !strings.HasSuffix(step, "#1") {
			continue // how often it polls is chance
		}
		for _, mode := range []testenv.Mode{testenv.Fails, testenv.FailsButHappened, testenv.DiesAfter, testenv.DiesBefore} {
			t.Run(step+" "+string(mode), func(t *testing.T) {
				t.Parallel()
				run(t, step, mode)
			})
		}
	}
}

// pathOf is a repository of the test's own, in a registry that tests share.
func pathOf(t *testing.T) string {
	return fmt.Sprintf("t%.16s", signing.DigestOf([]byte(t.Name())).Hex())
}

func TestATagThatNamesTheImageBeforeItIsSignedIsWarnedAbout(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	a := e.ImageIn("payments/web", "v1", "pushed under its tag")
	j := newJob(t, s)
	args := []string{string(a.Repository) + "@" + string(a.Digest), "--tags-after", "v1"}
	if code := j.run(args...); code != submit.ExitOK || !strings.Contains(j.log(), "warning: tags named the image before it was signed") {
		t.Errorf("exit code %d\n%s", code, j.log())
	}
	again := newJob(t, s)
	again.token = j.token
	if code := again.run(args...); code != submit.ExitOK || strings.Contains(again.log(), "warning") {
		t.Errorf("the same step again: exit code %d\n%s", code, again.log())
	}
}

func TestNoTagMovesWithoutASignatureThatTheJobCanRead(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	a := e.Image("unseen")
	j := newJob(t, s)
	hide := hiding{j, ".sig"}
	code := submit.Main(t.Context(), submit.Process{
		Args: []string{string(a.Repository) + "@" + string(a.Digest), "--tags-after", "v1", "--server", server, "--audience", testenv.Audience, "--policy", "release"},
		Env:  func(k string) string { return map[string]string{"SEALWRIGHT_ID_TOKEN": j.token}[k] }, Stdout: j, Stderr: j, Transport: hide,
	})
	if code != submit.ExitVerifier || j.names(a.Repository, "v1") != "" {
		t.Errorf("exit code %d, the tag names %q\n%s", code, j.names(a.Repository, "v1"), j.log())
	}
}

// hiding is a registry that does not show what ends in suffix.
type hiding struct {
	next   http.RoundTripper
	suffix string
}

func (h hiding) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, h.suffix) {
		return &http.Response{StatusCode: http.StatusNotFound, Status: "404 Not Found", Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	}
	return h.next.RoundTrip(r)
}

func TestADeniedRequestMovesNoTag(t *testing.T) {
	e := testenv.New(t, testenv.Options{})
	s := e.Start(nil)
	a := e.ImageIn("elsewhere/web", "", "not of this project")
	j := newJob(t, s)
	if code := j.run(string(a.Repository)+"@"+string(a.Digest), "--tags-after", "v1"); code != submit.ExitDenied || j.names(a.Repository, "v1") != "" {
		t.Errorf("exit code %d, the tag names %q", code, j.names(a.Repository, "v1"))
	}
	if !strings.Contains(j.file("summary"), ":v1` not moved") {
		t.Errorf("the summary does not say so:\n%s", j.file("summary"))
	}
}
