package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/signing"
)

// day is how the life of certificates is counted.
const day = 24 * time.Hour

// cmdKeysOpenPGP makes the OpenPGP certificate of a key, which signs it once: by
// that, a key in any place can sign in OpenPGP. A key that has one keeps its
// fingerprint, so that a certificate can be given a later end.
func cmdKeysOpenPGP(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("keys openpgp", errs)
	path := configFlag(f)
	id := f.String("key", "", "`id` of the key")
	user := f.String("user-id", "", "`name` in the certificate, as in \"Acme release <release@acme.dev>\"")
	days := f.Int("days", 0, "how many days it is valid from now on; 0 is for ever")
	file := f.String("out", "", "`file` to write, which must not exist; without it the certificate is printed")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	if *days < 0 {
		return &usageError{"--days must not be negative"}
	}
	_, ring, info, err := openKey(ctx, *path, *id)
	if err != nil {
		return err
	}
	cert, err := certifyOpenPGP(ctx, ring, info, *user, time.Now(), time.Duration(*days)*day)
	if err != nil {
		return err
	}
	fmt.Fprintf(errs, "key %s has the fingerprint %s\n", *id, cert.Fingerprint())
	if *file != "" {
		return writeNew(*file, []byte(signing.ArmorOpenPGP(cert.Raw)), 0o644)
	}
	_, err = io.WriteString(out, signing.ArmorOpenPGP(cert.Raw))
	return err
}

func certifyOpenPGP(ctx context.Context, ring *key.Ring, info signing.KeyInfo, user string, now time.Time, life time.Duration) (*openpgp.Certificate, error) {
	made := now
	if len(info.OpenPGP) > 0 {
		old, err := openpgp.Of(info)
		if err != nil {
			return nil, err
		}
		made = old.Created
	}
	if life > 0 {
		life += now.Sub(made)
	}
	blank, err := openpgp.NewBlank(info.Public, user, made, now, life)
	if err != nil {
		return nil, err
	}
	d, err := blank.Draft()
	if err != nil {
		return nil, err
	}
	raw, err := ring.Sign(ctx, info.ID, signing.Intent{Bytes: d.Bytes, Hash: d.Hash, Padding: d.Padding})
	if err != nil {
		return nil, err
	}
	return blank.Certificate(raw)
}

// newOpenPGP makes PATH.key and its OpenPGP certificate PATH.asc, neither of which
// may be there.
func newOpenPGP(path, user string, now time.Time) error {
	secret, _, private, err := newECDSA()
	if err != nil {
		return err
	}
	if err := writeNew(path+".key", secret, 0o600); err != nil {
		return err
	}
	blank, err := openpgp.NewBlank(private.Public(), user, now, now, 0)
	if err != nil {
		return err
	}
	d, err := blank.Draft()
	if err != nil {
		return err
	}
	h := d.Hash.New()
	h.Write(d.Bytes)
	raw, err := private.Sign(rand.Reader, h.Sum(nil), d.Hash)
	if err != nil {
		return err
	}
	cert, err := blank.Certificate(raw)
	if err != nil {
		return err
	}
	return writeNew(path+".asc", []byte(signing.ArmorOpenPGP(cert.Raw)), 0o644)
}
