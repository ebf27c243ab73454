package config

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestACAFileIsAFileOfCertificatesWithinItsBoundOrRefused(t *testing.T) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	good := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if pool, err := ReadCA(""); pool != nil || err != nil {
		t.Errorf("no file: %v, %v", pool, err)
	}
	full := append(good, strings.Repeat("\n", MaxCA-len(good))...)
	for _, path := range []string{write("good", good), write("full", full)} {
		if pool, err := ReadCA(path); err != nil || pool == nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
	}
	for path, want := range map[string]string{
		// What is cut might have been the certificate that was meant.
		write("large", append(full, '\n')): "more than 1048576 bytes",
		write("text", []byte("x")):         "holds no PEM certificate",
		dir:                                "not a regular file",
		fifo:                               "not a regular file",
		filepath.Join(dir, "none"):         "no such file",
	} {
		if pool, err := ReadCA(path); pool != nil || err == nil || !strings.Contains(err.Error(), "ca_file") || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want the file and %q", filepath.Base(path), pool, err, want)
		}
	}
}
