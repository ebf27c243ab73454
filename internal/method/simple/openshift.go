package simple

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// OpenShift is the registry of the image itself, with OpenShift's extension of the
// API. containers/image asks it when no lookaside is configured.
type OpenShift struct{ registry *registry.Client }

// NewOpenShift returns the Target; its credentials are those of the registries row.
func NewOpenShift(c *registry.Client) *OpenShift { return &OpenShift{c} }

// The form of the extension, version 2.
const (
	extensionVersion = 2
	extensionType    = "atomic"
	// nameLength is that of a signature's name behind the digest, in hexadecimal.
	nameLength = 32
)

type extensionSignature struct {
	Version int    `json:"schemaVersion"`
	Name    string `json:"name"` // sha256:<hex>@<name>
	Type    string `json:"type"`
	Content []byte `json:"content"`
}

// Base implements Target.
func (o *OpenShift) Base(string) string { return "" }

func (o *OpenShift) location(a signing.Artifact, name string, signature []byte) signing.Location {
	return signing.Location{Kind: Kind, URI: a.Repository.Host() + "/extensions/v2/" + a.Repository.Path() + "/signatures/" + name, Digest: signing.DigestOf(signature)}
}

// Read implements Target. The names say nothing: what is not a simple signature of
// a size that we read is left aside, as verifiers do.
func (o *OpenShift) Read(ctx context.Context, a signing.Artifact) ([]Stored, error) {
	raw, err := o.registry.Signatures(ctx, a.Repository, a.Digest)
	if err != nil {
		return nil, err
	}
	var list struct {
		Signatures []extensionSignature `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, &signing.Error{Code: signing.Unavailable, Message: "the registry's list of signatures cannot be read", Expected: "the signature extension of OpenShift, version 2", Found: "another document", Fix: "if this registry is not OpenShift's, configure another lookaside for it"}
	}
	var out []Stored
	for _, s := range list.Signatures {
		if s.Version != extensionVersion || s.Type != extensionType {
			continue
		}
		if len(s.Content) > MaxSignature || len(s.Name) > len(a.Digest)+256 || !strings.HasPrefix(s.Name, string(a.Digest)+"@") {
			return nil, tooLarge(fmt.Sprintf("%.200q", s.Name))
		}
		if len(out) == MaxSignatures {
			return nil, full(a)
		}
		out = append(out, Stored{Location: o.location(a, s.Name, s.Content), Bytes: s.Content})
	}
	slices.SortFunc(out, func(x, y Stored) int { return strings.Compare(x.Location.URI, y.Location.URI) })
	return out, nil
}

// Add implements Target. The name is made from the signature, so that equal ones
// meet and different ones do not.
func (o *OpenShift) Add(ctx context.Context, a signing.Artifact, signature []byte) (signing.Location, error) {
	s := extensionSignature{Version: extensionVersion, Type: extensionType, Content: signature, Name: string(a.Digest) + "@" + signing.DigestOf(signature).Hex()[:nameLength]}
	there, err := o.Read(ctx, a)
	if err != nil {
		return signing.Location{}, err
	}
	for _, t := range there {
		if string(t.Bytes) == string(signature) {
			return t.Location, nil
		}
	}
	if len(there) >= MaxSignatures {
		return signing.Location{}, full(a)
	}
	document, err := json.Marshal(s)
	if err != nil {
		return signing.Location{}, fmt.Errorf("encoding a signature: %w", err)
	}
	if _, err := o.registry.PutSignature(ctx, a.Repository, a.Digest, document); err != nil {
		return signing.Location{}, err
	}
	return o.location(a, s.Name, signature), nil
}

// basic is the value of an Authorization header.
func basic(user string, password []byte) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+string(password)))
}
