package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Decode parses one YAML document into the struct that v points to. Fields are
// found by their `yaml:"name"` tag, `yaml:",inline"` for an embedded struct;
// fields without a tag are not filled. Fields may be strings, booleans,
// integers, floats, encoding.TextUnmarshaler, Raw, pointers, lists, structs,
// and maps with string keys. A Short may be written as one word instead.
//
// The error is Problems and has every problem of the file; v is then filled as
// far as it could be and must not be used.
func Decode(file string, data []byte, v any) error {
	d, err := Parse(file, data)
	if err != nil {
		return err
	}
	return d.Decode(v)
}

// Decode fills the struct that v points to, as the function Decode does.
func (d *Document) Decode(v any) error {
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return fmt.Errorf("decoding %s: %T is not a pointer to a struct", d.file, v)
	}
	w := walker{checker{doc: d}}
	w.value(d.root, "", rv.Elem())
	return append(slices.Clone(d.found), w.problems...).Err()
}

// Short is a list or struct that may also be written as one word, as in
// `inputs: none`; UnmarshalText reads that word. ShortForm does nothing.
type Short interface {
	encoding.TextUnmarshaler
	ShortForm()
}

// Raw is a value of any form, kept as it was written: a word that is known and
// not understood yet.
type Raw struct{ node *yaml.Node }

// IsZero reports whether the value was not given.
func (r Raw) IsZero() bool { return r.node == nil }

// MarshalJSON returns the value as JSON with sorted keys and every scalar as
// its text, independent of the formatting of the file.
func (r Raw) MarshalJSON() ([]byte, error) {
	return json.Marshal(tree(r.node, func(n *yaml.Node) any { return n.Value }))
}

// Value returns the value in the types that encoding/json decodes into, numbers
// and truth values as such and dates as text; nil if it was not given.
func (r Raw) Value() any { return tree(r.node, typed) }

func typed(n *yaml.Node) any {
	var v any
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool", "!!int", "!!float":
		if n.Decode(&v) == nil {
			return v
		}
	}
	return n.Value
}

// tree returns n in maps and lists, with what leaf makes of each scalar. It recurses
// no deeper than MaxDepth in a document that Decode accepted.
func tree(n *yaml.Node, leaf func(*yaml.Node) any) any {
	switch {
	case n == nil:
		return nil
	case n.Kind == yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			m[n.Content[i].Value] = tree(n.Content[i+1], leaf)
		}
		return m
	case n.Kind == yaml.SequenceNode:
		l := []any{}
		for _, e := range n.Content {
			l = append(l, tree(e, leaf))
		}
		return l
	}
	return leaf(n)
}

type walker struct{ checker }

var (
	typeText  = reflect.TypeFor[encoding.TextUnmarshaler]()
	typeShort = reflect.TypeFor[Short]()
	typeRaw   = reflect.TypeFor[Raw]()
)

// value fills v, which is settable, from n.
func (w *walker) value(n *yaml.Node, path string, v reflect.Value) {
	t := v.Type()
	switch {
	case n.Kind == yaml.AliasNode || n.Style&yaml.TaggedStyle != 0:
		return // Parse has found this wrong already
	case t == typeRaw:
		v.Set(reflect.ValueOf(Raw{node: n}))
		return
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		w.add(n, path, "has no value: give it one or leave the key out")
		return
	case t.Kind() == reflect.Pointer:
		p := reflect.New(t.Elem())
		w.value(n, path, p.Elem())
		v.Set(p)
		return
	case reflect.PointerTo(t).Implements(typeShort) && n.Kind != yaml.ScalarNode:
		// Its long form, below.
	case reflect.PointerTo(t).Implements(typeShort) && n.Tag == "!!bool":
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
			w.add(n, path, "%v", err)
		}
		return
	case reflect.PointerTo(t).Implements(typeText):
		w.text(n, path, v.Addr().Interface().(encoding.TextUnmarshaler))
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		if w.is(n, path, yaml.MappingNode, "", "a mapping") {
			w.structure(n, path, v)
		}
	case reflect.Map:
		if w.is(n, path, yaml.MappingNode, "", "a mapping") {
			w.mapping(n, path, v)
		}
	case reflect.Slice:
		if !w.is(n, path, yaml.SequenceNode, "", "a list") {
			return
		}
		s := reflect.MakeSlice(t, len(n.Content), len(n.Content))
		for i, e := range n.Content {
			w.value(e, Index(path, i), s.Index(i))
		}
		v.Set(s)
	default:
		w.scalar(n, path, v)
	}
}

func (w *walker) scalar(n *yaml.Node, path string, v reflect.Value) {
	var err error
	switch v.Kind() {
	case reflect.String:
		if w.is(n, path, yaml.ScalarNode, "!!str", "text") {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		if w.is(n, path, yaml.ScalarNode, "!!bool", "true or false") {
			err = n.Decode(v.Addr().Interface())
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if w.is(n, path, yaml.ScalarNode, "!!int", "a whole number") {
			err = n.Decode(v.Addr().Interface())
		}
	case reflect.Float32, reflect.Float64:
		if n.Tag == "!!int" || w.is(n, path, yaml.ScalarNode, "!!float", "a number") {
			err = n.Decode(v.Addr().Interface())
			if f := v.Float(); err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
				err = strconv.ErrRange
			}
		}
	default:
		w.add(n, path, "a field of type %s cannot be read from a file", v.Type())
	}
	if err != nil {
		w.add(n, path, "the number is out of range")
	}
}

func (w *walker) text(n *yaml.Node, path string, u encoding.TextUnmarshaler) {
	// Dates are text here: their own type reads them.
	if n.Kind == yaml.ScalarNode && n.Tag == "!!timestamp" || w.is(n, path, yaml.ScalarNode, "!!str", "text") {
		if err := u.UnmarshalText([]byte(n.Value)); err != nil {
			w.add(n, path, "%v", err)
		}
	}
}

// is reports whether n is of the kind and tag, and adds a problem if not. The
// problem does not repeat the value, which may be a secret in the wrong place.
func (w *walker) is(n *yaml.Node, path string, kind yaml.Kind, tag, want string) bool {
	if n.Kind == kind && (tag == "" || n.Tag == tag) {
		return true
	}
	found, hint := "", ""
	switch {
	case n.Kind == yaml.MappingNode:
		found = "a mapping"
	case n.Kind == yaml.SequenceNode:
		found = "a list"
	case n.Tag == "!!str":
		found = "text"
	case n.Tag == "!!bool":
		found = "true or false"
	case n.Tag == "!!int", n.Tag == "!!float":
		found = "a number"
	case n.Tag == "!!timestamp":
		found = "a date"
	default:
		found = "another kind of value"
	}
	if want == "text" && n.Kind == yaml.ScalarNode {
		hint = ": put it in quotes"
	}
	w.add(n, path, "must be %s, found %s%s", want, found, hint)
	return false
}

func (w *walker) mapping(n *yaml.Node, path string, v reflect.Value) {
	t := v.Type()
	if t.Key().Kind() != reflect.String {
		w.add(n, path, "a field of type %s cannot be read from a file", t)
		return
	}
	m := reflect.MakeMapWithSize(t, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, e := n.Content[i], reflect.New(t.Elem()).Elem()
		if k.Tag != "!!str" {
			w.add(k, Key(path, k.Value), "the key must be text: put it in quotes")
			continue
		}
		if k.Value == "" {
			w.add(k, path, "a key is empty")
			continue
		}
		w.value(n.Content[i+1], Key(path, k.Value), e)
		m.SetMapIndex(reflect.ValueOf(k.Value).Convert(t.Key()), e)
	}
	v.Set(m)
}

func (w *walker) structure(n *yaml.Node, path string, v reflect.Value) {
	fields := map[string][]int{}
	collect(v.Type(), nil, fields)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		index, ok := fields[k.Value]
		if !ok {
			known := slices.Sorted(maps.Keys(fields))
			w.add(k, path, "unknown key %q%s", clip(k.Value), hint(k.Value, known))
			continue
		}
		w.value(n.Content[i+1], Key(path, k.Value), v.FieldByIndex(index))
	}
}

// collect lists the fields of a struct, inlined ones too, by their key.
func collect(t reflect.Type, prefix []int, out map[string][]int) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		index := append(slices.Clone(prefix), i)
		switch {
		case strings.Contains(options, "inline") && f.Type.Kind() == reflect.Struct:
			collect(f.Type, index, out)
		case f.IsExported() && name != "" && name != "-":
			out[name] = index
		}
	}
}

// hint names the known key that was probably meant, or all of them.
func hint(got string, known []string) string {
	best, least := "", max(2, len(got)/3)+1
	if len(got) <= 64 {
		for _, k := range known {
			if d := distance(fold(got), fold(k)); d < least && d < len(k) {
				best, least = k, d
			}
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	if len(known) == 0 {
		return ""
	}
	return "; known here: " + strings.Join(known, ", ")
}

func fold(s string) string {
	return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s))
}

// distance is the number of bytes to insert, delete, replace or swap with their
// neighbour between a and b.
func distance(a, b string) int {
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, above, row = above, row, before
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(above[j]+cost, above[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
