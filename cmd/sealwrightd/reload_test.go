package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// address returns the URL of the service.
func (f files) address() string {
	f.t.Helper()
	c, err := load(f.path("sealwright.yaml"))
	if err != nil {
		f.t.Fatal(err)
	}
	return c.Server.URL
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// becomes waits until the service says text, at most most.
func (f files) becomes(said func() string, text string, most time.Duration) {
	f.t.Helper()
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if strings.Contains(said(), text) {
			return
		}
	}
	f.t.Fatalf("not in %s: %s\n%s", most, text, said())
}

func TestChangedPoliciesComeIntoForceWithoutARestart(t *testing.T) {
	f := configured(t, startWorld(t))
	r := f.serve()
	good, err := os.ReadFile(f.path("policies/payments.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	url := f.address()
	metrics, ready := func() string { return get(t, url+"/metrics") }, func() string { return get(t, url+"/readyz") }
	f.becomes(metrics, "sealwright_policy_generation 1\n", time.Minute)

	// By looking, without being told.
	f.edit("policies/payments.yaml", "events: [push, release]", "events: [push]")
	f.becomes(metrics, "sealwright_policy_generation 2\n", 10*policyPoll)

	// Broken files: the old ones stay, and everybody can see it.
	f.edit("policies/payments.yaml", "events: [push]", "events: [pull_request_target]")
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	f.becomes(metrics, "sealwright_policy_refused 1\n", time.Minute)
	if got := metrics(); !strings.Contains(got, "sealwright_policy_generation 2\n") {
		t.Error("the broken policies are a generation")
	}
	if got := ready(); !strings.Contains(got, `"ready":true`) || !strings.Contains(got, "the policy files have 1 problems") {
		t.Error(got)
	}

	// At once when told; a key that is not there is found as config check finds it.
	f.write("policies/payments.yaml", strings.Replace(string(good), "key: release", "key: nobody", 1))
	f.becomes(r.said, "nobody", 10*policyPoll)
	f.write("policies/payments.yaml", string(good))
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	f.becomes(metrics, "sealwright_policy_generation 3\n", time.Minute)
	f.becomes(metrics, "sealwright_policy_refused 0\n", time.Minute)
	code, errs := r.stop()
	if code != exitOK || !strings.Contains(errs, "pull_request_target cannot be trusted to sign") || !strings.Contains(errs, "payments.yaml:") {
		t.Errorf("%d %s", code, errs)
	}
}

// TestMountedConfigMapIsReadOnce: Kubernetes keeps the files in a hidden folder
// and links to them.
func TestMountedConfigMapIsReadOnce(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "..2026_09_01")
	for _, err := range []error{
		os.Mkdir(data, 0o700), os.WriteFile(filepath.Join(data, "payments.yaml"), []byte("project: payments\n"), 0o600),
		os.Symlink("..2026_09_01", filepath.Join(dir, "..data")), os.Symlink("..data/payments.yaml", filepath.Join(dir, "payments.yaml")),
		os.WriteFile(filepath.Join(dir, ".payments.yaml.swp.yaml"), nil, 0o600), os.WriteFile(filepath.Join(dir, "payments.test.yaml"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := readPolicies(dir)
	if err != nil || len(got) != 1 || string(got[filepath.Join(dir, "payments.yaml")]) != "project: payments\n" {
		t.Errorf("%v, %v", got, err)
	}
}
