//go:build conformance

package conformance

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// trustServer is a running notary-server.
type trustServer struct {
	url, ca string
	host    string // HOST:PORT, as docker's folder of certificates is called
}

// trustServers are the shapes in which Debian's notary-server runs.
func trustServers() map[string]func(*testing.T) trustServer {
	return map[string]func(*testing.T) trustServer{"memory": memoryNotary, "signer and PostgreSQL": productionNotary}
}

// debian finds what Debian's packages install.
func debian(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	// Debian keeps PostgreSQL's own programs out of PATH.
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err != nil || len(found) == 0 {
		t.Fatalf("%s is not installed: run `make ci`, which installs it", name)
	}
	return found[len(found)-1]
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// daemon runs a program until the test ends, and waits until it listens on port.
func daemon(t *testing.T, as *syscall.Credential, env []string, port, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/"}, env...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	for range 300 {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v\n%s", filepath.Base(name), err, log.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not listen", filepath.Base(name))
}

// authority makes certificates for this machine.
type authority struct {
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.key, a.cert = a.make(t, "ca", nil)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// make writes NAME.crt and NAME.key.
func (a *authority) make(t *testing.T, name string, by *authority) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := from, k
	if by == nil {
		from.IsCA, from.KeyUsage, from.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	} else {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, from, parent, k.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for file, b := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.path(file), pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return k, c
}

// startNotary runs notary-server with its keys and documents as these settings say.
func startNotary(t *testing.T, a *authority, trust, storage map[string]any) trustServer {
	t.Helper()
	a.make(t, "server", a)
	port := freePort(t)
	settings(t, a.path("server.json"), map[string]any{
		"server":        map[string]any{"http_addr": "127.0.0.1:" + port, "tls_cert_file": a.path("server.crt"), "tls_key_file": a.path("server.key")},
		"trust_service": trust, "storage": storage, "logging": map[string]any{"level": "error"},
	})
	daemon(t, nil, nil, port, debian(t, "notary-server"), "-config", a.path("server.json"))
	return trustServer{url: "https://localhost:" + port, ca: a.path("ca.crt"), host: "localhost:" + port}
}

func settings(t *testing.T, path string, v map[string]any) {
	t.Helper()
	raw, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// memoryNotary keeps everything in one process.
func memoryNotary(t *testing.T) trustServer {
	return startNotary(t, newAuthority(t), map[string]any{"type": "local", "key_algorithm": "ecdsa"}, map[string]any{"backend": "memory"})
}

// productionNotary is notary-server, and notary-signer with its keys over mutual TLS,
// each with a PostgreSQL database.
func productionNotary(t *testing.T) trustServer {
	a := newAuthority(t)
	database := postgres(t)
	a.make(t, "signer", a)
	a.make(t, "client", a)
	port := freePort(t)
	settings(t, a.path("signer.json"), map[string]any{
		"server":  map[string]any{"grpc_addr": "127.0.0.1:" + port, "tls_cert_file": a.path("signer.crt"), "tls_key_file": a.path("signer.key"), "client_ca_file": a.path("ca.crt")},
		"storage": map[string]any{"backend": "postgres", "db_url": database("signer"), "default_alias": "timestamp_1"}, "logging": map[string]any{"level": "error"},
	})
	daemon(t, nil, []string{"NOTARY_SIGNER_TIMESTAMP_1=a passphrase", "NOTARY_SIGNER_DEFAULT_ALIAS=timestamp_1"}, port, debian(t, "notary-signer"), "-config", a.path("signer.json"))
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return startNotary(t, a,
		map[string]any{"type": "remote", "hostname": "localhost", "port": fmt.Sprint(n), "key_algorithm": "ecdsa", "tls_ca_file": a.path("ca.crt"), "tls_client_cert": a.path("client.crt"), "tls_client_key": a.path("client.key")},
		map[string]any{"backend": "postgres", "db_url": database("server")})
}

// postgres starts a PostgreSQL of its own and returns what makes a database with
// Notary's own tables for "server" or "signer".
func postgres(t *testing.T) func(role string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "notary-pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	as := ordinary(t, dir)
	once := func(as *syscall.Credential, name string, args ...string) {
		cmd := exec.Command(debian(t, name), args...)
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: as}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	data, port := filepath.Join(dir, "data"), freePort(t)
	once(as, "initdb", "-D", data, "-U", "notary", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
	daemon(t, as, nil, port, debian(t, "postgres"), "-D", data, "-k", dir, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off")
	return func(role string) string {
		once(nil, "createdb", "-h", "127.0.0.1", "-p", port, "-U", "notary", role)
		source := os.Getenv("SEALWRIGHT_NOTARY_SOURCE")
		files, err := filepath.Glob(filepath.Join(source, "migrations", role, "postgresql", "*.up.sql"))
		if err != nil || source == "" || len(files) == 0 {
			t.Fatalf("SEALWRIGHT_NOTARY_SOURCE does not lead to Notary's tables for %s: run `make conformance`", role)
		}
		for _, f := range files {
			once(nil, "psql", "-h", "127.0.0.1", "-p", port, "-U", "notary", "-d", role, "-q", "-v", "ON_ERROR_STOP=1", "-f", f)
		}
		return "postgres://notary@127.0.0.1:" + port + "/" + role + "?sslmode=disable"
	}
}

// ordinary gives dir to a user who is not root, as whom PostgreSQL runs.
func ordinary(t *testing.T, dir string) *syscall.Credential {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	const nobody = 65534
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: true}
}

// altering is a server before another that changes a text in every document.
func altering(t *testing.T, to trustServer, old, with string) trustServer {
	t.Helper()
	a := newAuthority(t)
	a.make(t, "proxy", a)
	pair, err := tls.LoadX509KeyPair(a.path("proxy.crt"), a.path("proxy.key"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(to.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	address, err := url.Parse(to.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(address)
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableCompression: true}
	proxy.ModifyResponse = func(r *http.Response) error {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		raw = bytes.ReplaceAll(raw, []byte(old), []byte(with))
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
		r.Header.Set("Content-Length", strconv.Itoa(len(raw)))
		return nil
	}
	srv := httptest.NewUnstartedServer(proxy)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return trustServer{url: "https://localhost:" + port, ca: a.path("ca.crt"), host: "localhost:" + port}
}
