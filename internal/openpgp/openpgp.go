// Package openpgp is the fence around the OpenPGP library: certificates, secret
// key files, and signed messages (RFC 9580), of keys whose private half is
// somewhere else.
//
// What it guarantees: everything that comes in is bounded before it is parsed; a
// Certificate is one key of version 4 that may sign, with valid self-signatures;
// what is to be signed is returned as the exact bytes that a key hashes; and a
// message that Open accepts is one signature by the primary key over one content,
// with SHA-256 or stronger, and nothing beside it.
package openpgp

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/sealwright/sealwright/internal/signing"
)

// maxArmor bounds an armored certificate or secret key: four thirds of the binary
// form, with line breaks and header fields.
const maxArmor = 2 * signing.MaxOpenPGP

// Certificate is a checked OpenPGP certificate.
type Certificate struct {
	// Raw is the binary form, a transferable public key.
	Raw []byte
	// Public is the primary key, Created when it was made, in seconds.
	Public  crypto.PublicKey
	Created time.Time
	// Expires is when the primary key expires; zero if it does not.
	Expires time.Time
	// Revoked says that the primary key is.
	Revoked bool
	UserID  string

	key *packet.PublicKey
}

// Fingerprint returns the fingerprint of the primary key in upper-case
// hexadecimal, as gpg and skopeo show and take it.
func (c *Certificate) Fingerprint() string { return fmt.Sprintf("%X", c.key.Fingerprint) }

// Valid refuses a certificate that is revoked, or not valid at now.
func (c *Certificate) Valid(now time.Time) error {
	switch {
	case c.Revoked:
		return &signing.Error{Code: signing.Denied, Message: "the OpenPGP key is revoked", Expected: "a key that is not", Found: c.Fingerprint(), Fix: "make a new key"}
	case now.Before(c.Created):
		return &signing.Error{Code: signing.Denied, Message: "the OpenPGP key was made after now", Expected: c.Created.Format(time.RFC3339) + " or later", Found: now.UTC().Format(time.RFC3339), Fix: "set the clock of this machine"}
	case !c.Expires.IsZero() && !now.Before(c.Expires):
		return &signing.Error{Code: signing.Denied, Message: "the OpenPGP key has expired", Expected: "a time before " + c.Expires.Format(time.RFC3339), Found: now.UTC().Format(time.RFC3339), Fix: "make a new certificate for the key with a later end and restart the service"}
	}
	return nil
}

func bad(message string, err error) error {
	return &signing.Error{Code: signing.Invalid, Message: message, Expected: "one OpenPGP certificate of a key of version 4 that may sign, RSA or ECDSA P-256, P-384 or P-521", Fix: "export it anew: gpg --armor --export FINGERPRINT, or sealwrightd keys openpgp", Err: err}
}

// ParseCertificate reads a certificate, armored or binary. It refuses anything
// beside it, and a private key.
func ParseCertificate(raw []byte) (*Certificate, error) {
	raw, err := unarmored(raw, openpgp.PublicKeyType)
	if err != nil {
		return nil, bad("not an OpenPGP certificate", err)
	}
	return parse(raw)
}

// unarmored takes the armor off, where there is some.
func unarmored(raw []byte, kind string) ([]byte, error) {
	if len(raw) > maxArmor {
		return nil, fmt.Errorf("%d bytes", len(raw))
	}
	text := bytes.TrimSpace(raw)
	if bytes.HasPrefix(text, []byte("-----")) {
		// The decoder skips what is before and after.
		if !bytes.HasPrefix(text, []byte("-----BEGIN "+kind+"-----")) || !bytes.HasSuffix(text, []byte("-----END "+kind+"-----")) || bytes.Count(text, []byte("-----BEGIN ")) != 1 {
			return nil, errors.New("not one block " + kind)
		}
		block, err := armor.Decode(bytes.NewReader(text))
		if err != nil {
			return nil, errors.New("damaged armor")
		}
		if raw, err = io.ReadAll(io.LimitReader(block.Body, signing.MaxOpenPGP+1)); err != nil {
			return nil, errors.New("damaged armor")
		}
	}
	if len(raw) > signing.MaxOpenPGP {
		return nil, fmt.Errorf("%d bytes", len(raw))
	}
	return raw, nil
}

func parse(raw []byte) (*Certificate, error) {
	rest := bytes.NewReader(raw)
	packets := packet.NewReader(rest)
	e, err := openpgp.ReadEntity(packets)
	if err != nil {
		return nil, bad("not an OpenPGP certificate", err)
	}
	if _, err := packets.Next(); !errors.Is(err, io.EOF) {
		return nil, bad("more than one OpenPGP certificate", nil)
	}
	if e.PrivateKey != nil {
		return nil, bad("a private key in place of its certificate", nil)
	}
	return fromEntity(raw, e)
}

func fromEntity(raw []byte, e *openpgp.Entity) (*Certificate, error) {
	if e.PrimaryKey.Version != 4 {
		return nil, bad(fmt.Sprintf("an OpenPGP key of version %d, which gpg does not know", e.PrimaryKey.Version), nil)
	}
	public, created, err := signing.OpenPGPKey(raw)
	if err != nil {
		return nil, bad("an OpenPGP key of a type that this service does not sign with", err)
	}
	// Our reading of the first packet is the library's, or it is none.
	if again, err := publicKey(public, created); err != nil || !bytes.Equal(again.Fingerprint, e.PrimaryKey.Fingerprint) {
		return nil, bad("an OpenPGP key in an unusual form", err)
	}
	id := e.PrimaryIdentity()
	if id == nil || id.SelfSignature == nil {
		return nil, bad("an OpenPGP certificate without a self-signature", nil)
	}
	self := id.SelfSignature
	if self.FlagsValid && !self.FlagSign {
		return nil, bad("the primary key of the OpenPGP certificate may not sign", nil)
	}
	c := &Certificate{Raw: raw, Public: public, Created: created, Revoked: len(e.Revocations) > 0 || len(id.Revocations) > 0, UserID: id.Name, key: e.PrimaryKey}
	if self.KeyLifetimeSecs != nil && *self.KeyLifetimeSecs != 0 {
		c.Expires = created.Add(time.Duration(*self.KeyLifetimeSecs) * time.Second)
	}
	return c, nil
}

// publicKey returns the library's form of a public key.
func publicKey(public crypto.PublicKey, made time.Time) (*packet.PublicKey, error) {
	raw, err := signing.OpenPGPKeyPacket(public, made)
	if err != nil {
		return nil, err
	}
	p, err := packet.Read(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("encoding a public key: %w", err)
	}
	k, ok := p.(*packet.PublicKey)
	if !ok {
		return nil, fmt.Errorf("encoding a public key: it became a %T", p)
	}
	return k, nil
}

// Of returns the certificate of a key, which must be for it.
func Of(k signing.KeyInfo) (*Certificate, error) {
	if len(k.OpenPGP) == 0 {
		return nil, &signing.Error{Code: signing.Invalid, Message: "key " + k.ID + " has no OpenPGP certificate", Expected: "an armored OpenPGP secret key, or openpgp: {certificate: ...} beside the key", Found: "neither", Fix: "make one with sealwrightd keys openpgp --key " + k.ID}
	}
	c, err := parse(k.OpenPGP)
	if err != nil {
		return nil, err
	}
	return c, c.For(k.Public)
}

// For refuses a certificate that is not for the public key.
func (c *Certificate) For(public crypto.PublicKey) error {
	if same, ok := public.(interface{ Equal(crypto.PublicKey) bool }); ok && same.Equal(c.Public) {
		return nil
	}
	return &signing.Error{Code: signing.Denied, Message: "the key and its OpenPGP certificate do not belong together", Expected: "a certificate for this key", Found: "one for another key, fingerprint " + c.Fingerprint(), Fix: "name the certificate of this key, or make one with sealwrightd keys openpgp"}
}

// CheckUserID refuses a user id that would not be one line of text.
func CheckUserID(id string) error {
	if id == "" || len(id) > maxUserID || strings.ToValidUTF8(id, "") != id || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return &signing.Error{Code: signing.Invalid, Message: "not an OpenPGP user id", Expected: fmt.Sprintf("one line of at most %d bytes, as in Acme release <release@acme.dev>", maxUserID), Found: fmt.Sprintf("%.80q", id)}
	}
	return nil
}

// maxUserID bounds a user id: a name and an address.
const maxUserID = 256
