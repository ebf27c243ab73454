package main

import (
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/method/cosign"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/method/notation"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/method/simple/s3"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/store"
)

// methods lists the signing methods of this program by name. Without a database
// they describe what they need, and check it, and sign nothing.
func methods(c Config, reg *registry.Client, db *store.Store) (map[string]method.Method, error) {
	places := simple.Options{URL: c.Server.URL, Registry: reg, S3: s3.Open}
	var seen dct.Options
	if db != nil {
		places.Own, seen.Memory = db.Lookaside(), db.Trust()
	}
	notaries, err := dct.Open(c.Notaries, seen)
	if err != nil {
		return nil, err
	}
	lookasides, err := simple.New(c.Lookasides, places)
	if err != nil {
		return nil, err
	}
	return map[string]method.Method{
		cosign.Name:   cosign.New(reg),
		notation.Name: notation.New(reg),
		dct.Name:      dct.New(notaries),
		simple.Name:   lookasides,
	}, nil
}
