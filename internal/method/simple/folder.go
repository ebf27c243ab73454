package simple

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/sealwright/sealwright/internal/signing"
)

// Folder is a folder that a web server serves, or that verifiers mount.
type Folder struct {
	root *os.Root
	base string
}

// OpenFolder returns the folder as a Target. base is where verifiers read it; empty
// means the folder itself.
func OpenFolder(path, base string) (*Folder, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "the folder of a lookaside cannot be opened", Found: err.Error(), Fix: "make it, and let the user of the service write there"}
	}
	if base == "" {
		base = (&url.URL{Scheme: "file", Path: filepath.ToSlash(path)}).String()
	}
	return &Folder{root: root, base: base}, nil
}

// Base implements Target.
func (f *Folder) Base(string) string { return f.base }

// Read implements Target.
func (f *Folder) Read(ctx context.Context, a signing.Artifact) ([]Stored, error) {
	return ReadNumbered(ctx, a, f.base, f.Get)
}

// Add implements Target.
func (f *Folder) Add(ctx context.Context, a signing.Artifact, signature []byte) (signing.Location, error) {
	return AddNumbered(ctx, a, f.base, f, signature)
}

// Get implements Numbered.
func (f *Folder) Get(_ context.Context, _, path string) ([]byte, error) {
	file, err := f.root.Open(filepath.FromSlash(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &signing.Error{Code: signing.NotFound, Message: "no such signature", Found: path}
	}
	if err != nil {
		return nil, failed(err)
	}
	defer func() { _ = file.Close() }() // read only
	b, err := io.ReadAll(io.LimitReader(file, MaxSignature+1))
	if err != nil {
		return nil, failed(err)
	}
	if len(b) > MaxSignature {
		return nil, tooLarge(path)
	}
	return b, nil
}

// Create implements Numbered: a file with another name is written durably, then
// linked to its name, which fails if the name is taken. A reader sees nothing or
// all of it.
func (f *Folder) Create(_ context.Context, _, path string, content []byte) (err error) {
	path = filepath.FromSlash(path)
	dir := filepath.Dir(path)
	if err := f.root.MkdirAll(dir, 0o755); err != nil {
		return failed(err)
	}
	draft := filepath.Join(dir, "."+rand.Text())
	if err := f.write(draft, content); err != nil {
		return failed(err)
	}
	err = f.root.Link(draft, path)
	if errors.Is(err, fs.ErrExist) {
		return errors.Join(ErrTaken, f.root.Remove(draft))
	}
	if err := errors.Join(err, f.root.Remove(draft), f.sync(dir)); err != nil {
		return failed(err)
	}
	return nil
}

func (f *Folder) write(path string, content []byte) error {
	file, err := f.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Sync(), file.Close())
}

// sync makes the names in a folder durable.
func (f *Folder) sync(dir string) error {
	d, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func failed(err error) error {
	return &signing.Error{Code: signing.Unavailable, Message: "the folder of the lookaside cannot be used", Found: err.Error(), Fix: "let the user of the service read and write there, and look at the space on its disk"}
}

func tooLarge(where string) error {
	return &signing.Error{Code: signing.TooLarge, Message: "a signature of the lookaside is too large", Expected: fmt.Sprintf("at most %d bytes", MaxSignature), Found: where, Fix: "find out who wrote it, and remove it"}
}
