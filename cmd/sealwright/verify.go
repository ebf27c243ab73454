package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/signing"
)

const verifyUsage = `Verify the signatures of an image, by every method that the service signs with.

Usage:
  sealwright verify [flags] IMAGE

IMAGE is REPOSITORY@sha256:... or REPOSITORY:TAG, which is resolved once and
shown. A signature counts if the verifier of its technology accepts it: cosign's
library for cosign, notation's at level strict (without revocation) for notation,
and for simple signatures what gpg and podman ask of one. For Docker Content Trust
a tag of the image must be signed, on a notary server whose root key the service pins.
Beyond what cosign compares, a legacy signature must name this repository, and a
bundle must say that it is a signature.

What to trust, one of:
  --trust FILE      what the service's /v1/trust answered, kept in a file: needs no
                    service
  --key FILE        PEM file with one public key, for cosign's signatures only; or an
                    armored OpenPGP certificate, for simple ones, with --lookaside
  --server URL      ask the service (or SEALWRIGHT_SERVER)

Flags:
  --lookaside URL   where simple signatures are, as registries.d has it; HOST in it
                    stands for the registry. Without it, what the service says
  --policy NAME     PROJECT/POLICY: every signature that this policy makes must be
                    there. Without it, one valid signature is enough
  --insecure-http   speak plain http to a registry on a loopback address
  --ca-file FILE    PEM file with further CAs that the service's TLS may use

Exit code 5 says that a signature is missing, or that there is no valid one.
`

const (
	// maxKeyFile bounds a public key or an OpenPGP certificate.
	maxKeyFile = 64 << 10
	// verifyTimeout bounds a verification: a handful of requests.
	verifyTimeout = time.Minute
)

func runVerify(args []string, s streams) int {
	fs := flag.NewFlagSet("verify", flag.ContinueOnError)
	o := online{server: fs.String("server", os.Getenv("SEALWRIGHT_SERVER"), ""), caFile: fs.String("ca-file", "", "")}
	keyFile, trustFile, policy := fs.String("key", "", ""), fs.String("trust", "", ""), fs.String("policy", "", "")
	insecure, lookaside := fs.Bool("insecure-http", false, ""), fs.String("lookaside", "", "")
	images, code, done := parse(fs, args, verifyUsage, s)
	switch {
	case done:
		return code
	case len(images) != 1:
		fmt.Fprintf(s.err, "sealwright: one image is needed, %d were given\n\n%s", len(images), verifyUsage)
		return exitUsage
	case *keyFile == "" && *trustFile == "" && *o.server == "":
		fmt.Fprintf(s.err, "sealwright: --trust, --key or --server is needed\n\n%s", verifyUsage)
		return exitUsage
	case *keyFile != "" && (*trustFile != "" || *policy != ""):
		fmt.Fprintf(s.err, "sealwright: --key goes without --trust and --policy\n\n%s", verifyUsage)
		return exitUsage
	}
	a, err := image(images[0])
	if err != nil {
		explain(s.err, "reading IMAGE", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(context.Background(), verifyTimeout)
	defer cancel()
	var trust api.Trust
	if *keyFile != "" {
		trust, err = trustKey(*keyFile)
	} else {
		trust, err = readTrust(ctx, *trustFile, o)
	}
	if err != nil {
		explain(s.err, "reading what to trust", err)
		return exitError
	}
	if err := verifyImage(ctx, a, trust, *policy, places{lookaside: *lookaside, insecure: *insecure}, s.out); err != nil {
		explain(s.err, "verifying "+images[0], err)
		if errors.Is(err, signing.Denied) {
			return exitVerified
		}
		return exitError
	}
	return exitOK
}

// trustKey trusts one key: for simple signatures if it has an OpenPGP certificate,
// else for cosign.
func trustKey(file string) (api.Trust, error) {
	info, err := readPublic(file)
	if err != nil {
		return api.Trust{}, err
	}
	k, err := info.Record()
	if err != nil {
		return api.Trust{}, err
	}
	if k.OpenPGP != "" {
		return api.Trust{Keys: []signing.KeyRecord{k}, Methods: []api.TrustMethod{{Method: simple.Name, Key: k.ID}}}, nil
	}
	return api.Trust{Keys: []signing.KeyRecord{k}, Methods: []api.TrustMethod{
		{Method: cosign.Name, Key: k.ID}, {Method: cosign.Name, Key: k.ID, Options: map[string]string{"format": "bundle"}},
	}}, nil
}

func verifyImage(ctx context.Context, a signing.Artifact, trust api.Trust, policy string, p places, out io.Writer) (err error) {
	if p.registry, err = openRegistry(a, p.insecure); err != nil {
		return err
	}
	if a, err = described(ctx, p.registry, a); err != nil {
		return err
	}
	found, err := p.published(ctx, a, trust)
	if err != nil {
		return err
	}
	technologies, err := p.technologies(trust)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s@%s\n", a.Repository, a.Digest)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "METHOD\tFORMAT\tKEY\tRESULT\tWHERE")
	var missing []string
	valid, wanted := 0, 0
	for _, m := range trust.Methods {
		format := formatOf(m)
		n := 0
		for _, f := range found {
			if f.Method == m.Method && f.Format == format && slices.Contains(f.Keys, m.Key) {
				n++
				fmt.Fprintf(t, "%s\t%s\t%s\tvalid\t%s\n", m.Method, format, printable(m.Key), printable(f.Location.URI))
			}
		}
		valid += n
		if _, known := technologies[m.Method]; !known {
			fmt.Fprintf(t, "%s\t\t%s\tnot verified: this version does not know the method\t\n", printable(m.Method), printable(m.Key))
		} else if n == 0 {
			fmt.Fprintf(t, "%s\t%s\t%s\tnone\t\n", m.Method, format, printable(m.Key))
		}
		if policy != "" && slices.Contains(m.Policies, policy) {
			if wanted++; n == 0 {
				missing = append(missing, fmt.Sprintf("%s %s by %s", m.Method, format, m.Key))
			}
		}
	}
	others := 0
	for _, f := range found {
		if len(f.Keys) == 0 {
			others++
			fmt.Fprintf(t, "%s\t%s\t-\tby no known key\t%s\n", f.Method, f.Format, printable(f.Location.URI))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	const fix = "have the image signed, or trust the key that signed it"
	switch {
	case policy != "" && wanted == 0:
		return &signing.Error{Code: signing.Invalid, Message: "no such policy among those that sign", Found: policy, Fix: "name it PROJECT/POLICY"}
	case len(missing) > 0:
		return &signing.Error{Code: signing.Denied, Message: "a signature of the policy is missing", Expected: strings.Join(missing, ", "), Found: "none of these", Fix: fix}
	case valid == 0:
		return &signing.Error{Code: signing.Denied, Message: "no valid signature", Expected: "at least one by a known key", Found: fmt.Sprintf("%d others", others), Fix: fix}
	}
	return nil
}

// formatOf names the format of a way of signing, as package method does.
func formatOf(m api.TrustMethod) string {
	if f := m.Options["format"]; f != "" {
		return f
	}
	switch m.Method {
	case cosign.Name:
		return "legacy"
	case notation.Name:
		return "jws"
	case simple.Name:
		return simple.Format
	case dct.Name:
		return dct.Format
	}
	return ""
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
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("-----BEGIN PGP")) {
		c, err := openpgp.ParseCertificate(raw)
		if err != nil {
			return signing.KeyInfo{}, err
		}
		return signing.KeyInfo{ID: filepath.Base(path), Public: c.Public, OpenPGP: c.Raw}, nil
	}
	bad := &signing.Error{Code: signing.Invalid, Message: "not a public key", Expected: "one PEM block PUBLIC KEY, or an armored OpenPGP certificate", Found: path, Fix: "take it from the service's /v1/trust/keys/ID"}
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
