package config

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

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
			files[path], err = readBounded(path)
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

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	return io.ReadAll(io.LimitReader(f, MaxDocument+1))
}
