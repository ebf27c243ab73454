package config

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// MaxSecret bounds a secret in bytes: the largest are certificate bundles and
// encrypted RSA keys of some KiB.
const MaxSecret = 64 << 10

// Secret is a reference to a secret, "file:/absolute/path" or "env:NAME". It is
// not the secret, so it may be printed. A literal is refused when the file is
// read, without being repeated in the problem.
type Secret string

var reEnv = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// errLiteral must not show what was found: it may be the secret.
var errLiteral = errors.New("must be a reference, file:/absolute/path or env:NAME; the secret itself is not written into this file")

// Validate reports whether s is a well-formed reference.
func (s Secret) Validate() error {
	if path, ok := strings.CutPrefix(string(s), "file:"); ok && filepath.IsAbs(path) {
		return nil
	}
	if name, ok := strings.CutPrefix(string(s), "env:"); ok && reEnv.MatchString(name) {
		return nil
	}
	return errLiteral
}

// UnmarshalText accepts a well-formed reference.
func (s *Secret) UnmarshalText(b []byte) error {
	r := Secret(b)
	if err := r.Validate(); err != nil {
		return err
	}
	*s = r
	return nil
}

// String returns the reference. What is not one is not shown.
func (s Secret) String() string {
	if s == "" || s.Validate() == nil {
		return string(s)
	}
	return "(not a reference)"
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText is String, for JSON and logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Read returns the secret without one final line break. It must have 1 to
// MaxSecret bytes, and a file must be a regular one. env is os.LookupEnv or a
// test's. Errors name the reference, never the content.
func (s Secret) Read(env func(string) (string, bool)) ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("reading a secret: %w", err)
	}
	var raw []byte
	if path, ok := strings.CutPrefix(string(s), "file:"); ok {
		var err error
		if raw, err = readRegular(path, MaxSecret); err != nil {
			return nil, fmt.Errorf("reading secret %s: %w", s, err)
		}
	} else {
		v, ok := env(strings.TrimPrefix(string(s), "env:"))
		if !ok {
			return nil, fmt.Errorf("reading secret %s: the variable is not set", s)
		}
		raw = []byte(v)
	}
	if len(raw) > MaxSecret {
		return nil, fmt.Errorf("reading secret %s: more than %d bytes", s, MaxSecret)
	}
	raw = bytes.TrimSuffix(bytes.TrimSuffix(raw, []byte("\n")), []byte("\r"))
	if len(raw) == 0 {
		return nil, fmt.Errorf("reading secret %s: it is empty", s)
	}
	return raw, nil
}

// Duration is a length of time, written as in "30s", "10m", "24h". It is never
// negative.
type Duration time.Duration

// UnmarshalText reads time.ParseDuration's form.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("must be a duration such as 30s, 10m or 24h, found %q", clip(string(b)))
	}
	*d = Duration(v)
	return nil
}

// Duration returns d as a time.Duration.
func (d Duration) Duration() time.Duration { return time.Duration(d) }

// String returns time.Duration's form.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
