package submit_test

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
)

func TestAJobsImageIsSignedAndLaterStepsCanReadWhatWasDone(t *testing.T) {
	w := newWorld(t)
	code := w.main(t.Context(), "--result-file", filepath.Join(w.dir, "result.json"))
	w.check(code, submit.ExitOK, "request "+requestID, "signing: 0 of 1 signature published", "completed: 1 of 1 signature published", "signed "+imageA+" (cosign, key release-ec)", ":sha256-aaaa", "::add-mask::"+w.capability+"\n", "::add-mask::"+w.tokens[0]+"\n")
	out := w.outputs()
	if out["request-id"] != requestID || out["state"] != "completed" || out["digests"] != `["`+imageA+`"]` {
		t.Errorf("outputs %q", out)
	}
	var signatures []struct {
		Repository, Digest, Method, Key, State string
		Locations                              []signing.Location
	}
	if err := json.Unmarshal([]byte(out["signatures"]), &signatures); err != nil || len(signatures) != 1 || signatures[0].Digest != digestA || signatures[0].State != "published" || len(signatures[0].Locations) != 1 {
		t.Errorf("signatures %s: %v", out["signatures"], err)
	}
	if s := w.file("summary"); !strings.Contains(s, requestID) || !strings.Contains(s, "sealwright.test/log") {
		t.Errorf("the summary lacks the request or the checkpoint:\n%s", s)
	}
	var result struct {
		ExitCode int
		Request  api.Request
	}
	if err := json.Unmarshal([]byte(w.file("result.json")), &result); err != nil || result.ExitCode != 0 || result.Request.State != signing.Completed {
		t.Errorf("result %+v: %v", result, err)
	}
}

// hostile is what a stranger would put into a branch name or an error text.
const hostile = "x\n::set-env name=PATH::/evil\r::stop-commands::q\x1b[2K##[command]rm </details>|`<img src=x onerror=1>"

func deny(r *signing.Request, tasks []signing.Task) []signing.Task {
	r.State = signing.RequestDenied
	r.Failure = &signing.Error{Code: signing.Denied, Message: "policy release says no", Fix: "merge first"}
	r.Decision = &signing.Decision{Effect: signing.Deny, Reasons: signing.Reason{Rule: "release", Children: []signing.Reason{
		{Rule: "images", Pass: true, Wanted: "payments/*", Found: "payments/web"},
		{Rule: "origin.refs", Wanted: "refs/heads/main", Found: "refs/heads/feature " + hostile, Fix: "run this from refs/heads/main"},
	}}}
	return nil
}

func TestADenialShowsItsReasonsInLogAnnotationAndSummaryAndExitsThree(t *testing.T) {
	w := newWorld(t)
	w.steps = []func(*signing.Request, []signing.Task) []signing.Task{deny}
	code := w.main(t.Context())
	w.check(code, submit.ExitDenied, "denied: policy release says no", "how to fix: merge first", "origin.refs", "refs/heads/main", "refs/heads/feature", "run this from refs/heads/main", "::error title=Sealwright%3A denied::policy release says no%0A")
	if strings.ContainsAny(w.out.String(), "\x1b\r") {
		t.Error("control characters reached the log")
	}
	if w.outputs()["state"] != "denied" || w.outputs()["request-id"] != requestID {
		t.Errorf("outputs %q", w.outputs())
	}
	if s := w.file("summary"); !strings.Contains(s, "origin.refs") || strings.Count(s, "merge first") != 1 {
		t.Errorf("summary:\n%s", s)
	}
}

func TestMarkdownInjectionByStrangersTextInTheSummaryIsImpossible(t *testing.T) {
	for name, prepare := range map[string]func(*world){
		"a denied request": func(w *world) { w.steps = []func(*signing.Request, []signing.Task) []signing.Task{deny} },
		"a problem": func(w *world) {
			w.before = func(rw http.ResponseWriter, r *http.Request) bool {
				p := api.FromError(&signing.Error{Code: signing.Denied, Message: hostile, Expected: hostile, Found: hostile, Fix: hostile})
				p.Reasons = &signing.Reason{Rule: hostile, Wanted: hostile, Found: hostile}
				return api.WriteProblem(rw, p) == nil
			}
		},
		"a failed task": func(w *world) {
			w.steps = []func(*signing.Request, []signing.Task) []signing.Task{func(r *signing.Request, tasks []signing.Task) []signing.Task {
				tasks = becomes(signing.Failed, signing.TaskFailed)(r, tasks)
				tasks[0].Failure = &signing.Error{Code: signing.Denied, Message: hostile, Found: hostile}
				r.Failure = tasks[0].Failure
				return tasks
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			prepare(w)
			code := w.main(t.Context())
			if code == submit.ExitOK {
				t.Error("exit code 0")
			}
			w.noSecrets()
			s := withoutCode(w.file("summary"))
			if s == "" || strings.Contains(s, "<img") || strings.Contains(s, "\n::set-env") || strings.ContainsAny(s, "\x1b\r") {
				t.Errorf("summary:\n%s", s)
			}
			// Every </details> that stands there is view's own.
			if strings.Count(s, "</details>") != strings.Count(s, "<details>") {
				t.Errorf("a stranger closes our element:\n%s", s)
			}
		})
	}
}

// withoutCode takes code spans and blocks out of Markdown, by CommonMark's rule:
// a run of backticks ends at the next run of the same length; an escaped one
// outside code begins none.
func withoutCode(s string) string {
	var b strings.Builder
	for {
		start := strings.IndexByte(s, '`')
		if start < 0 {
			return b.String() + s
		}
		if start > 0 && s[start-1] == '\\' {
			b.WriteString(s[:start+1])
			s = s[start+1:]
			continue
		}
		ticks := len(s[start:]) - len(strings.TrimLeft(s[start:], "`"))
		b.WriteString(s[:start])
		rest := s[start+ticks:]
		end := -1
		for at := 0; at < len(rest); {
			i := strings.IndexByte(rest[at:], '`')
			if i < 0 {
				break
			}
			at += i
			run := len(rest[at:]) - len(strings.TrimLeft(rest[at:], "`"))
			if run == ticks {
				end = at
				break
			}
			at += run
		}
		if end < 0 {
			return b.String() + s[start:]
		}
		s = rest[end+ticks:]
	}
}

func TestARefusedSubmissionShowsTheProblemAndItsReasons(t *testing.T) {
	w := newWorld(t)
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		p := api.FromError(&signing.Error{Code: signing.Denied, Message: "no project owns this repository", Expected: "an id of a project", Found: "id 99", Fix: "ask the platform team"})
		p.Reasons = &signing.Reason{Rule: "project", Wanted: "74", Found: "99"}
		return api.WriteProblem(rw, p) == nil
	}
	code := w.main(t.Context())
	w.check(code, submit.ExitDenied, "denied: submitting: no project owns this repository", "expected:", "an id of a project", "id 99", "ask the platform team", "project")
	if !strings.Contains(w.file("summary"), "ask the platform team") {
		t.Errorf("summary:\n%s", w.file("summary"))
	}
}

func TestEveryRefusalOfTheServiceHasItsExitCode(t *testing.T) {
	for code, exit := range map[signing.Code]int{
		signing.Invalid: 1, signing.Unauthenticated: 1, signing.Denied: 3, signing.NotFound: 1, signing.Conflict: 1, signing.Expired: 1, signing.TooLarge: 1, signing.Internal: 1,
	} {
		w := newWorld(t)
		posts := 0
		w.before = func(rw http.ResponseWriter, r *http.Request) bool {
			posts++
			return api.WriteProblem(rw, api.FromError(&signing.Error{Code: code, Message: "because", Expected: "e", Found: "f", Fix: "do"})) == nil
		}
		w.check(w.main(t.Context()), exit, "because", "expected:", "found:", "how to fix: do")
		if posts != 1 {
			t.Errorf("%s: %d submissions", code, posts)
		}
	}
}

func TestRetriesKeepTheIdempotencyKeyAndTheBody(t *testing.T) {
	w := newWorld(t)
	call := 0
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		switch call++; call {
		case 1: // away
			_ = api.WriteProblem(rw, api.FromError(&signing.Error{Code: signing.Unavailable, Message: "restarting", RetryAfter: 7 * time.Second}))
		case 2: // throttled
			_ = api.WriteProblem(rw, api.FromError(&signing.Error{Code: signing.RateLimited, Message: "slow down"}))
		case 3: // a proxy's page
			rw.WriteHeader(http.StatusBadGateway)
		case 4: // recorded, and the answer is lost
			w.mu.Lock()
			defer w.mu.Unlock()
			if err := w.service(discard{http.Header{}}, r); err != nil {
				t.Error(err)
			}
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	}
	code := w.main(t.Context())
	w.check(code, submit.ExitOK, "restarting; trying again in", "slow down")
	posts := slices.DeleteFunc(slices.Clone(w.calls), func(s string) bool { return !strings.HasPrefix(s, "POST") })
	if len(posts) != 2 || posts[0] != posts[1] {
		t.Errorf("submissions %q", posts)
	}
	if w.slept[0] < 7*time.Second {
		t.Errorf("Retry-After was not obeyed: %v", w.slept)
	}
	if len(w.tokens) != 1 {
		t.Errorf("%d tokens for one submission", len(w.tokens))
	}
}

// discard is a connection whose other end is gone.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func TestAServiceThatStaysAwayIsGivenUpAfterABound(t *testing.T) {
	w := newWorld(t)
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		return api.WriteProblem(rw, api.FromError(&signing.Error{Code: signing.Unavailable, Message: "away", Fix: "wait"})) == nil
	}
	start := w.clock()
	w.check(w.main(t.Context()), submit.ExitError, "error: submitting: away")
	if d := w.clock().Sub(start); d > 5*time.Minute || d < 4*time.Minute {
		t.Errorf("gave up after %s", d)
	}
}

func TestAnExpiredTokenIsReplacedWhileAFreshOneThatIsRefusedIsNot(t *testing.T) {
	w := newWorld(t)
	away := 0
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		if away++; away > 8 {
			return false
		}
		return api.WriteProblem(rw, api.FromError(&signing.Error{Code: signing.Unavailable, Message: "away"})) == nil
	}
	w.check(w.main(t.Context()), submit.ExitOK)
	if len(w.tokens) != 2 || !slices.Contains(w.calls, "POST refused") {
		t.Errorf("%d tokens, calls %q", len(w.tokens), w.calls)
	}

	w = newWorld(t)
	w.check(w.main(t.Context(), "--audience", "https://someone.else"), submit.ExitError, "wrong audience")
	if len(w.tokens) != 1 || len(w.calls) != 1 {
		t.Errorf("%d tokens, calls %q", len(w.tokens), w.calls)
	}
}

func TestTheSameStepAgainIsTheSameRequest(t *testing.T) {
	w := newWorld(t)
	w.check(w.main(t.Context(), "--wait=false"), submit.ExitOK, "not waited for: request "+requestID+" is pending")
	w.check(w.main(t.Context()), submit.ExitOK)
	posts := slices.DeleteFunc(slices.Clone(w.calls), func(s string) bool { return !strings.HasPrefix(s, "POST") })
	if len(posts) != 2 || posts[0] != posts[1] {
		t.Errorf("submissions %q", posts)
	}
	w.env["GITHUB_RUN_ATTEMPT"] = "2"
	w.main(t.Context(), "--wait=false")
	if last := w.calls[len(w.calls)-1]; last == posts[0] {
		t.Errorf("another attempt has the same key: %q", last)
	}
}

func TestACapabilityThatAnotherStepTookOverIsAskedForAgain(t *testing.T) {
	w := newWorld(t)
	taken := false
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if r.Method == "GET" && !taken {
			taken, w.capability = true, "of-another-step-0123456789"
		}
		return false
	}
	w.check(w.main(t.Context()), submit.ExitOK)
	if len(w.bodies) != 2 {
		t.Errorf("calls %q", w.calls)
	}
	// Two steps that take it from each other end, too.
	w = newWorld(t)
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if r.Method == "GET" {
			w.capability = "of-another-step-0123456789"
		}
		return false
	}
	w.check(w.main(t.Context()), submit.ExitError, "another step keeps taking this request over")
}

func TestAWaitThatTakesTooLongExitsFourAndLeavesTheRequestAlone(t *testing.T) {
	w := newWorld(t)
	w.steps = []func(*signing.Request, []signing.Task) []signing.Task{func(r *signing.Request, _ []signing.Task) []signing.Task {
		r.State = signing.AwaitingApproval
		return nil
	}}
	w.check(w.main(t.Context(), "--timeout", "90s"), submit.ExitTimeout, "awaiting approval until 2026-10-01 13:00 UTC", "timed out after 1m30s: the request is awaiting_approval", "how to fix: give more `timeout`")
	if slices.Contains(w.calls, "CANCEL") || strings.Count(w.out.String(), "awaiting approval until") != 1 {
		t.Errorf("calls %q", w.calls)
	}
	if w.outputs()["state"] != "awaiting_approval" {
		t.Errorf("outputs %q", w.outputs())
	}
	if n := len(w.slept); n < 80 || n > 100 {
		t.Errorf("a service that does not hold the poll was asked with %d pauses", n)
	}
}

func TestOutagesWhileWaitingAreWaitedOut(t *testing.T) {
	w := newWorld(t)
	call := 0
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != "GET" {
			return false
		}
		switch call++; call {
		case 1:
			_ = api.WriteProblem(rw, api.FromError(&signing.Error{Code: signing.Unavailable, Message: "restarting"}))
		case 2:
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	}
	w.check(w.main(t.Context()), submit.ExitOK, "restarting; trying again in 1s")
}

func TestEndsThatAreNoSignatureHaveTheirExitCodes(t *testing.T) {
	failure := &signing.Error{Code: signing.Unavailable, Message: "the registry did not take it", Fix: "try later"}
	type step = func(*signing.Request, []signing.Task) []signing.Task
	for name, c := range map[string]struct {
		step step
		exit int
		says []string
	}{
		"failed": {func(r *signing.Request, tasks []signing.Task) []signing.Task {
			tasks = becomes(signing.Failed, signing.TaskFailed)(r, tasks)
			r.Failure, tasks[0].Failure = failure, failure
			return tasks
		}, 1, []string{"error: the registry did not take it", imageA + " (cosign, key release-ec): the registry did not take it"}},
		"failed without a word": {becomes(signing.Failed, signing.TaskFailed), 1, []string{"the request ended failed"}},
		"failed, refused by a registry": {func(r *signing.Request, tasks []signing.Task) []signing.Task {
			r.Failure = &signing.Error{Code: signing.Denied, Message: "the registry says no"}
			return becomes(signing.Failed, signing.TaskFailed)(r, tasks)
		}, 1, []string{"the registry says no"}},
		"canceled": {becomes(signing.Canceled, signing.Queued), 1, []string{"the request ended canceled"}},
		"expired":  {becomes(signing.RequestExpired, signing.Queued), 4, []string{"timed out: the request expired", "`deadline`"}},
		"denied without a word": {func(r *signing.Request, _ []signing.Task) []signing.Task {
			r.State = signing.RequestDenied
			return nil
		}, 3, []string{"denied: the policy or a person said no"}},
		"completed without a signature": {func(r *signing.Request, _ []signing.Task) []signing.Task {
			r.State = signing.Completed
			return nil
		}, 5, []string{"verification failed: the service says completed, but names no signature", imageA}},
		"completed with a task that is not": {becomes(signing.Completed, signing.Signed), 5, []string{"but task " + requestID + ".1 is not"}},
		"completed for another image": {func(r *signing.Request, tasks []signing.Task) []signing.Task {
			tasks = becomes(signing.Completed, signing.Published)(r, tasks)
			tasks[0].Artifact.Repository = "registry.acme.dev/other"
			return tasks
		}, 5, []string{"do not ship this image"}},
		"published nowhere": {func(r *signing.Request, tasks []signing.Task) []signing.Task {
			tasks = becomes(signing.Completed, signing.Published)(r, tasks)
			tasks[0].Locations = nil
			return tasks
		}, 5, []string{"verification failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.steps = []step{c.step}
			w.check(w.main(t.Context()), c.exit, c.says...)
		})
	}
}

func TestASignalWithdrawsTheRequestWithAFreshToken(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != "GET" {
			return false
		}
		cancel()
		<-r.Context().Done()
		return true
	}
	w.check(w.main(ctx), submit.ExitError, "interrupted: withdrawing request "+requestID, "request "+requestID+" is canceled", "error: interrupted by a signal")
	if w.calls[len(w.calls)-1] != "CANCEL" || len(w.tokens) != 2 {
		t.Errorf("calls %q, %d tokens", w.calls, len(w.tokens))
	}
}

func TestASignalDuringTheSubmissionStillWithdrawsIt(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/requests" {
			cancel() // the answer is still on its way
		}
		return false
	}
	w.check(w.main(ctx), submit.ExitError, "request "+requestID+" is canceled")
}

func TestASignalBeforeTheSubmissionSubmitsNothing(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code := w.main(ctx); code != submit.ExitError || len(w.calls) != 0 {
		t.Errorf("exit code %d, calls %q", code, w.calls)
	}
}

func TestOutputsThatCannotBeWrittenFailTheStep(t *testing.T) {
	w := newWorld(t)
	w.env["GITHUB_OUTPUT"] = w.dir
	if code := w.main(t.Context()); code != submit.ExitError || !strings.Contains(w.out.String(), "writing step outputs") {
		t.Errorf("exit code %d:\n%s", code, w.out.String())
	}
	w = newWorld(t)
	if code := w.main(t.Context(), "--result-file", w.dir); code != submit.ExitError {
		t.Errorf("exit code %d", code)
	}
	// A summary is for reading; it fails nothing.
	w = newWorld(t)
	w.env["GITHUB_STEP_SUMMARY"] = w.dir
	if code := w.main(t.Context()); code != submit.ExitOK || !strings.Contains(w.out.String(), "warning: writing job summary") {
		t.Errorf("exit code %d:\n%s", code, w.out.String())
	}
}

func TestOnGitLabEverythingGoesToFilesOfTheJob(t *testing.T) {
	w := newWorld(t)
	token := "header.aud-" + hexOf(w.http.URL) + ".signature"
	w.tokens, w.issued[token] = []string{token}, w.clock()
	w.env = map[string]string{
		"GITLAB_CI": "true", "CI_PIPELINE_ID": "9", "CI_JOB_ID": "11", "CI_PROJECT_DIR": w.dir, "SEALWRIGHT_ID_TOKEN": token,
		"SEALWRIGHT_SERVER": w.http.URL, "SEALWRIGHT_POLICY": "release", "SEALWRIGHT_IMAGES": imageA,
	}
	w.check(w.main(t.Context()), submit.ExitOK)
	if got := w.file("sealwright.env"); !strings.Contains(got, "SEALWRIGHT_REQUEST_ID="+requestID+"\nSEALWRIGHT_STATE=completed\nSEALWRIGHT_DELIVERED=false\nSEALWRIGHT_DIGESTS=[\"") {
		t.Errorf("dotenv:\n%s", got)
	}
	if !strings.Contains(w.file("sealwright-summary.md"), requestID) {
		t.Errorf("summary:\n%s", w.file("sealwright-summary.md"))
	}
	if strings.Contains(w.out.String(), "::") {
		t.Errorf("workflow commands on GitLab:\n%s", w.out.String())
	}
}

func TestProgressIsDrawnInPlaceOnATerminal(t *testing.T) {
	w := newWorld(t)
	code := submit.Run(t.Context(), submit.Options{CI: w.environment(), Server: w.http.URL, Policy: "release", Images: []string{imageA}, TTY: true, Now: w.clock, Sleep: w.sleep})
	w.check(code, submit.ExitOK, "\r\x1b[Kpending: the service is deciding\r\x1b[Ksigning: 0 of 1 signature published\r\x1b[Kcompleted: 1 of 1 signature published\nsigned ")
}

func TestASecretInAnErrorOfTheServiceIsNotRepeated(t *testing.T) {
	w := newWorld(t)
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		return api.WriteProblem(rw, api.FromError(&signing.Error{Code: signing.Unauthenticated, Message: "bad token " + token, Found: token})) == nil
	}
	w.check(w.main(t.Context(), "--result-file", filepath.Join(w.dir, "result.json")), submit.ExitError, "bad token ***")
	if !strings.Contains(w.file("result.json"), "bad token ***") {
		t.Error(w.file("result.json"))
	}
}

func hexOf(s string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i := range len(s) {
		b.WriteByte(digits[s[i]>>4])
		b.WriteByte(digits[s[i]&15])
	}
	return b.String()
}
