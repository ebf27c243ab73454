package openpgp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"

	"github.com/ProtonMail/go-crypto/openpgp"
	pgpecdsa "github.com/ProtonMail/go-crypto/openpgp/ecdsa"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/sealwright/sealwright/internal/signing"
)

// IsSecretKey reports whether a file begins as an armored OpenPGP secret key.
func IsSecretKey(raw []byte) bool {
	return bytes.HasPrefix(bytes.TrimSpace(raw), []byte("-----BEGIN "+openpgp.PrivateKeyType+"-----"))
}

// ReadSecretKey reads an armored OpenPGP secret key: its primary key, which signs,
// and its certificate, without subkeys. The passphrase is needed exactly if the key
// is encrypted. The messages of the library stay out of the errors: they are made
// from bytes of the key.
func ReadSecretKey(raw, passphrase []byte, hasPassphrase bool) (crypto.Signer, *Certificate, error) {
	damaged := func(found string) (crypto.Signer, *Certificate, error) {
		return nil, nil, &signing.Error{Code: signing.Invalid, Message: "the OpenPGP secret key cannot be used", Expected: "one armored secret key whose primary key signs", Found: found, Fix: "export it anew: gpg --armor --export-secret-keys FINGERPRINT"}
	}
	raw, err := unarmored(raw, openpgp.PrivateKeyType)
	if err != nil {
		return damaged("a damaged file, or something beside the key")
	}
	defer clear(raw)
	private, public, err := secretPackets(raw)
	if err != nil {
		return damaged("another sequence of packets")
	}
	switch {
	case private.Dummy():
		return damaged("a primary key that is kept elsewhere")
	case private.Encrypted && !hasPassphrase:
		return nil, nil, &signing.Error{Code: signing.Invalid, Message: "the OpenPGP secret key is encrypted and no passphrase is configured", Fix: "set passphrase: to file:/path or env:NAME"}
	case !private.Encrypted && hasPassphrase:
		return nil, nil, &signing.Error{Code: signing.Invalid, Message: "a passphrase is configured, but the OpenPGP secret key is not encrypted", Fix: "encrypt it (gpg --passwd), or take passphrase: away"}
	}
	if private.Encrypted {
		if err := private.Decrypt(passphrase); err != nil {
			return damaged("a wrong passphrase, or a damaged key")
		}
	}
	cert, err := parse(public)
	if err != nil {
		return nil, nil, err
	}
	signer, err := standard(private, cert.Public)
	if err != nil {
		return damaged("a private key that is not for its public half")
	}
	return signer, cert, nil
}

// secretPackets returns the primary secret key, and the certificate in the order
// of the file, without subkeys.
func secretPackets(raw []byte) (*packet.PrivateKey, []byte, error) {
	var private *packet.PrivateKey
	var public bytes.Buffer
	r := bytes.NewReader(raw)
	for {
		p, err := packet.Read(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		var write func(io.Writer) error
		switch p := p.(type) {
		case *packet.PrivateKey:
			if p.IsSubkey { // the rest is about subkeys
				if private == nil {
					return nil, nil, errors.New("a subkey first")
				}
				return private, public.Bytes(), nil
			}
			if private != nil {
				return nil, nil, errors.New("two keys")
			}
			private, write = p, p.PublicKey.Serialize
		case *packet.UserId:
			write = p.Serialize
		case *packet.Signature:
			write = p.Serialize
		default:
			return nil, nil, fmt.Errorf("a %T", p)
		}
		if private == nil {
			return nil, nil, errors.New("no key first")
		}
		if err := write(&public); err != nil {
			return nil, nil, err
		}
	}
	if private == nil {
		return nil, nil, errors.New("no key")
	}
	return private, public.Bytes(), nil
}

// standard returns the private key in the form of the standard library.
func standard(private *packet.PrivateKey, public crypto.PublicKey) (crypto.Signer, error) {
	var signer crypto.Signer
	switch k := private.PrivateKey.(type) {
	case *rsa.PrivateKey:
		if err := k.Validate(); err != nil {
			return nil, err
		}
		signer = k
	case *pgpecdsa.PrivateKey:
		p, ok := public.(*ecdsa.PublicKey)
		if !ok {
			return nil, errors.New("another type")
		}
		d := make([]byte, (p.Curve.Params().N.BitLen()+7)/8)
		if k.D.BitLen() > 8*len(d) {
			return nil, errors.New("a number that is too large")
		}
		parsed, err := ecdsa.ParseRawPrivateKey(p.Curve, k.D.FillBytes(d))
		clear(d)
		if err != nil {
			return nil, err
		}
		signer = parsed
	default:
		return nil, fmt.Errorf("a %T", private.PrivateKey)
	}
	if same, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !same.Equal(public) {
		return nil, errors.New("another public key")
	}
	return signer, nil
}
