package dct

import (
	"bytes"
	"testing"
)

func TestCanonicalJSONSortsNamesAndEscapesQuotesAndBackslashesOnly(t *testing.T) {
	v, err := parseJSON([]byte(`{ "b": [1, true, null], "a": {"z": "<\"\\é>", "B": 2}, "": "" }`))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(canonical(v)), `{"":"","a":{"B":2,"z":"<\"\\é>"},"b":[1,true,null]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestJSONThatTwoReadersCouldReadDifferentlyIsRefused(t *testing.T) {
	deep := bytes.Repeat([]byte("["), maxDepth+1)
	for name, raw := range map[string]string{
		"a name twice":            `{"a":1,"a":2}`,
		"a name twice, escaped":   `{"a":1,"\u0061":2}`,
		"something after it":      `{} {}`,
		"nothing":                 ``,
		"a fraction":              `{"a":1.5}`,
		"an exponent":             `{"a":1e3}`,
		"more than 64 bits":       `{"a":9223372036854775808}`,
		"negative zero":           `{"a":-0}`,
		"a control character":     `{"a":"\n"}`,
		"a control in a name":     `{"\t":1}`,
		"a lonely surrogate":      `{"a":"\ud800"}`,
		"bytes that are not text": "{\"a\":\"\xff\"}",
		"nested too deeply":       string(deep) + string(bytes.Repeat([]byte("]"), maxDepth+1)),
		"not closed":              `{"a":[1`,
	} {
		if v, err := parseJSON([]byte(raw)); err == nil {
			t.Errorf("%s was read as %v", name, v)
		}
	}
}

func FuzzCanonicalJSONReadsBackToItself(f *testing.F) {
	for _, s := range []string{`{"a":[1,{"b":"c\\\""}],"":null}`, `"\u2028"`, `[true,false,-1]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, err := parseJSON(raw)
		if err != nil {
			return
		}
		once := canonical(v)
		again, err := parseJSON(once)
		if err != nil || !bytes.Equal(canonical(again), once) {
			t.Errorf("%q became %q, then %v", raw, once, err)
		}
	})
}
