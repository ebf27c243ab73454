package key

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/youmark/pkcs8"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/key/keytest"
	"github.com/sealwright/sealwright/internal/signing"
)

// cosignKey is a key file as `cosign generate-key-pair` writes it.
func cosignKey(t *testing.T, passphrase string) []byte {
	t.Helper()
	k, err := cosign.GenerateKeyPair(func(bool) ([]byte, error) { return []byte(passphrase), nil })
	if err != nil {
		t.Fatal(err)
	}
	return k.PrivateBytes
}

func TestEveryKeyFormatOpensAndSigns(t *testing.T) {
	ec, r := keytest.P256(t), rsa2048()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	p256 := encode("EC PRIVATE KEY", sec1, err)
	encrypted, err := pkcs8.MarshalPrivateKey(ec, []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	curve := func(c elliptic.Curve) []byte {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return keytest.PEM(t, k)
	}
	for _, c := range []struct {
		name, passphrase string
		pem              []byte
		in               signing.Intent
	}{
		{"PKCS#8 P-256", "", keytest.PEM(t, ec), signing.Intent{Hash: crypto.SHA256}},
		{"PKCS#8 P-384", "", curve(elliptic.P384()), signing.Intent{Hash: crypto.SHA384}},
		{"PKCS#8 P-521", "", curve(elliptic.P521()), signing.Intent{Hash: crypto.SHA512}},
		{"PKCS#8 RSA, PSS", "", keytest.PEM(t, r), signing.Intent{Hash: crypto.SHA256, Padding: signing.PSS}},
		{"PKCS#8 Ed25519", "", keytest.PEM(t, ed), signing.Intent{}},
		{"SEC 1", "", p256, signing.Intent{Hash: crypto.SHA256}},
		{"SEC 1 after its parameters", "", append(encode("EC PARAMETERS", []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}, nil), p256...), signing.Intent{Hash: crypto.SHA256}},
		{"PKCS#1", "", encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r), nil), signing.Intent{Hash: crypto.SHA256, Padding: signing.PKCS1v15}},
		{"encrypted PKCS#8", "secret", encode("ENCRYPTED PRIVATE KEY", encrypted, nil), signing.Intent{Hash: crypto.SHA256}},
		{"cosign key file", "secret", cosignKey(t, "secret"), signing.Intent{Hash: crypto.SHA256}},
		{"cosign key file without a password", "", cosignKey(t, ""), signing.Intent{Hash: crypto.SHA256}},
		{"cosign key file, old header", "secret", bytes.ReplaceAll(cosignKey(t, "secret"), []byte("SIGSTORE"), []byte("COSIGN")), signing.Intent{Hash: crypto.SHA256}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := conf("k", keytest.File(t, c.pem))
			if c.passphrase != "" {
				k.Passphrase = config.Secret(keytest.File(t, []byte(c.passphrase+"\n")))
			}
			ring := open(t, Options{}, k)
			c.in.Bytes = []byte("what is signed")
			raw, err := ring.Sign(t.Context(), "k", c.in)
			if err != nil {
				t.Fatal(err)
			}
			info, ok := ring.Info("k")
			if !ok {
				t.Fatal("no info")
			}
			if err := verify(info.Public, c.in, raw); err != nil {
				t.Error(err)
			}
			if verify(info.Public, signing.Intent{Bytes: []byte("something else"), Hash: c.in.Hash, Padding: c.in.Padding}, raw) == nil {
				t.Error("the signature verifies other bytes")
			}
		})
	}
}

func TestUnusableKeysStopTheStartAndSayWhy(t *testing.T) {
	ec := keytest.P256(t)
	plain := keytest.PEM(t, ec)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	old := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1, Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"}})
	encrypted, err := pkcs8.MarshalPrivateKey(ec, []byte("secret"), nil)
	if err != nil {
		t.Fatal(err)
	}
	locked := encode("ENCRYPTED PRIVATE KEY", encrypted, nil)
	// A ciphertext that is no whole number of blocks makes the library panic.
	var info struct {
		Algorithm asn1.RawValue
		Data      []byte
	}
	if _, err := asn1.Unmarshal(encrypted, &info); err != nil {
		t.Fatal(err)
	}
	info.Data = info.Data[:len(info.Data)-1]
	cut, err := asn1.Marshal(info)
	shortened := encode("ENCRYPTED PRIVATE KEY", cut, err)
	for _, c := range []struct {
		name, passphrase, want string
		pem                    []byte
	}{
		{"nothing", "", "not a private key in PEM", []byte("hello")},
		{"a public key", "", "something else as well", []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")},
		{"two keys", "", "more than one private key", append(bytes.Clone(plain), plain...)},
		{"text after the key", "", "not a private key in PEM", append(bytes.Clone(plain), "more"...)},
		{"damaged", "", "cannot be decoded", encode("PRIVATE KEY", []byte("damaged"), nil)},
		{"damaged and encrypted", "secret", "cannot be decrypted", encode("ENCRYPTED SIGSTORE PRIVATE KEY", []byte("{}"), nil)},
		{"old encryption", "secret", "old way of OpenSSL", old},
		{"no passphrase", "", "no passphrase is configured", locked},
		{"shortened", "secret", "cannot be decrypted", shortened},
		{"wrong passphrase", "Secret", "cannot be decrypted", locked},
		{"wrong passphrase of cosign's", "Secret", "cannot be decrypted", cosignKey(t, "secret")},
		{"passphrase of a plain key", "secret", "not encrypted", plain},
		{"RSA 1024", "", "too weak", keytest.PEM(t, weak)},
		{"P-224", "", "too weak", keytest.PEM(t, p224)},
		{"OpenSSH", "", "cannot be decoded", encode("OPENSSH PRIVATE KEY", []byte("openssh-key-v1"), nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := conf("k", keytest.File(t, c.pem))
			if c.passphrase != "" {
				k.Passphrase = config.Secret(keytest.File(t, []byte(c.passphrase)))
			}
			_, err := Open(t.Context(), []Config{k}, Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "k: ") {
				t.Errorf("got %v, want %q of key k", err, c.want)
			}
		})
	}
}

func TestKeyFileReadableByOthersIsRefused(t *testing.T) {
	ref := keytest.File(t, keytest.PEM(t, keytest.P256(t)))
	path := strings.TrimPrefix(ref, "file:")
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), []Config{conf("k", ref)}, Options{})
		if !errors.Is(err, signing.Denied) || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	open(t, Options{}, conf("k", ref))
	// A link does not hide the permissions of what it names.
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.pem")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), []Config{conf("k", "file:"+link)}, Options{}); !errors.Is(err, signing.Denied) {
		t.Errorf("through a link: %v", err)
	}
}

func TestPassphraseFileReadableByOthersIsRefused(t *testing.T) {
	k := conf("k", keytest.File(t, cosignKey(t, "secret")))
	pass := keytest.File(t, []byte("secret"))
	k.Passphrase = config.Secret(pass)
	if err := os.Chmod(strings.TrimPrefix(pass, "file:"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), []Config{k}, Options{}); !errors.Is(err, signing.Denied) {
		t.Errorf("got %v", err)
	}
}

// The files were made by OpenSSL 3.0: ecparam -genkey, and pkcs8 -topk8 -v2
// aes-256-cbc with the passphrase "secret".
func TestKeysOfTheOpensslToolOpen(t *testing.T) {
	read := func(name string) string {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return keytest.File(t, raw)
	}
	open(t, Options{}, conf("plain", read("openssl-ec.pem")))
	locked := conf("locked", read("openssl-ec-encrypted.pem"))
	locked.Passphrase = config.Secret(keytest.File(t, []byte("secret")))
	open(t, Options{}, locked)
}

func FuzzPrivateKeyFileIsParsedOrRefused(f *testing.F) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(keytest.PEM(f, k), []byte(""))
	f.Add([]byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"), []byte("x"))
	f.Add([]byte("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\ne30=\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"), []byte("x"))
	f.Fuzz(func(t *testing.T, raw, passphrase []byte) {
		s, err := parsePrivate(raw, passphrase, len(passphrase) > 0)
		if (s == nil) == (err == nil) {
			t.Fatalf("got %v, %v", s, err)
		}
		if err == nil && checkStrength(s.Public()) != nil {
			t.Fatal("a weak key was accepted")
		}
	})
}

func encode(typ string, der []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}
