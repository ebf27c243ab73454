package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// rootLife is how long the certificate of a root key counts: as docker's.
	rootLife = 10 * 365 * day
	// rolesLife is how long root, targets and delegations count: as docker's.
	rolesLife = 3 * 365 * day
	// dctTimeout bounds one of these commands.
	dctTimeout = 2 * time.Minute
)

// ownerFlag reads where a key of a repository's owner is: file:PATH, env:NAME, or
// pkcs11:module=PATH;token=LABEL;pin=file:PATH;id=HEX.
func ownerFlag(text, passphrase string) (key.OwnerKey, error) {
	rest, ok := strings.CutPrefix(text, "pkcs11:")
	if !ok {
		return key.OwnerKey{File: config.Secret(text), Passphrase: config.Secret(passphrase)}, nil
	}
	var p key.PKCS11
	for _, part := range strings.Split(rest, ";") {
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "module":
			p.Module = value
		case "token":
			p.Token = value
		case "pin":
			p.PIN = config.Secret(value)
		case "label":
			p.Label = value
		case "id":
			p.ID = value
		default:
			return key.OwnerKey{}, &usageError{fmt.Sprintf("%q: pkcs11: has module, token, pin, label and id", name)}
		}
	}
	return key.OwnerKey{PKCS11: p}, nil
}

// ownerSigner opens a key of the owner; flag names where it was given.
func ownerSigner(ctx context.Context, flag, text, passphrase string) (crypto.Signer, error) {
	if text == "" {
		return nil, &usageError{flag + " is missing: file:PATH, env:NAME, or pkcs11:module=PATH;token=LABEL;pin=file:PATH;id=HEX"}
	}
	k, err := ownerFlag(text, passphrase)
	if err != nil {
		return nil, err
	}
	s, err := key.OpenOwner(ctx, k, key.Options{PKCS11: modules()})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return s, nil
}

// bare is a signer with its key as metadata names it.
func bare(s crypto.Signer) (dct.Signer, error) {
	k, err := dct.KeyFor(signing.KeyInfo{ID: "owner", Public: s.Public()})
	return dct.Signer{Key: k, Private: s}, err
}

// rooted is a root key with a certificate by itself, which names the repository:
// what docker and the notary client want of a root.
func rooted(s crypto.Signer, gun signing.Repository, now time.Time) (dct.Signer, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return dct.Signer{}, fmt.Errorf("reading randomness: %w", err)
	}
	from := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: string(gun)}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(rootLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, from, from, s.Public(), s)
	if err != nil {
		return dct.Signer{}, fmt.Errorf("making the certificate of the root key: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return dct.Signer{}, fmt.Errorf("making the certificate of the root key: %w", err)
	}
	k, err := dct.KeyFor(signing.KeyInfo{ID: "root", Public: s.Public(), Chain: []*x509.Certificate{c}})
	return dct.Signer{Key: k, Private: s}, err
}

// rows returns the configured rows; with root, it is what the repository is pinned to.
func rows(c *loaded, gun signing.Repository, root string) []dct.Config {
	out := slices.Clone(c.Notaries)
	for i := range out {
		if root != "" {
			pins := slices.DeleteFunc(slices.Clone(out[i].Pins), func(p dct.Pin) bool { return p.Repository == string(gun) })
			out[i].Pins = append(pins, dct.Pin{Repository: string(gun), RootKeys: []string{root}})
		}
	}
	return out
}

// cmdDCTInit makes a repository on a notary server: a root by a key of the owner,
// empty targets by another, snapshot and timestamp in the hands of the server. It
// keeps neither key.
func cmdDCTInit(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("dct init", errs)
	path := configFlag(f)
	root, rootPass := f.String("root-key", "", "where the root `key` is: file:PATH, env:NAME, or pkcs11:module=PATH;token=LABEL;pin=file:PATH;id=HEX"), f.String("root-passphrase", "", "secret `reference`, if the file is encrypted")
	targets, targetsPass := f.String("targets-key", "", "the same for the targets `key`"), f.String("targets-passphrase", "", "secret `reference`, if the file is encrypted")
	gun, err := oneGUN(f, args)
	if err != nil {
		return err
	}
	c, err := load(*path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dctTimeout)
	defer cancel()
	now := time.Now()
	rootKey, err := ownerSigner(ctx, "--root-key", *root, *rootPass)
	if err != nil {
		return err
	}
	targetsKey, err := ownerSigner(ctx, "--targets-key", *targets, *targetsPass)
	if err != nil {
		return err
	}
	rs, err := rooted(rootKey, gun, now)
	if err != nil {
		return err
	}
	ts, err := bare(targetsKey)
	if err != nil {
		return err
	}
	if rs.Key.Bare() == ts.Key.Bare() {
		return &usageError{"--targets-key is the root key: whoever needs the one every week must not hold the other"}
	}
	client, err := dct.Open(rows(c, gun, rs.Key.ID), dct.Options{})
	if err != nil {
		return err
	}
	if _, err := client.Fetch(ctx, gun); !errors.Is(err, signing.NotFound) {
		if err == nil {
			err = errors.New("with this root key")
		}
		return fmt.Errorf("%s is there already, and stays as it is: %w", gun, err)
	}
	if err := initialise(ctx, client, gun, rs, ts, now); err != nil {
		return err
	}
	if _, err := client.Fetch(ctx, gun); err != nil {
		return fmt.Errorf("reading back what was published: %w", err)
	}
	_, err = fmt.Fprintf(out, "%s is initialised. Pin its root in the configuration, below the server's row of notaries:\n\n    pins:\n      - {repository: %s, root_keys: [%s]}\n\nLock root and targets key away; then `sealwrightd dct delegate`.\n", gun, gun, rs.Key.ID)
	return err
}

func initialise(ctx context.Context, c *dct.Client, gun signing.Repository, root, targets dct.Signer, now time.Time) error {
	snapshot, err := c.ServerKey(ctx, gun, "snapshot")
	if err != nil {
		return err
	}
	timestamp, err := c.ServerKey(ctx, gun, "timestamp")
	if err != nil {
		return err
	}
	ru, err := dct.NewRoot(1, now.Add(rootLife), []dct.Key{root.Key}, []dct.Key{targets.Key}, []dct.Key{snapshot}, []dct.Key{timestamp}).Seal(root)
	if err != nil {
		return err
	}
	tu, err := dct.NewTargets(dct.RoleTargets, now.Add(rolesLife)).Seal(targets)
	if err != nil {
		return err
	}
	return c.Publish(ctx, gun, ru, tu)
}

// oneGUN parses args, of which one is left: the repository.
func oneGUN(f *flag.FlagSet, args []string) (signing.Repository, error) {
	if err := parse(f, args, 1); err != nil {
		return "", err
	}
	gun := signing.Repository(f.Arg(0))
	if err := gun.Validate(); err != nil {
		return "", &usageError{"the argument is a repository with its registry, as in registry.acme.dev/payments/web: " + err.Error()}
	}
	return gun, nil
}

// cmdDCTDelegate lets a key of the service sign roles of a repository. With the
// targets key it does so; without, it prints what the owner needs.
func cmdDCTDelegate(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("dct delegate", errs)
	path := configFlag(f)
	id, roles := f.String("key", "", "`id` of the key of the service"), f.String("roles", "releases", "names of delegations below targets/, with commas")
	targets, targetsPass := f.String("targets-key", "", "the owner's targets `key`, as in dct init; without it, what the owner needs is printed"), f.String("targets-passphrase", "", "secret `reference`, if the file is encrypted")
	gun, err := oneGUN(f, args)
	if err != nil {
		return err
	}
	c, _, info, err := openKey(ctx, *path, *id)
	if err != nil {
		return err
	}
	options := map[string]string{"roles": *roles}
	parts, err := dct.New(nil).Parts(options)
	if err != nil {
		return &usageError{"--roles: " + err.Error()}
	}
	k, err := dct.KeyFor(info)
	if err != nil {
		return err
	}
	if *targets == "" {
		_, err := fmt.Fprintf(out, "%s\nSave this as %s.pem, and run, with the targets key:\n\n", k.PEM(), *id)
		for _, p := range parts {
			if err == nil {
				_, err = fmt.Fprintf(out, "notary -s NOTARY_URL delegation add -p %s %s %s.pem --all-paths\n", gun, p, *id)
			}
		}
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dctTimeout)
	defer cancel()
	s, err := ownerSigner(ctx, "--targets-key", *targets, *targetsPass)
	if err != nil {
		return err
	}
	ts, err := bare(s)
	if err != nil {
		return err
	}
	client, err := dct.Open(c.Notaries, dct.Options{Memory: dct.NewMemory()})
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := delegate(ctx, client, gun, p, k, ts); err != nil {
			return fmt.Errorf("delegating %s: %w", p, err)
		}
		if _, err := fmt.Fprintf(out, "key %s (%s) may sign %s of %s\n", *id, k.ID, p, gun); err != nil {
			return err
		}
	}
	return nil
}

// delegate publishes targets in which the key may sign the role, beside those that
// may already.
func delegate(ctx context.Context, c *dct.Client, gun signing.Repository, role string, k dct.Key, targets dct.Signer) error {
	s, err := c.Fetch(ctx, gun)
	if err != nil {
		return err
	}
	top, _ := s.Role(dct.RoleTargets)
	i := slices.IndexFunc(top.Keys, func(have dct.Key) bool { return have.Bare() == targets.Key.Bare() })
	if i < 0 {
		return &signing.Error{Code: signing.Denied, Message: "this is not the targets key of " + string(gun), Expected: "one of " + strings.Join(ids(top.Keys), ", "), Found: targets.Key.ID, Fix: "give the key with which the repository was initialised"}
	}
	targets.Key = top.Keys[i]
	keys := []dct.Key{k}
	if r, ok := s.Role(role); ok {
		for _, have := range r.Keys {
			if have.Bare() != k.Bare() {
				keys = append(keys, have)
			}
		}
	}
	d, err := s.Delegate(role, keys, []string{""}, time.Now().Add(rolesLife))
	if err != nil {
		return err
	}
	u, err := d.Seal(targets)
	if err != nil {
		return err
	}
	if err := c.Publish(ctx, gun, u); err != nil {
		return err
	}
	after, err := c.Fetch(ctx, gun)
	if err != nil {
		return fmt.Errorf("reading back what was published: %w", err)
	}
	if r, ok := after.Role(role); !ok || !slices.ContainsFunc(r.Keys, func(have dct.Key) bool { return have.Bare() == k.Bare() }) {
		return errors.New("what was published does not delegate to the key")
	}
	return nil
}

func ids(keys []dct.Key) []string {
	out := make([]string, 0, len(keys))
	for _, k := range keys {
		out = append(out, k.ID)
	}
	return out
}
