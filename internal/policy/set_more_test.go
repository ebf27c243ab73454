package policy

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealwright/sealwright/internal/signing"
)

// The view of Facts that conditions see has every field of the JSON form.
func TestConditionsSeeEveryFact(t *testing.T) {
	var f signing.Facts
	fill(reflect.ValueOf(&f).Elem())
	raw, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var want any
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	got := plain(reflect.ValueOf(f))
	if diff := cmp.Diff(shape(want), shape(got)); diff != "" {
		t.Error(diff)
	}
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type().PkgPath() == "time" {
			v.Set(reflect.ValueOf(strictTime))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("x"), reflect.ValueOf("x"))
	}
}

// shape lists the names in a document.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := map[string]any{}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			m[k] = shape(v[k])
		}
		return m
	case []any:
		return []any{shape(v[0])}
	}
	return "leaf"
}

func BenchmarkEvaluate(b *testing.B) {
	p, f := release(b, load(b, strict)), strictFacts(b)
	for b.Loop() {
		if effect, _ := p.Evaluate(f); effect != signing.Allow {
			b.Fatal("denied")
		}
	}
}

func TestAGroupOfNoRulesDoesNotPass(t *testing.T) {
	if node("origin").Pass {
		t.Error("nothing was asked, and it passed")
	}
}
