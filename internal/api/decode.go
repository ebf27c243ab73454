package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/sealwright/sealwright/internal/signing"
)

// DecodeStrict reads one JSON document of at most most bytes from r into v, a
// pointer to a struct. Whatever another parser could read differently is
// refused with Invalid and the path of the problem: unknown fields (the case of
// a name counts), duplicate keys, bytes that are not UTF-8, a second document,
// nesting beyond MaxDepth. A longer body is TooLarge.
func DecodeStrict(r io.Reader, most int64, v any) error {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	var cut *http.MaxBytesError
	switch {
	case errors.As(err, &cut), int64(len(data)) > most:
		return &signing.Error{Code: signing.TooLarge, Message: "the body is too large", Expected: fmt.Sprintf("at most %d bytes", most), Fix: "split the submission"}
	case err != nil:
		return &signing.Error{Code: signing.Invalid, Message: "the body ended early", Expected: "one complete JSON document", Found: fmt.Sprintf("%d bytes", len(data)), Fix: "send it again", Err: err}
	case !utf8.Valid(data):
		return malformed("", "UTF-8", "bytes that are not")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := checkValue(dec, reflect.TypeOf(v), "", 0); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return malformed("", "one JSON document", fmt.Sprintf("more after byte %d", dec.InputOffset()))
	}
	if err := json.Unmarshal(data, v); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return malformed(wrong.Field, kindName(wrong.Type), wrong.Value)
		}
		return malformed("", "JSON as in openapi.yaml", err.Error())
	}
	return nil
}

func malformed(path, expected, found string) error {
	msg := "the body is not what this API takes"
	if path != "" {
		msg = path + ": " + msg
	}
	return &signing.Error{Code: signing.Invalid, Message: msg, Expected: expected, Found: found, Fix: "compare the body with /openapi.yaml of this service"}
}

var typeUnmarshaler = reflect.TypeFor[json.Unmarshaler]()

// checkValue walks one value of the document along the type that it will be
// decoded into. encoding/json alone would take the last of two equal keys and
// match names without regard to case.
func checkValue(dec *json.Decoder, t reflect.Type, path string, depth int) error {
	if depth > MaxDepth {
		return malformed(path, fmt.Sprintf("at most %d levels of nesting", MaxDepth), "more")
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t != nil && reflect.PointerTo(t).Implements(typeUnmarshaler) {
		t = nil // decodes itself; only keys and depth are checked below it
	}
	tok, err := dec.Token()
	if err != nil {
		return syntaxError(path, dec, err)
	}
	switch tok {
	case json.Delim('{'):
		return checkObject(dec, t, path, depth)
	case json.Delim('['):
		return checkArray(dec, t, path, depth)
	}
	return nil
}

func checkObject(dec *json.Decoder, t reflect.Type, path string, depth int) error {
	fields := fieldTypes(t)
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return syntaxError(path, dec, err)
		}
		key, _ := tok.(string)
		at := strings.TrimPrefix(path+"."+clip(key), ".")
		if seen[key] {
			return malformed(at, "each key once", "it twice")
		}
		seen[key] = true
		var child reflect.Type
		if fields != nil {
			known := false
			if child, known = fields[key]; !known {
				return malformed(at, "a field that this API knows", "an unknown one")
			}
		} else if t != nil && t.Kind() == reflect.Map {
			child = t.Elem()
		}
		if err := checkValue(dec, child, at, depth+1); err != nil {
			return err
		}
	}
	return closing(dec, path)
}

func checkArray(dec *json.Decoder, t reflect.Type, path string, depth int) error {
	var elem reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		elem = t.Elem()
	}
	for i := 0; dec.More(); i++ {
		if err := checkValue(dec, elem, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
			return err
		}
	}
	return closing(dec, path)
}

func closing(dec *json.Decoder, path string) error {
	if _, err := dec.Token(); err != nil {
		return syntaxError(path, dec, err)
	}
	return nil
}

func syntaxError(path string, dec *json.Decoder, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed(path, "a complete JSON document", "its end too early")
	}
	return malformed(path, "JSON", fmt.Sprintf("%v near byte %d", err, dec.InputOffset()))
}

// fieldTypes returns the JSON fields of a struct type, nil for every other type.
func fieldTypes(t reflect.Type) map[string]reflect.Type {
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	out := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && name != "" && name != "-" {
			out[name] = f.Type
		}
	}
	return out
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	default:
		return "an integer"
	}
}
