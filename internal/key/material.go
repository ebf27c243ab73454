package key

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/signing"
)

// maxChain bounds a certificate chain; web and code signing chains have 2 to 4.
const maxChain = 10

// readPrivate reads a secret that only its owner may read: a file that others
// can read is no secret any more.
func readPrivate(s config.Secret, env func(string) (string, bool)) ([]byte, error) {
	if path, isFile := strings.CutPrefix(string(s), "file:"); isFile {
		info, err := os.Stat(path)
		if err != nil {
			return nil, unreadable(err)
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			return nil, &signing.Error{Code: signing.Denied, Message: path + " can be read by others than its owner", Expected: "mode 0600 or 0400", Found: fmt.Sprintf("mode %04o", mode), Fix: "chmod 600 " + path + "; make a new key if others may have read this one"}
		}
	}
	raw, err := s.Read(env)
	if err != nil {
		return nil, unreadable(err)
	}
	return raw, nil
}

func unreadable(err error) error {
	return &signing.Error{Code: signing.Invalid, Message: "a secret that the keys file refers to cannot be read", Found: err.Error(), Fix: "make the file or variable readable to the user that the service runs as, and to nobody else"}
}

// parsePrivate decodes the PEM of a private key. The messages of the libraries
// below stay out of its errors: they are made from bytes of the key.
func parsePrivate(raw, passphrase []byte, hasPassphrase bool) (crypto.Signer, error) {
	block, err := privateBlock(raw)
	if err != nil {
		return nil, err
	}
	encrypted := strings.HasPrefix(block.Type, "ENCRYPTED ")
	// An empty passphrase is what cosign calls "no password"; PKCS#8 has none.
	// It is never nil below: the library would take nil for "not encrypted".
	if block.Type == "ENCRYPTED PRIVATE KEY" && len(passphrase) == 0 {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the private key is encrypted and no passphrase is configured", Fix: "set passphrase: to file:/path or env:NAME"}
	}
	if !encrypted && hasPassphrase {
		return nil, &signing.Error{Code: signing.Invalid, Message: "a passphrase is configured, but the private key is not encrypted", Found: block.Type, Fix: "encrypt it (openssl pkcs8 -topk8 -v2 aes-256-cbc), or take passphrase: away"}
	}
	private, err := decode(block, passphrase)
	if err != nil {
		e := &signing.Error{Code: signing.Invalid, Message: "the private key cannot be decoded", Found: "damaged or unsupported " + block.Type, Fix: "write it anew as PKCS#8 (openssl pkcs8 -topk8)"}
		if encrypted {
			e.Message, e.Found, e.Fix = "the private key cannot be decrypted", "wrong passphrase, damaged file, or a cipher other than scrypt or PBES2", "check the passphrase, or write the key anew (openssl pkcs8 -topk8 -v2 aes-256-cbc)"
		}
		return nil, e
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the private key cannot sign", Expected: keyTypes, Found: fmt.Sprintf("%T", private)}
	}
	if err := checkStrength(signer.Public()); err != nil {
		return nil, err
	}
	return signer, nil
}

// decode hands a PEM block to the library, which panics at some damaged
// encrypted files: that is an error like any other damage.
func decode(block *pem.Block, passphrase []byte) (private crypto.PrivateKey, err error) {
	defer func() {
		if recover() != nil {
			private, err = nil, errDamaged
		}
	}()
	return cryptoutils.UnmarshalPEMToPrivateKey(pem.EncodeToMemory(block), func(bool) ([]byte, error) { return append([]byte{}, passphrase...), nil })
}

var errDamaged = errors.New("damaged")

// privateBlock finds the one private key of a PEM file.
func privateBlock(raw []byte) (*pem.Block, error) {
	var found *pem.Block
	rest := raw
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case block.Type == "EC PARAMETERS":
			// openssl ecparam -genkey puts the curve before the key.
		case !strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, &signing.Error{Code: signing.Invalid, Message: "the file of a private key holds something else as well", Expected: "one private key", Found: block.Type, Fix: "keep certificates in the file that certificates: names"}
		case found != nil:
			return nil, &signing.Error{Code: signing.Invalid, Message: "the file holds more than one private key", Expected: "one", Fix: "split the file, and give each key an entry of its own"}
		default:
			found = block
		}
	}
	if found == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the file is not a private key in PEM", Expected: "-----BEGIN ... PRIVATE KEY----- and nothing else"}
	}
	if found.Headers["Proc-Type"] != "" {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the private key is encrypted in the old way of OpenSSL, which MD5 protects", Expected: "encrypted PKCS#8 or cosign's key file", Found: found.Type + " with Proc-Type", Fix: "openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW"}
	}
	return found, nil
}

const keyTypes = "ECDSA P-256, P-384 or P-521, RSA 2048, 3072 or 4096, or Ed25519"

// checkStrength accepts the key types that the verifiers of the four methods
// know, and none that is weak.
func checkStrength(public crypto.PublicKey) error {
	found := fmt.Sprintf("%T", public)
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		if slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, p.Curve) {
			return nil
		}
		found = "ECDSA " + p.Curve.Params().Name
	case *rsa.PublicKey:
		// 65537 is what every generator of the last twenty years uses; smaller
		// exponents let sloppy verifiers accept forgeries.
		if slices.Contains([]int{2048, 3072, 4096}, p.N.BitLen()) && p.E >= 65537 {
			return nil
		}
		found = fmt.Sprintf("RSA %d with exponent %d", p.N.BitLen(), p.E)
	case ed25519.PublicKey:
		if len(p) == ed25519.PublicKeySize {
			return nil
		}
	}
	return &signing.Error{Code: signing.Invalid, Message: "the key is too weak or of a type that verifiers do not know", Expected: keyTypes, Found: found, Fix: "make an ECDSA P-256 key, which fits every method"}
}

// parseChain decodes a certificate chain and checks that its leaf certifies
// public and that each certificate is signed by the next. Whether the root is
// trusted is the verifier's question, when it is valid that of each use.
func parseChain(raw []byte, public crypto.PublicKey) ([]*x509.Certificate, error) {
	chain, err := cryptoutils.UnmarshalCertificatesFromPEM(raw)
	if err != nil || len(chain) == 0 {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the certificates cannot be decoded", Expected: "certificates in PEM, leaf first", Err: err}
	}
	if len(chain) > maxChain {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the certificate chain is too long", Expected: fmt.Sprintf("at most %d certificates", maxChain), Found: fmt.Sprint(len(chain))}
	}
	if err := cryptoutils.EqualKeys(chain[0].PublicKey, public); err != nil {
		return nil, &signing.Error{Code: signing.Denied, Message: "the key and its certificate do not belong together", Expected: "a leaf certificate, first in the file, for this key", Found: "one for another key, subject " + chain[0].Subject.String(), Fix: "put the certificate of this key first, or name the key of this certificate"}
	}
	for i, c := range chain[:len(chain)-1] {
		if err := c.CheckSignatureFrom(chain[i+1]); err != nil {
			return nil, &signing.Error{Code: signing.Invalid, Message: "the certificate chain is broken", Expected: "each certificate signed by the next, leaf first", Found: fmt.Sprintf("%s is not signed by %s", c.Subject, chain[i+1].Subject), Err: err}
		}
	}
	return chain, nil
}
