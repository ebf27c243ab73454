package store

import (
	"context"
	"fmt"
	"strconv"

	"github.com/sealwright/sealwright/internal/signing"
)

// MaxRole bounds the name of a role of Docker Content Trust metadata: "targets/"
// and the name of a signer.
const MaxRole = 255

// Trust remembers the highest version of Docker Content Trust metadata that was
// seen, for each repository (GUN) and role, so that an older one, or another one of
// the same version, is known for what it is. Whoever may write rows can make it
// forget, and no more: rows are sealed.
type Trust struct{ store *Store }

// Trust returns what the store remembers of metadata.
func (s *Store) Trust() Trust { return Trust{s} }

func trustFields(gun, role string, version int64, digest signing.Digest) []string {
	return []string{gun, role, strconv.FormatInt(version, 10), string(digest)}
}

// Seen returns the highest version of a role that was seen, and the digest of it;
// 0 for one that never was.
func (t Trust) Seen(ctx context.Context, gun, role string) (version int64, digest signing.Digest, err error) {
	err = t.store.View(ctx, func(tx *Tx) error {
		version, digest, err = tx.seen(gun, role)
		return err
	})
	return version, digest, err
}

func (tx *Tx) seen(gun, role string) (version int64, digest signing.Digest, err error) {
	var text string
	var sum seal
	found, err := tx.row([]any{&version, &text, &sum.key, &sum.mac}, "SELECT version, digest, mac_key, mac FROM trust_versions WHERE gun = ? AND role = ?", gun, role)
	if err != nil || !found {
		return 0, "", err
	}
	digest = signing.Digest(text)
	if err := tx.seal.verify("the highest version of "+role+" of "+gun, sum, trustDomain, trustFields(gun, role, version, digest)...); err != nil {
		return 0, "", err
	}
	return version, digest, nil
}

// See remembers that a version was seen and verified. The same again changes
// nothing. Denied says that a higher one was seen before (a rollback), or another
// content of the same one (a fork): nothing ever makes the remembered one lower.
func (t Trust) See(ctx context.Context, gun, role string, version int64, digest signing.Digest) error {
	if err := validTrust(gun, role, version, digest); err != nil {
		return err
	}
	// What is there already costs no write.
	if have, of, err := t.Seen(ctx, gun, role); err != nil || have == version && of == digest {
		return err
	}
	return t.store.Update(ctx, "trust version", func(tx *Tx) error {
		have, of, err := tx.seen(gun, role)
		switch {
		case err != nil:
			return err
		case version < have:
			return &signing.Error{Code: signing.Denied, Message: "older trust metadata than was seen before", Expected: fmt.Sprintf("version %d or higher of %s of %s", have, role, gun), Found: fmt.Sprintf("version %d", version), Fix: "find out why the notary server rolled back; if its database was restored, publish newer metadata"}
		case version == have && digest != of:
			return &signing.Error{Code: signing.Denied, Message: "other trust metadata than was seen before under the same version", Expected: fmt.Sprintf("version %d of %s of %s to be %s", have, role, gun, of), Found: string(digest), Fix: "find out who serves two contents of one version; publish newer metadata"}
		}
		sum := tx.seal.seal(trustDomain, trustFields(gun, role, version, digest)...)
		_, err = tx.exec("INSERT INTO trust_versions (gun, role, version, digest, mac_key, mac) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version, digest = excluded.digest, mac_key = excluded.mac_key, mac = excluded.mac",
			gun, role, version, string(digest), sum.key, sum.mac)
		return err
	})
}

func validTrust(gun, role string, version int64, digest signing.Digest) error {
	if err := signing.Repository(gun).Validate(); err != nil {
		return err
	}
	if role == "" || len(role) > MaxRole || version < 1 {
		return &signing.Error{Code: signing.Invalid, Message: "not a version of a role", Expected: fmt.Sprintf("a name of 1 to %d bytes and a version of 1 or more", MaxRole), Found: fmt.Sprintf("%.80q, version %d", role, version)}
	}
	return digest.Validate()
}
