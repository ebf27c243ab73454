package method_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sealwright/sealwright/internal/method"
)

func TestATrustItemIsOneListOfKnownRowsWithinItsBoundsOrRefused(t *testing.T) {
	type row struct {
		Name string `json:"name"`
	}
	for text, found := range map[string]string{
		`[{"name":"a"},{"name":"b"}]` + "\n": "", `[]`: "",
		"": "another document", "x": "another document", `{"name":"a"}`: "another document", `[{"name":"a","more":1}]`: "another document",
		`[{},{},{}]`: "another document", `[{"name":"a"}]x`: "more behind the document", `[][]`: "more behind the document",
		strings.Repeat(" ", 41) + `[]`: "43 bytes",
	} {
		rows, err := method.Rows[row]([]byte(text), 42, 2)
		switch {
		case found == "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case found != "" && (err == nil || err.Error() != found || rows != nil):
			t.Errorf("%q: %v, %v; want %q", text, rows, err, found)
		}
	}
	if rows, _ := method.Rows[row]([]byte(`[{"name":"a"},{"name":"b"}]`), 42, 2); !slices.Equal(rows, []row{{"a"}, {"b"}}) {
		t.Errorf("got %v", rows)
	}
}
