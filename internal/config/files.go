package config

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// MaxCA bounds a file of CA certificates: that of a whole system has some 300 KB.
const MaxCA = 1 << 20

// ReadCA returns the certificates of a ca_file, in PEM and at most MaxCA bytes, and nil
// for no path.
func ReadCA(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	pem, err := ReadFile(path, MaxCA)
	if err != nil {
		return nil, fmt.Errorf("reading ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file %s holds no PEM certificate", path)
	}
	return pool, nil
}

// ReadFile reads a regular file of at most most bytes.
func ReadFile(path string, most int64) ([]byte, error) {
	raw, err := readRegular(path, most)
	switch {
	case errors.Is(err, errIrregular):
		return nil, fmt.Errorf("%s is %w", path, err)
	case err == nil && int64(len(raw)) > most:
		return nil, fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return raw, err
}

var errIrregular = errors.New("not a regular file")

// readRegular reads one byte more than most, if they are there. What is not a regular
// file is not opened: a pipe or a terminal would block the start for ever.
func readRegular(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errIrregular
	}
	return readBounded(path, most)
}

// ReadTree reads every .yaml and .yml file of paths: files as they are named, and
// all below a folder. Below a folder names that start with a dot are left out:
// editors and Kubernetes keep second copies under such names. More than most
// files are an error; a file that is too large for Parse is read as far as it
// takes for Parse to refuse it.
func ReadTree(most int, paths ...string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, root := range paths {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch hidden := path != root && strings.HasPrefix(d.Name(), "."); {
			case err != nil:
				return err
			case hidden && d.IsDir():
				return fs.SkipDir
			case d.IsDir(), path != root && (hidden || !isYAML(path)):
				return nil
			case len(files) == most:
				return fmt.Errorf("more than %d files below %s", most, root)
			}
			files[path], err = readBounded(path, MaxDocument)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

func isYAML(path string) bool {
	return strings.HasSuffix(path, ".yaml") || strings.HasSuffix(path, ".yml")
}

// readBounded reads one byte more than most, if they are there.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	return io.ReadAll(io.LimitReader(f, most+1))
}
