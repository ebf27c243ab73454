package simple

import (
	"context"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// Store keeps the signatures that the service serves itself, by
// "HOST/REPOSITORY@sha256=<hex>".
type Store interface {
	// Put adds a signature at the next number and returns it; equal bytes have the
	// number that they have.
	Put(ctx context.Context, path string, digest signing.Digest, signature []byte) (n int, err error)
	// List returns the signatures in the order of their numbers.
	List(ctx context.Context, path string) ([][]byte, error)
}

// Own is the lookaside of the service itself. Its handler answers from the same
// rows that Read returns.
type Own struct {
	store Store
	base  string
}

// OwnPath is where the service serves its lookaside, below its URL.
const OwnPath = "/lookaside/"

// NewOwn returns the lookaside of the service that is reached at url. Without a
// store it has a Base and nothing else.
func NewOwn(store Store, url string) *Own {
	if store == nil {
		store = none{}
	}
	return &Own{store: store, base: strings.TrimSuffix(url, "/") + OwnPath}
}

// none is the store of a program that only looks at its configuration.
type none struct{}

func (none) unavailable() error {
	return &signing.Error{Code: signing.Unavailable, Message: "this program does not have the signatures of the service"}
}

func (n none) Put(context.Context, string, signing.Digest, []byte) (int, error) {
	return 0, n.unavailable()
}
func (n none) List(context.Context, string) ([][]byte, error) { return nil, n.unavailable() }

// Base implements Target.
func (o *Own) Base(host string) string { return o.base + host }

// Read implements Target.
func (o *Own) Read(ctx context.Context, a signing.Artifact) ([]Stored, error) {
	list, err := o.store.List(ctx, a.Repository.Host()+"/"+Path(a))
	if err != nil {
		return nil, err
	}
	out := make([]Stored, 0, len(list))
	for i, b := range list {
		out = append(out, Stored{Location: located(a, o.Base(a.Repository.Host()), i+1, b), Bytes: b})
	}
	return out, nil
}

// Add implements Target.
func (o *Own) Add(ctx context.Context, a signing.Artifact, signature []byte) (signing.Location, error) {
	n, err := o.store.Put(ctx, a.Repository.Host()+"/"+Path(a), signing.DigestOf(signature), signature)
	if err != nil {
		return signing.Location{}, err
	}
	return located(a, o.Base(a.Repository.Host()), n, signature), nil
}
