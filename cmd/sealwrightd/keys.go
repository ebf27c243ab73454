package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/identity"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// tryOpen opens what serve opens, except database, TLS files and listeners.
func tryOpen(ctx context.Context, c *loaded) error {
	ring, err := key.Open(ctx, c.Keys, key.Options{PKCS11: modules()})
	if err != nil {
		return err
	}
	if _, err := openLogKey(c.Log.Key); err != nil {
		return err
	}
	for i, ref := range c.Store.StateSecret {
		if _, err := ref.Read(os.LookupEnv); err != nil {
			return fmt.Errorf("reading state secret %d: %w", i+1, err)
		}
	}
	if _, err := identity.New(ctx, c.Issuers, identity.Options{Client: issuerClient(nil), ClientFor: issuerClient, Now: time.Now}); err != nil {
		return err
	}
	reg, err := registry.New(c.Registries, registry.Options{})
	if err != nil {
		return err
	}
	known, err := methods(c.Config, reg, nil)
	if err != nil {
		return err
	}
	return checkSteps(c.Policies, ring, known)
}

func openRing(ctx context.Context, path string) (*loaded, *key.Ring, error) {
	c, err := load(path)
	if err != nil {
		return nil, nil, err
	}
	ring, err := key.Open(ctx, c.Keys, key.Options{PKCS11: modules()})
	return c, ring, err
}

// openKey opens all keys and finds that of the flag --key.
func openKey(ctx context.Context, path, id string) (*loaded, *key.Ring, signing.KeyInfo, error) {
	c, ring, err := openRing(ctx, path)
	if err != nil {
		return nil, nil, signing.KeyInfo{}, err
	}
	info, ok := ring.Info(id)
	if !ok {
		return nil, nil, info, &usageError{fmt.Sprintf("--key: no key %q; there are %s", id, strings.Join(ring.IDs(), ", "))}
	}
	return c, ring, info, nil
}

func cmdKeysList(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("keys list", errs)
	path := configFlag(f)
	if err := parse(f, args, 0); err != nil {
		return err
	}
	c, ring, err := openRing(ctx, *path)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tALGORITHM\tVERSION\tCERTIFICATE UNTIL\tMETHODS\tSERVES")
	for _, k := range c.Keys {
		info, _ := ring.Info(k.ID)
		v, err := info.Version()
		if err != nil {
			return err
		}
		var serves []string
		for _, a := range k.Allow {
			serves = append(serves, a.Project+"/"+a.Policy)
		}
		until := "-"
		if len(info.Chain) > 0 {
			until = info.Chain[0].NotAfter.UTC().Format(time.DateOnly)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, info.Algorithm(), v[:16], until, strings.Join(k.Methods, ","), strings.Join(serves, ","))
	}
	return w.Flush()
}

func cmdKeysPublic(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("keys public", errs)
	path := configFlag(f)
	id := f.String("key", "", "`id` of the key")
	pgp := f.Bool("openpgp", false, "print the OpenPGP certificate, armored, as gpg --import reads it")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	_, _, info, err := openKey(ctx, *path, *id)
	if err != nil {
		return err
	}
	if *pgp {
		if _, err := openpgp.Of(info); err != nil {
			return err
		}
		_, err := io.WriteString(out, signing.ArmorOpenPGP(info.OpenPGP))
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(info.Public)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", *id, err)
	}
	return pem.Encode(out, &pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// cmdKeysTest proves possession of every key, which opening it does; one whose
// module is away was not opened, and fails.
func cmdKeysTest(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("keys test", errs)
	path := configFlag(f)
	if err := parse(f, args, 0); err != nil {
		return err
	}
	_, ring, err := openRing(ctx, *path)
	if err != nil {
		return err
	}
	states := ring.Check(ctx)
	var failed []error
	for _, id := range slices.Sorted(maps.Keys(states)) {
		if err := states[id]; err != nil {
			failed = append(failed, fmt.Errorf("key %s: %w", id, err))
			continue
		}
		fmt.Fprintf(out, "%s signed a nonce, and its public half verified it\n", id)
	}
	return errors.Join(failed...)
}

func cmdKeysNew(_ context.Context, args []string, out, errs io.Writer) error {
	f := flags("keys new", errs)
	kind := f.String("type", "ecdsa-p256", "ecdsa-p256, log or state-secret")
	path := f.String("out", "", "`file` to write, which must not exist")
	name := f.String("log-name", "", "for --type log: the log's `name`, such as sign.acme.dev/log")
	var cert certificateFor
	f.StringVar(&cert.path, "certificate", "", "for --type ecdsa-p256: also write a self-signed certificate to `file`, as notation needs one")
	f.StringVar(&cert.subject, "subject", "", "with --certificate: its `subject`, as in C=US,ST=WA,O=Acme,CN=release")
	f.IntVar(&cert.days, "days", 730, "with --certificate: how long it is valid")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	if *path == "" {
		return &usageError{"--out is missing"}
	}
	var public string
	var err error
	switch {
	case cert.path == "" && cert.subject == "":
		public, err = newKey(*kind, *path, *name)
	case *kind != "ecdsa-p256" || cert.path == "":
		return &usageError{"--certificate and --subject go together, with --type ecdsa-p256"}
	default:
		public, err = newCertified(*path, cert)
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, public)
	return err
}

// newKey makes a secret of a kind in a new file that only its owner can read,
// and returns what others may know of it.
func newKey(kind, path, name string) (public string, err error) {
	var secret []byte
	switch kind {
	case "ecdsa-p256":
		secret, public, _, err = newECDSA()
	case "log":
		if name == "" || strings.ContainsAny(name, "+ \t\n") {
			return "", &usageError{"--log-name is missing or has spaces or '+'"}
		}
		var private string
		private, public, err = audit.GenerateKey(rand.Reader, name)
		secret, public = []byte(private+"\n"), public+"\n"
	case "state-secret":
		raw := make([]byte, 32)
		_, err = rand.Read(raw)
		secret = []byte(hex.EncodeToString(raw) + "\n")
	default:
		return "", &usageError{"--type: ecdsa-p256, log or state-secret"}
	}
	if err != nil {
		return "", err
	}
	return public, writeNew(path, secret, 0o600)
}

func newECDSA() (secret []byte, public string, key *ecdsa.PrivateKey, err error) {
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, "", nil, fmt.Errorf("encoding a key: %w", err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, "", nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub})), key, nil
}

// writeNew writes a file that must not be there, durably.
func writeNew(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// logName makes the name of a log from the service's URL.
func logName(service string) string {
	u, err := url.Parse(service)
	if err != nil || u.Host == "" {
		return "sealwright.local/log"
	}
	return u.Host + "/log"
}
