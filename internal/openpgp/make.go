package openpgp

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/sealwright/sealwright/internal/signing"
)

// Blank is a certificate that its key has not signed yet.
type Blank struct {
	cert   *Certificate
	userID string
	life   time.Duration
	now    time.Time
}

// NewBlank returns a certificate to be signed for a key: made is when the key
// counts as made, which is in its fingerprint; now is when it is certified; life is
// how long it is valid from made on, zero for ever.
func NewBlank(public crypto.PublicKey, userID string, made, now time.Time, life time.Duration) (*Blank, error) {
	if err := CheckUserID(userID); err != nil {
		return nil, err
	}
	made, now = made.UTC().Truncate(time.Second), now.UTC().Truncate(time.Second)
	if now.Before(made) {
		return nil, &signing.Error{Code: signing.Invalid, Message: "an OpenPGP key that is certified before it is made", Expected: made.Format(time.RFC3339) + " or later", Found: now.Format(time.RFC3339)}
	}
	if life < 0 || life/time.Second > 1<<32-1 {
		return nil, &signing.Error{Code: signing.Invalid, Message: "not a time that an OpenPGP key can be valid", Expected: "up to 136 years, or 0 for ever", Found: life.String()}
	}
	key, err := publicKey(public, made)
	if err != nil {
		return nil, err
	}
	return &Blank{cert: &Certificate{Public: public, Created: made, key: key}, userID: userID, life: life, now: now}, nil
}

// selfSignature is what the key says of itself: that it may certify and sign.
func (b *Blank) selfSignature() *packet.Signature {
	primary := true
	sig := &packet.Signature{
		SigType: packet.SigTypePositiveCert, CreationTime: b.now, IsPrimaryId: &primary,
		FlagsValid: true, FlagCertify: true, FlagSign: true, PreferredHash: []byte{8, 9, 10},
	}
	if life := uint32(b.life / time.Second); life > 0 {
		sig.KeyLifetimeSecs = &life
	}
	return sig
}

// content writes what a certification is about (RFC 9580, section 5.2.4).
func (b *Blank) content(w io.Writer) error {
	if err := b.cert.key.SerializeForHash(w); err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint32([]byte{0xb4}, uint32(len(b.userID)))
	_, err := w.Write(append(head, b.userID...))
	return err
}

// Draft returns what the key is to sign.
func (b *Blank) Draft() (Draft, error) { return b.cert.sign(b.selfSignature(), b.content, nil) }

// Certificate makes the certificate from the raw signature of the key.
func (b *Blank) Certificate(raw []byte) (*Certificate, error) {
	sig := b.selfSignature()
	d, err := b.cert.sign(sig, b.content, raw)
	if err != nil {
		return nil, err
	}
	if err := b.cert.verifyRaw(d, raw); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, write := range []func(io.Writer) error{
		b.cert.key.Serialize,
		(&packet.UserId{Id: b.userID}).Serialize,
		sig.Serialize,
	} {
		if err := write(&out); err != nil {
			return nil, fmt.Errorf("making an OpenPGP certificate: %w", err)
		}
	}
	return parse(out.Bytes())
}
