package key

import (
	"crypto"

	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/signing"
)

// readSigner decodes the file of a private key. An OpenPGP secret key brings its
// certificate.
func readSigner(raw, passphrase []byte, hasPassphrase bool) (crypto.Signer, *openpgp.Certificate, error) {
	if !openpgp.IsSecretKey(raw) {
		signer, err := parsePrivate(raw, passphrase, hasPassphrase)
		return signer, nil, err
	}
	signer, cert, err := openpgp.ReadSecretKey(raw, passphrase, hasPassphrase)
	if err != nil {
		return nil, nil, err
	}
	return signer, cert, checkStrength(signer.Public())
}

// certifyOpenPGP gives a key its OpenPGP certificate: the configured one, or else
// own, which came with the key and may be nil. One that is for another key, for
// another time at which the key was made, or revoked stops the start.
func (r *Ring) certifyOpenPGP(k *Key, own *openpgp.Certificate) error {
	cert := own
	if ref := k.config.OpenPGP.Certificate; ref != "" {
		raw, err := ref.Read(r.o.Env)
		if err != nil {
			return unreadable(err)
		}
		if cert, err = openpgp.ParseCertificate(raw); err != nil {
			return err
		}
		if own != nil && own.Fingerprint() != cert.Fingerprint() {
			return &signing.Error{Code: signing.Denied, Message: "the OpenPGP secret key and the configured certificate do not belong together", Expected: "fingerprint " + own.Fingerprint(), Found: "fingerprint " + cert.Fingerprint(), Fix: "name the certificate of this key, or take openpgp: away"}
		}
	}
	if cert == nil {
		return nil
	}
	if err := cert.For(k.Public); err != nil {
		return err
	}
	if cert.Revoked {
		return cert.Valid(r.o.Now())
	}
	k.OpenPGP, k.pgp = cert.Raw, cert
	return nil
}
