// Package internal_test holds the tests of the tree as a whole.
package internal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/sealwright/sealwright"

// everyone may be imported by any package above them: layer 0 of the table. They
// import each other only as the table says.
var everyone = []string{"signing", "config", "outbound", "openpgp"}

// allowed is the table of the design, section 4: each package, present or
// planned, with the packages of ours that it may import besides layer 0. "X/*"
// is every package below X.
var allowed = map[string][]string{
	// L0. Refusals are *signing.Error everywhere, so the domain is below the other two.
	"internal/signing": {}, "internal/config": {"signing"}, "internal/outbound": {"signing"},
	"internal/openpgp": {"signing"},
	// L1
	"internal/audit": {}, "internal/policy": {}, "internal/approval": {}, "internal/view": {}, "internal/identity": {},
	"internal/key": {}, "internal/registry": {}, "internal/forge": {}, "internal/api": {}, "internal/ci": {},
	// L2
	"internal/policy/policytest": {"policy"},
	"internal/store":             {"audit"}, "internal/store/storetest": {"audit", "store"},
	"internal/method":           {"registry"},
	"internal/method/cosign":    {"method", "registry"},
	"internal/method/notation":  {"method", "registry"},
	"internal/method/dct":       {"method", "registry"},
	"internal/method/simple":    {"method", "registry"},
	"internal/method/simple/s3": {"method/simple"}, "internal/method/simple/simpletest": {"method/simple"},
	"internal/method/methodtest": {"method", "registry", "key/keytest"},
	"internal/key/pkcs11":        {"key"}, "internal/key/kms": {"key"}, "internal/key/keytest": {"key"},
	"internal/registry/cloud": {"registry"},
	"internal/forge/ask":      {"forge"}, "internal/forge/ask/asktest": {},
	"internal/forge/github": {"forge", "forge/ask"}, "internal/forge/gitlab": {"forge", "forge/ask"},
	"internal/facts": {"forge", "registry"}, "internal/report": {"forge", "view"},
	"internal/evidence": {"audit", "approval", "view"}, "internal/submit": {"api", "ci", "registry", "view"},
	// L3
	"internal/workflow": {"store", "policy", "approval", "key", "method", "registry", "facts", "forge", "report", "view", "audit"},
	// L4
	"internal/server":   {"workflow", "store", "identity", "forge", "evidence", "view", "api", "audit"},
	"internal/devworld": {"identity", "registry", "forge", "devworld/*"}, "internal/devworld/lab": {}, "internal/devworld/hub": {},
	"internal/devworld/notary": {"method/dct"},
	"internal/testenv":         {"*"},
	"internal/scenario":        {"*"}, // for tests
	"internal":                 {},    // this test
	// L5
	"cmd/sealwrightd":   {"*"},
	"cmd/sealwright":    {"submit", "evidence", "api", "policy", "policy/policytest", "audit", "view", "registry", "method", "method/*"},
	"cmd/sealwright-ci": {"submit"},
}

// importers says who may import packages that have few customers: ours, and
// those of others that are fenced in.
var importers = map[string][]string{
	"database/sql":                       {"internal/store", "internal/store/storetest"},
	"C":                                  {"internal/key/pkcs11"},
	"github.com/mattn/go-sqlite3":        {"internal/store"},
	"github.com/miekg/pkcs11":            {"internal/key/pkcs11"},
	"github.com/ThalesGroup/crypto11":    {"internal/key/pkcs11"},
	module + "/internal/devworld":        {"cmd/sealwrightd", "internal/testenv", "internal/scenario"},
	module + "/internal/devworld/lab":    {"cmd/sealwrightd", "internal/testenv", "internal/devworld", "internal/scenario"},
	module + "/internal/devworld/hub":    {"cmd/sealwrightd", "internal/testenv", "internal/devworld", "internal/scenario"},
	module + "/internal/devworld/notary": {"cmd/sealwrightd", "internal/testenv", "internal/devworld", "internal/scenario"},
	module + "/internal/testenv":         {"internal/scenario"},
	module + "/internal/scenario":        {},
}

// fences are prefixes of import paths that one package of ours, with its tests, may
// import.
var fences = map[string]string{
	"github.com/ProtonMail/go-crypto/": "internal/openpgp",
}

// cgo lists the packages of others that may use cgo, the standard library's
// aside (each of those has a form without).
var cgo = []string{"github.com/mattn/go-sqlite3", "github.com/miekg/pkcs11", "github.com/ThalesGroup/crypto11"}

// signingLibraries and cloudSDKs are prefixes of import paths.
var (
	signingLibraries = []string{"github.com/sigstore/", "github.com/notaryproject/", "github.com/theupdateframework/", "github.com/ProtonMail/go-crypto", "github.com/go-jose/", "go.podman.io/"}
	cloudSDKs        = []string{"cloud.google.com/", "github.com/aws/", "github.com/Azure/azure-sdk-for-go/", "google.golang.org/api"}
)

// unreachable says what a command must not reach, at any depth. A name ending in
// "/" or one of the lists above is a prefix, every other is exact.
var unreachable = map[string][]string{
	"cmd/sealwright":    append([]string{module + "/internal/key", module + "/internal/store", module + "/internal/workflow", module + "/internal/server", module + "/internal/devworld", "database/sql"}, cloudSDKs...),
	"cmd/sealwright-ci": append([]string{module + "/internal/key", module + "/internal/store", module + "/internal/workflow", module + "/internal/server", module + "/internal/policy", module + "/internal/audit", module + "/internal/method", module + "/internal/devworld", "database/sql"}, append(slices.Clone(signingLibraries), cloudSDKs...)...),
}

// withoutCgo are the commands that must build without a C compiler.
var withoutCgo = []string{"cmd/sealwright", "cmd/sealwright-ci"}

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	CgoFiles   []string
	Standard   bool
	Error      *struct{ Err string }
}

func (p pkg) ours() bool {
	return p.ImportPath == module || strings.HasPrefix(p.ImportPath, module+"/")
}

// short is the name of p in the tables.
func (p pkg) short() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func TestImports(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps", "-json=ImportPath,Imports,CgoFiles,Standard,Error", "./...")
	cmd.Dir = ".."
	// With cgo on, so that what would use it shows.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("go list: %v\n%s", err, errs.String())
	}
	tree := map[string]pkg{}
	for d := json.NewDecoder(&out); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("reading go list: %v", err)
		}
		tree[p.ImportPath] = p
	}
	for _, c := range []string{"cmd/sealwright", "cmd/sealwright-ci", "cmd/sealwrightd"} {
		if _, ok := tree[module+"/"+c]; !ok {
			t.Errorf("%s is missing: nothing can be said of what it reaches", c)
		}
	}
	for _, v := range violations(tree) {
		t.Error(v)
	}
}

// violations compares a tree with the tables above, in order of packages.
func violations(tree map[string]pkg) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		p := tree[name]
		if p.Error != nil {
			out = append(out, fmt.Sprintf("%s: %s", p.ImportPath, p.Error.Err))
		}
		if !p.Standard && !p.ours() && len(p.CgoFiles) > 0 && !slices.Contains(cgo, p.ImportPath) {
			out = append(out, fmt.Sprintf("%s uses cgo", p.ImportPath))
		}
		if p.ours() {
			out = append(out, direct(p)...)
		}
	}
	for _, c := range slices.Sorted(maps.Keys(unreachable)) {
		for _, chain := range reach(tree, module+"/"+c) {
			last := chain[len(chain)-1]
			forbidden := slices.ContainsFunc(unreachable[c], func(f string) bool {
				return last == f || strings.HasPrefix(last, strings.TrimSuffix(f, "/")+"/") && f != "database/sql"
			})
			usesCgo := slices.Contains(withoutCgo, c) && !tree[last].Standard && len(tree[last].CgoFiles) > 0
			if forbidden || usesCgo {
				out = append(out, fmt.Sprintf("%s reaches %s: %s", c, last, strings.Join(chain, " -> ")))
			}
		}
	}
	return out
}

// direct checks what p itself imports.
func direct(p pkg) []string {
	var out []string
	may, known := allowed[p.short()]
	if !known {
		return []string{fmt.Sprintf("%s is not in the table of the design, section 4", p.short())}
	}
	for _, i := range p.Imports {
		if only, fenced := importers[i]; fenced && !slices.Contains(only, p.short()) {
			out = append(out, fmt.Sprintf("%s imports %s; only %v may", p.short(), i, only))
		}
		for prefix, only := range fences {
			if strings.HasPrefix(i, prefix) && p.short() != only {
				out = append(out, fmt.Sprintf("%s imports %s; only %s may", p.short(), i, only))
			}
		}
		rest, ours := strings.CutPrefix(i, module+"/internal/")
		if !ours {
			if strings.HasPrefix(i, module+"/cmd/") {
				out = append(out, fmt.Sprintf("%s imports %s", p.short(), i))
			}
			continue
		}
		zero := slices.Contains(everyone, strings.TrimPrefix(p.short(), "internal/"))
		fits := func(a string) bool {
			ok, err := path.Match(a, rest)
			return a == "*" || err == nil && ok
		}
		if !slices.ContainsFunc(may, fits) && (zero || !slices.Contains(everyone, rest)) {
			out = append(out, fmt.Sprintf("%s imports %s; it may import %v and %v", p.short(), rest, may, everyone))
		}
	}
	return out
}

// reach returns, for each package that from reaches, one chain of imports to it.
func reach(tree map[string]pkg, from string) [][]string {
	if _, ok := tree[from]; !ok {
		return nil
	}
	seen := map[string]bool{from: true}
	chains := [][]string{{from}}
	for n := 0; n < len(chains); n++ {
		chain := chains[n]
		for _, i := range tree[chain[len(chain)-1]].Imports {
			if !seen[i] {
				seen[i] = true
				chains = append(chains, append(slices.Clone(chain), i))
			}
		}
	}
	return chains
}

func TestImportsNamesEachKindOfViolation(t *testing.T) {
	in := func(s string) string { return module + "/internal/" + s }
	for title, c := range map[string]struct {
		tree []pkg
		want string // empty: none
	}{
		"as drawn":            {[]pkg{{ImportPath: in("workflow"), Imports: []string{in("store"), in("signing"), "context"}}}, ""},
		"layer 0 from below":  {[]pkg{{ImportPath: in("signing"), Imports: []string{in("config")}}}, "internal/signing imports config"},
		"siblings":            {[]pkg{{ImportPath: in("policy"), Imports: []string{in("view")}}}, "internal/policy imports view"},
		"upwards":             {[]pkg{{ImportPath: in("store"), Imports: []string{in("workflow")}}}, "internal/store imports workflow"},
		"method wants key":    {[]pkg{{ImportPath: in("method/cosign"), Imports: []string{in("key")}}}, "internal/method/cosign imports key"},
		"unknown package":     {[]pkg{{ImportPath: in("util")}}, "internal/util is not in the table"},
		"sql outside store":   {[]pkg{{ImportPath: in("server"), Imports: []string{"database/sql"}}}, "internal/server imports database/sql"},
		"openpgp elsewhere":   {[]pkg{{ImportPath: in("key"), Imports: []string{"github.com/ProtonMail/go-crypto/openpgp/packet"}}}, "internal/key imports github.com/ProtonMail/go-crypto/openpgp/packet; only"},
		"cgo of our own":      {[]pkg{{ImportPath: in("key"), Imports: []string{"C"}}}, "internal/key imports C"},
		"cgo of others":       {[]pkg{{ImportPath: "example.org/c", CgoFiles: []string{"c.go"}}}, "example.org/c uses cgo"},
		"devworld in service": {[]pkg{{ImportPath: in("server"), Imports: []string{in("devworld")}}}, "internal/server imports " + in("devworld")},
		"ci step that signs":  {[]pkg{{ImportPath: module + "/cmd/sealwright-ci", Imports: []string{in("submit")}}, {ImportPath: in("submit"), Imports: []string{"github.com/sigstore/sigstore/pkg/signature"}}}, "cmd/sealwright-ci reaches github.com/sigstore/sigstore/pkg/signature"},
		"person's sql":        {[]pkg{{ImportPath: module + "/cmd/sealwright", Imports: []string{"example.org/a"}}, {ImportPath: "example.org/a", Imports: []string{"database/sql"}}}, "cmd/sealwright reaches database/sql"},
		"person's driver":     {[]pkg{{ImportPath: module + "/cmd/sealwright", Imports: []string{"example.org/a"}}, {ImportPath: "example.org/a", Imports: []string{"database/sql/driver"}}}, ""},
		"person's key":        {[]pkg{{ImportPath: module + "/cmd/sealwright", Imports: []string{in("method/cosign")}}, {ImportPath: in("method/cosign"), Imports: []string{in("key/kms")}}, {ImportPath: in("key/kms")}}, "cmd/sealwright reaches " + in("key/kms")},
		"person's cgo":        {[]pkg{{ImportPath: module + "/cmd/sealwright", Imports: []string{"github.com/miekg/pkcs11"}}, {ImportPath: "github.com/miekg/pkcs11", CgoFiles: []string{"p.go"}}}, "cmd/sealwright reaches github.com/miekg/pkcs11"},
		"broken package":      {[]pkg{{ImportPath: in("view"), Error: &struct{ Err string }{"no Go files"}}}, "no Go files"},
	} {
		tree := map[string]pkg{}
		for _, p := range c.tree {
			tree[p.ImportPath] = p
		}
		got := violations(tree)
		found := slices.ContainsFunc(got, func(v string) bool { return strings.Contains(v, c.want) })
		if c.want == "" && len(got) > 0 || c.want != "" && !found {
			t.Errorf("%s: %s", title, cmp.Diff(c.want, strings.Join(got, "\n")))
		}
	}
}
