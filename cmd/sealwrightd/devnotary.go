package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sealwright/sealwright/internal/devworld/notary"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// devNotaryWait is how long the notary server may take to start.
	devNotaryWait = 10 * time.Second
	// devNotaryImage is the repository with trust data, on the world's registry.
	devNotaryImage = "/payments/web"
)

// startDevNotary runs Debian's notary-server, in memory, with a repository that has
// delegated its releases to the key release-dct. It returns the values for the files
// of the world; none if the program is not installed. The server ends with ctx.
func startDevNotary(ctx context.Context, dir, registryHost string) (map[string]string, error) {
	program, err := exec.LookPath("notary-server")
	if err != nil {
		return nil, nil
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	cert, private := filepath.Join(dir, "notary.crt"), filepath.Join(dir, "notary-tls.key")
	if err := writeServerCertificate(cert, private); err != nil {
		return nil, err
	}
	settings, err := json.Marshal(map[string]any{
		"server":        map[string]any{"http_addr": address, "tls_cert_file": cert, "tls_key_file": private},
		"trust_service": map[string]any{"type": "local", "key_algorithm": "ecdsa"},
		"storage":       map[string]any{"backend": "memory"},
		"logging":       map[string]any{"level": "error"},
	})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "notary.json")
	if err := os.WriteFile(file, settings, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, "-config", file)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting notary-server: %w", err)
	}
	go func() { _ = cmd.Wait() }() // it is killed with ctx
	if err := listening(ctx, address); err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	out := map[string]string{"NotaryURL": "https://localhost:" + port, "NotaryCA": cert, "NotaryImage": registryHost + devNotaryImage}
	out["NotaryRoot"], err = delegateDev(ctx, dir, out)
	return out, err
}

// listening waits until somebody listens on address.
func listening(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, devNotaryWait)
	defer cancel()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for notary-server: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// delegateDev makes the repository and returns the id of its root key.
func delegateDev(ctx context.Context, dir string, world map[string]string) (string, error) {
	raw, err := readBounded(filepath.Join(dir, "release-dct.pub"))
	if err != nil {
		return "", err
	}
	b, _ := pem.Decode(raw)
	if b == nil {
		return "", errors.New("release-dct.pub is no PEM file")
	}
	public, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		return "", fmt.Errorf("reading release-dct.pub: %w", err)
	}
	gun := signing.Repository(world["NotaryImage"])
	owner, err := notary.NewOwner(gun)
	if err != nil {
		return "", err
	}
	root := owner.Root.Key.ID
	c, err := dct.Open([]dct.Config{{URL: world["NotaryURL"], Connection: registry.Connection{CAFile: world["NotaryCA"]}, Repositories: []string{string(gun)}, Pins: []dct.Pin{{Repository: string(gun), RootKeys: []string{root}}}}}, dct.Options{})
	if err != nil {
		return "", err
	}
	if err := owner.Init(ctx, c); err != nil {
		return "", fmt.Errorf("initialising %s: %w", gun, err)
	}
	return root, owner.Delegate(ctx, c, dct.RoleReleases, signing.KeyInfo{ID: "release-dct", Public: public})
}

// writeServerCertificate writes a self-signed certificate for this machine.
func writeServerCertificate(cert, private string) error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	now := time.Now()
	from := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, from, from, k.Public(), k)
	if err != nil {
		return fmt.Errorf("making a certificate: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return fmt.Errorf("encoding a key: %w", err)
	}
	if err := os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
