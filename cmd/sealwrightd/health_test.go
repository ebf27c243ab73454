package main

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

func TestHealthSaysWhetherTheRunningServiceIsReady(t *testing.T) {
	f := configured(t, startWorld(t))
	health := func() (int, string, string) { return execute(t, "health", "--config", f.path("sealwright.yaml")) }
	if code, out, errs := health(); code != exitError || out != "" || !strings.Contains(errs, "no service listens") {
		t.Errorf("without a service: %d %s%s", code, out, errs)
	}
	s := f.serve()
	if code, out, errs := health(); code != exitOK || !strings.Contains(out, `"ready":true`) {
		t.Errorf("with one: %d %s%s", code, out, errs)
	}
	if code, errs := s.stop(); code != exitOK {
		t.Fatal(code, errs)
	}
	if code, _, errs := health(); code != exitError || !strings.Contains(errs, "no service listens") {
		t.Errorf("after it: %d %s", code, errs)
	}
}

func TestHealthOfAServiceThatIsNotReadyIsAnErrorWithItsReasons(t *testing.T) {
	f := configured(t, startWorld(t))
	l, err := net.Listen("unix", filepath.Join(filepath.Dir(f.path("sealwright.yaml")), "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		http.Error(w, `{"ready":false,"checks":[{"name":"audit log"}]}`, http.StatusServiceUnavailable)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	if code, out, errs := execute(t, "health", "--config", f.path("sealwright.yaml")); code != exitError || out != "" || !strings.Contains(errs, "not ready") || !strings.Contains(errs, "audit log") {
		t.Errorf("%d %s%s", code, out, errs)
	}
}

func TestHealthWithoutAnAdminSocketSaysWhatIsMissing(t *testing.T) {
	f := configured(t, startWorld(t))
	f.write("bare.yaml", "server: {listen: \"127.0.0.1:1\"}\n")
	if code, _, errs := execute(t, "health", "--config", f.path("bare.yaml")); code != exitError || !strings.Contains(errs, "admin_socket") {
		t.Errorf("%d %s", code, errs)
	}
}
