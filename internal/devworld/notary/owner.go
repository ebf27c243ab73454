package notary

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"

	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/signing"
)

// ownerLife is how long what an Owner signs is valid.
const ownerLife = 3 * 365 * 24 * time.Hour

// Owner is the owner of a repository, with its root and its targets key.
type Owner struct {
	Repository    signing.Repository
	Root, Targets dct.Signer
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// NewOwner makes the keys of a repository.
func NewOwner(gun signing.Repository) (*Owner, error) {
	root, err := NewSigner(string(gun))
	if err != nil {
		return nil, err
	}
	targets, err := NewSigner("")
	return &Owner{Repository: gun, Root: root, Targets: targets}, err
}

// NewSigner makes a P-256 key, with a self-signed certificate if cn is not empty.
func NewSigner(cn string) (dct.Signer, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return dct.Signer{}, err
	}
	info := signing.KeyInfo{ID: "owner", Public: k.Public()}
	if cn != "" {
		now := time.Now()
		from := &x509.Certificate{
			SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: cn},
			NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(10, 0, 0),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		}
		der, err := x509.CreateCertificate(rand.Reader, from, from, k.Public(), k)
		if err != nil {
			return dct.Signer{}, err
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return dct.Signer{}, err
		}
		info.Chain = []*x509.Certificate{c}
	}
	key, err := dct.KeyFor(info)
	return dct.Signer{Key: key, Private: k}, err
}

func (o *Owner) expires() time.Time {
	now := time.Now
	if o.Now != nil {
		now = o.Now
	}
	return now().Add(ownerLife)
}

// Init makes the repository, with snapshot and timestamp in the hands of the server.
func (o *Owner) Init(ctx context.Context, c *dct.Client) error {
	snapshot, err := c.ServerKey(ctx, o.Repository, "snapshot")
	if err != nil {
		return err
	}
	timestamp, err := c.ServerKey(ctx, o.Repository, "timestamp")
	if err != nil {
		return err
	}
	root, err := dct.NewRoot(1, o.expires(), []dct.Key{o.Root.Key}, []dct.Key{o.Targets.Key}, []dct.Key{snapshot}, []dct.Key{timestamp}).Seal(o.Root)
	if err != nil {
		return err
	}
	targets, err := dct.NewTargets(dct.RoleTargets, o.expires()).Seal(o.Targets)
	if err != nil {
		return err
	}
	return c.Publish(ctx, o.Repository, root, targets)
}

// Delegate lets a key of the service sign a role, for every tag.
func (o *Owner) Delegate(ctx context.Context, c *dct.Client, role string, k signing.KeyInfo) error {
	key, err := dct.KeyFor(k)
	if err != nil {
		return err
	}
	s, err := c.Fetch(ctx, o.Repository, role)
	if err != nil {
		return fmt.Errorf("reading %s: %w", o.Repository, err)
	}
	d, err := s.Delegate(role, []dct.Key{key}, []string{""}, o.expires())
	if err != nil {
		return err
	}
	u, err := d.Seal(o.Targets)
	if err != nil {
		return err
	}
	return c.Publish(ctx, o.Repository, u)
}

// Tag signs a tag with the targets key itself, as an owner without delegations does.
func (o *Owner) Tag(ctx context.Context, c *dct.Client, changes ...signing.Change) error {
	s, err := c.Fetch(ctx, o.Repository)
	if err != nil {
		return err
	}
	d, err := s.Change(dct.RoleTargets, changes, o.expires())
	if err != nil {
		return err
	}
	u, err := d.Seal(o.Targets)
	if err != nil {
		return err
	}
	return c.Publish(ctx, o.Repository, u)
}
