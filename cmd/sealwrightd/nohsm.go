//go:build nopkcs11

package main

import "github.com/sealwright/sealwright/internal/key"

// modules is nil: a static program cannot load a module.
func modules() key.Backend { return nil }
