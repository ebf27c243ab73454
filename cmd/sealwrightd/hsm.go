//go:build !nopkcs11

package main

import (
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/key/pkcs11"
)

// modules opens keys of hardware security modules.
func modules() key.Backend { return pkcs11.New() }
