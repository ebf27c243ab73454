package signing

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// MaxOpenPGP bounds an OpenPGP certificate in binary form: one of a signing key
// has some hundred bytes, one with the signatures of many people some thousands.
const MaxOpenPGP = 32 << 10

const (
	armorBegin = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n"
	armorEnd   = "-----END PGP PUBLIC KEY BLOCK-----\n"
	armorWidth = 64
	// publicKeyTag is the type of a public-key packet (RFC 9580, section 5.5.1.1).
	publicKeyTag = 6
	// The public-key algorithms of RFC 9580, section 9.1, that keys of ours have.
	openPGPRSA   = 1
	openPGPECDSA = 19
)

// ArmorOpenPGP returns an OpenPGP certificate as text (RFC 9580, section 6).
func ArmorOpenPGP(certificate []byte) string {
	var out strings.Builder
	out.WriteString(armorBegin)
	text := base64.StdEncoding.EncodeToString(certificate)
	for len(text) > 0 {
		n := min(armorWidth, len(text))
		out.WriteString(text[:n] + "\n")
		text = text[n:]
	}
	sum := crc24(certificate)
	out.WriteString("=" + base64.StdEncoding.EncodeToString([]byte{byte(sum >> 16), byte(sum >> 8), byte(sum)}) + "\n" + armorEnd)
	return out.String()
}

// dearmorOpenPGP reads what ArmorOpenPGP wrote, and no other form of it.
func dearmorOpenPGP(text string) ([]byte, error) {
	if len(text) > 2*MaxOpenPGP {
		return nil, fmt.Errorf("%d bytes", len(text))
	}
	body, found := strings.CutPrefix(text, armorBegin)
	end := strings.LastIndex(body, "\n=")
	if !found || end < 0 {
		return nil, errors.New("not one armored OpenPGP certificate")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(body[:end], "\n", ""))
	if err != nil || ArmorOpenPGP(raw) != text {
		return nil, errors.New("not one armored OpenPGP certificate")
	}
	return raw, nil
}

// crc24 is the checksum of RFC 9580, section 6.1.
func crc24(b []byte) uint32 {
	sum := uint32(0xb704ce)
	for _, c := range b {
		sum ^= uint32(c) << 16
		for range 8 {
			if sum <<= 1; sum&0x1000000 != 0 {
				sum ^= 0x1864cfb
			}
		}
	}
	return sum & 0xffffff
}

// OpenPGPKey returns the primary key of an OpenPGP certificate and when it was
// made. It reads the first packet and nothing else: whether the certificate is
// valid, package openpgp says.
func OpenPGPKey(certificate []byte) (crypto.PublicKey, time.Time, error) {
	body, err := firstPacket(certificate, publicKeyTag)
	if err != nil {
		return nil, time.Time{}, err
	}
	if len(body) < 6 || body[0] != 4 {
		return nil, time.Time{}, errors.New("not a key of version 4")
	}
	made := time.Unix(int64(binary.BigEndian.Uint32(body[1:5])), 0).UTC()
	public, err := openPGPPublic(body[5], body[6:])
	return public, made, err
}

func openPGPPublic(algorithm byte, body []byte) (crypto.PublicKey, error) {
	damaged := errors.New("a damaged key")
	switch algorithm {
	case openPGPRSA:
		n, rest, ok := mpi(body)
		e, rest, ok2 := mpi(rest)
		if !ok || !ok2 || len(rest) > 0 || e.BitLen() > 31 {
			return nil, damaged
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
	case openPGPECDSA:
		for _, c := range openPGPCurves() {
			rest, ok := bytes.CutPrefix(body, append([]byte{byte(len(c.oid))}, c.oid...))
			if !ok {
				continue
			}
			point, rest, ok := mpi(rest)
			if !ok || len(rest) > 0 {
				return nil, damaged
			}
			public, err := ecdsa.ParseUncompressedPublicKey(c.curve, point.Bytes())
			if err != nil {
				return nil, damaged
			}
			return public, nil
		}
	}
	return nil, errors.New("not an RSA key, and not an ECDSA key of P-256, P-384 or P-521")
}

type openPGPCurve struct {
	curve elliptic.Curve
	oid   []byte
}

// openPGPCurves are those of RFC 9580, section 9.2, that this service signs with.
func openPGPCurves() []openPGPCurve {
	return []openPGPCurve{
		{elliptic.P256(), []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}},
		{elliptic.P384(), []byte{0x2b, 0x81, 0x04, 0x00, 0x22}},
		{elliptic.P521(), []byte{0x2b, 0x81, 0x04, 0x00, 0x23}},
	}
}

// OpenPGPKeyPacket returns the public-key packet of a key that was made at a time,
// in seconds: with the time it gives the fingerprint.
func OpenPGPKeyPacket(public crypto.PublicKey, made time.Time) ([]byte, error) {
	unix := made.Unix()
	if unix <= 0 || unix > 1<<32-1 {
		return nil, &Error{Code: Invalid, Message: "the time when an OpenPGP key was made", Expected: "seconds from 1970 to 2106", Found: made.UTC().Format(time.RFC3339)}
	}
	body := binary.BigEndian.AppendUint32([]byte{4}, uint32(unix))
	switch p := public.(type) {
	case *rsa.PublicKey:
		body = append(body, openPGPRSA)
		body = appendMPI(appendMPI(body, p.N), big.NewInt(int64(p.E)))
	case *ecdsa.PublicKey:
		for _, c := range openPGPCurves() {
			if c.curve != p.Curve {
				continue
			}
			point, err := p.Bytes()
			if err != nil {
				return nil, fmt.Errorf("encoding a public key: %w", err)
			}
			body = append(body, openPGPECDSA, byte(len(c.oid)))
			body = appendMPI(append(body, c.oid...), new(big.Int).SetBytes(point))
			return packet(publicKeyTag, body), nil
		}
		return nil, noOpenPGP(public)
	default:
		return nil, noOpenPGP(public)
	}
	return packet(publicKeyTag, body), nil
}

func noOpenPGP(public crypto.PublicKey) error {
	return &Error{Code: Invalid, Message: "the key cannot sign in OpenPGP here", Expected: "RSA, or ECDSA P-256, P-384 or P-521", Found: KeyInfo{Public: public}.Algorithm(), Fix: "make an ECDSA P-256 key, which fits every method"}
}

// packet frames a body in the new format (RFC 9580, section 4.2.1).
func packet(tag byte, body []byte) []byte {
	head := []byte{0xc0 | tag}
	switch n := len(body); {
	case n < 192:
		head = append(head, byte(n))
	case n < 8384:
		head = append(head, byte((n-192)>>8)+192, byte(n-192))
	default:
		head = binary.BigEndian.AppendUint32(append(head, 0xff), uint32(n))
	}
	return append(head, body...)
}

// firstPacket returns the body of the first packet, which must be of the type, in
// either format of its length (RFC 9580, section 4.2).
func firstPacket(raw []byte, tag byte) ([]byte, error) {
	damaged := errors.New("not an OpenPGP certificate")
	if len(raw) < 2 || raw[0]&0x80 == 0 {
		return nil, damaged
	}
	got, size := raw[0]&0x3f, 0
	rest := raw[1:]
	if raw[0]&0x40 == 0 {
		got = raw[0] >> 2 & 0xf
		n := 1 << (raw[0] & 3)
		if n > 4 || len(rest) < n {
			return nil, damaged
		}
		for _, b := range rest[:n] {
			size = size<<8 | int(b)
		}
		rest = rest[n:]
	} else {
		switch first := rest[0]; {
		case first < 192:
			size, rest = int(first), rest[1:]
		case first < 224 && len(rest) > 1:
			size, rest = (int(first)-192)<<8+int(rest[1])+192, rest[2:]
		case first == 0xff && len(rest) > 4:
			size, rest = int(binary.BigEndian.Uint32(rest[1:5])), rest[5:]
		default:
			return nil, damaged
		}
	}
	if got != tag || size > len(rest) {
		return nil, damaged
	}
	return rest[:size], nil
}

// mpi reads a multiprecision integer (RFC 9580, section 3.2).
func mpi(b []byte) (n *big.Int, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	size := (int(binary.BigEndian.Uint16(b)) + 7) / 8
	if len(b) < 2+size {
		return nil, nil, false
	}
	return new(big.Int).SetBytes(b[2 : 2+size]), b[2+size:], true
}

func appendMPI(b []byte, n *big.Int) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(n.BitLen())), n.Bytes()...)
}
