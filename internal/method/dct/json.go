package dct

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a document; metadata of Notary has 6 levels and a
// target may carry a little JSON of its own.
const maxDepth = 16

// parseJSON reads one JSON value, strictly: a name comes once in an object, numbers
// are whole, text is UTF-8 without control characters, nothing follows. Readers of
// one document must not be able to see two: Docker's takes the last of two equal
// names, others the first. What it returns is made of map[string]any, []any,
// string, json.Number, bool and nil.
func parseJSON(raw []byte) (any, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("it is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	v, err := parseValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON")
	}
	return v, nil
}

func parseValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, errors.New("it is not JSON") // not err: it quotes the stranger's text
	}
	switch t := t.(type) {
	case json.Delim:
		if depth == maxDepth {
			return nil, errors.New("it is nested too deeply")
		}
		if t == '{' {
			return parseObject(d, depth+1)
		}
		return parseList(d, depth+1)
	case string:
		return t, plainText(t)
	case json.Number:
		if _, err := t.Int64(); err != nil {
			return nil, errors.New("it has a number that is not a whole one of 64 bits")
		}
		// One form for each number: canonical JSON writes 0, never -0.
		if strings.HasPrefix(t.String(), "-0") {
			return nil, errors.New("it has a negative zero")
		}
	}
	return t, nil
}

func parseObject(d *json.Decoder, depth int) (any, error) {
	out := map[string]any{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errors.New("it is not JSON")
		}
		if err := plainText(name); err != nil {
			return nil, err
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("it has the name %.64q twice", name)
		}
		if out[name], err = parseValue(d, depth); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("it is not JSON")
	}
	return out, nil
}

func parseList(d *json.Decoder, depth int) (any, error) {
	out := []any{}
	for d.More() {
		v, err := parseValue(d, depth)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("it is not JSON")
	}
	return out, nil
}

// plainText refuses what canonical JSON, which escapes nothing but quotes and
// backslashes, cannot say: its bytes would be no JSON.
func plainText(s string) error {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == utf8.RuneError }) {
		return errors.New("it has a control or a replacement character in a text")
	}
	return nil
}

// canonical returns the canonical JSON (http://wiki.laptop.org/go/Canonical_JSON) of
// a value of parseJSON: what Notary signs. Names are sorted by their bytes.
func canonical(v any) []byte { return appendCanonical(nil, v) }

func appendCanonical(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		if v {
			return append(b, "true"...)
		}
		return append(b, "false"...)
	case json.Number:
		return append(b, v.String()...)
	case string:
		return appendText(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendCanonical(b, e)
		}
		return append(b, ']')
	case map[string]any:
		b = append(b, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendText(b, name), ':')
			b = appendCanonical(b, v[name])
		}
		return append(b, '}')
	}
	panic(fmt.Sprintf("canonical JSON of %T", v)) // no value of parseJSON
}

func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

// object reads the fields of one JSON object, each once, and remembers the first
// thing that was wrong.
type object struct {
	what   string
	fields map[string]any
	err    error
}

// asObject refuses every name that is not among known: Docker's reader does not
// tell "Targets" from "targets", so that an unknown name is not harmless.
func asObject(what string, v any, known ...string) *object {
	m, ok := v.(map[string]any)
	if !ok {
		return &object{what: what, err: fmt.Errorf("%s is not an object", what)}
	}
	for name := range m {
		if !slices.Contains(known, name) {
			return &object{what: what, err: fmt.Errorf("%s has an unknown field %.64q", what, name)}
		}
	}
	return &object{what: what, fields: m}
}

// get returns a field of a type; the zero value and an error to remember if it is
// something else or missing.
func get[T any](o *object, name string) T {
	v, ok := o.fields[name].(T)
	if !ok && o.err == nil {
		o.err = fmt.Errorf("%s has no %s, or one of another type", o.what, name)
	}
	return v
}

// number returns a field that is a whole number between 0 and most.
func (o *object) number(name string, most int64) int64 {
	n, err := get[json.Number](o, name).Int64()
	if o.err == nil && (err != nil || n < 0 || n > most) {
		o.err = fmt.Errorf("%s has a %s that is not between 0 and %d", o.what, name, most)
	}
	return n
}

// texts returns a field that is a list of texts, each once; none if it is null.
func (o *object) texts(name string, most int) []string {
	if v, ok := o.fields[name]; ok && v == nil {
		return nil
	}
	var out []string
	for _, e := range get[[]any](o, name) {
		s, ok := e.(string)
		if o.err == nil && (!ok || slices.Contains(out, s) || len(out) == most) {
			o.err = fmt.Errorf("%s has a list %s with other things than texts, one of them twice, or more than %d", o.what, name, most)
		}
		out = append(out, s)
		if o.err != nil {
			return nil
		}
	}
	return out
}
