package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const verifyUsage = `Verify the signatures of an image with a public key.

Usage:
  sealwright verify --key FILE IMAGE

IMAGE is REPOSITORY@sha256:... or REPOSITORY:TAG, which is resolved once and
shown. A signature counts if cosign's own verification accepts it and it names
this repository, which cosign itself does not compare.

Flags:
  --key FILE        PEM file with the public key, from the service's /v1/trust
  --insecure-http   speak plain http to a registry on a loopback address

Exit code 5 says that there is no valid signature.
`

const (
	// maxKeyFile bounds a public key: the longest RSA key has some 800 bytes.
	maxKeyFile = 16 << 10
	// verifyTimeout bounds a verification: a handful of requests.
	verifyTimeout = time.Minute
)

func runVerify(args []string, s streams) int {
	fs := flag.NewFlagSet("verify", flag.ContinueOnError)
	keyFile := fs.String("key", "", "")
	insecure := fs.Bool("insecure-http", false, "")
	images, code, done := parse(fs, args, verifyUsage, s)
	switch {
	case done:
		return code
	case len(images) != 1:
		fmt.Fprintf(s.err, "sealwright: one image is needed, %d were given\n\n%s", len(images), verifyUsage)
		return exitUsage
	case *keyFile == "":
		fmt.Fprintf(s.err, "sealwright: --key is needed\n\n%s", verifyUsage)
		return exitUsage
	}
	key, err := readPublic(*keyFile)
	if err != nil {
		explain(s.err, "reading --key", err)
		return exitError
	}
	a, err := signing.ParseReference(images[0])
	if err == nil && a.Digest == "" && a.Tag == "" {
		err = &signing.Error{Code: signing.Invalid, Message: "neither a tag nor a digest", Expected: "REPOSITORY@sha256:... or REPOSITORY:TAG", Found: images[0]}
	}
	if err != nil {
		explain(s.err, "reading IMAGE", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(context.Background(), verifyTimeout)
	defer cancel()
	if err := verifyImage(ctx, a, key, *insecure, s.out); err != nil {
		explain(s.err, "verifying "+images[0], err)
		if errors.Is(err, signing.Denied) {
			return exitVerified
		}
		return exitError
	}
	return exitOK
}

func verifyImage(ctx context.Context, a signing.Artifact, key signing.KeyInfo, insecure bool, out io.Writer) error {
	row := registry.Config{Host: a.Repository.Host(), InsecureHTTP: insecure}
	if home, err := os.UserHomeDir(); err == nil {
		if path := filepath.Join(home, ".docker", "config.json"); exists(path) {
			row.DockerConfig = path
		}
	}
	if err := registry.Check([]registry.Config{row}).Err(); err != nil {
		return err
	}
	reg, err := registry.New([]registry.Config{row}, registry.Options{})
	if err != nil {
		return err
	}
	ref := string(a.Digest)
	if ref == "" {
		ref = a.Tag
	}
	d, err := reg.Resolve(ctx, a.Repository, ref)
	if err != nil {
		return err
	}
	a.Digest = d.Digest
	n, err := cosign.New(reg).VerifyImage(ctx, a, key)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s@%s: signatures of this key: %d\n", a.Repository, a.Digest, n)
	return err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func readPublic(path string) (signing.KeyInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return signing.KeyInfo{}, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return signing.KeyInfo{}, err
	}
	bad := &signing.Error{Code: signing.Invalid, Message: "not a public key", Expected: "one PEM block PUBLIC KEY", Found: path, Fix: "take it from the service's /v1/trust/keys/ID"}
	block, rest := pem.Decode(raw)
	if len(raw) > maxKeyFile || block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 {
		return signing.KeyInfo{}, bad
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		bad.Err = err
		return signing.KeyInfo{}, bad
	}
	return signing.KeyInfo{ID: filepath.Base(path), Public: public}, nil
}
