package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

// cmdKeysTrust writes what verifiers need of a key: public keys, certificates and
// ready-made pieces of configuration, as the key's methods describe them.
func cmdKeysTrust(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("keys trust", errs)
	path := configFlag(f)
	id := f.String("key", "", "`id` of the key")
	dir := f.String("out", "", "`folder` to write to, which is made; no file in it is overwritten")
	repository := f.String("repository", "REPOSITORY", "`repository` that the pieces of configuration name")
	if err := parse(f, args, 0); err != nil {
		return err
	}
	if *dir == "" {
		return &usageError{"--out is missing"}
	}
	if *repository != "REPOSITORY" {
		if err := signing.Repository(*repository).Validate(); err != nil {
			return &usageError{"--repository: " + inOneLine(err)}
		}
	}
	c, _, info, err := openKey(ctx, *path, *id)
	if err != nil {
		return err
	}
	reg, err := registry.New(c.Registries, registry.Options{})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*dir, 0o755); err != nil {
		return err
	}
	known, err := methods(c.Config, reg, nil)
	if err != nil {
		return err
	}
	for _, k := range c.Keys {
		for _, name := range k.Methods {
			m, built := known[name]
			if k.ID != *id || !built {
				continue
			}
			trust, err := m.Info(info, nil)
			if err != nil {
				return err
			}
			files := map[string][]byte{}
			for _, item := range trust.Trust {
				files[item.Name] = item.Bytes
			}
			for name, text := range trust.Snippets {
				text = strings.NewReplacer("REPOSITORY", *repository, "IMAGE", *repository+"@sha256:...", "HOST", signing.Repository(*repository).Host()).Replace(text)
				if !strings.Contains(name, ".") { // commands are named after their program, configuration after its file
					fmt.Fprintf(out, "# %s\n%s", name, text)
					continue
				}
				files[name] = []byte(text)
			}
			for _, name := range slices.Sorted(maps.Keys(files)) {
				switch err := writeNew(filepath.Join(*dir, name), files[name], 0o644); {
				case err == nil:
					fmt.Fprintln(errs, "wrote", filepath.Join(*dir, name))
				case errors.Is(err, os.ErrExist):
					fmt.Fprintf(errs, "kept  %s, which was there: write to an empty folder if it is not the same\n", filepath.Join(*dir, name))
				default:
					return err
				}
			}
		}
	}
	return nil
}
