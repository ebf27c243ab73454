// Package key holds the signing keys: it opens them from the keys file, proves
// that each is really there, says what each may serve, and signs with them.
//
// What it guarantees: a key that does not match its certificate, is weak, or
// lies readable to others stops the start. No private key leaves the package,
// not in a value, an error or a formatted struct. Every signature is verified
// with the public half before it is returned, and each call of Sign uses the
// key at most once. What it does not do: Sign does not ask Permit. Deciding is
// the caller's, who asks Permit with what it has just checked.
package key

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
)

const (
	// MaxKeys bounds a keys file. An organisation has some tens of keys; the
	// bound keeps the start, which proves each, to seconds.
	MaxKeys = 256
	// MaxAllow bounds the scopes of one key and the lists in them.
	MaxAllow = 256
)

// APIVersion is the version that a keys file names.
const APIVersion = "sealwright.dev/v1"

var (
	reID     = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$`)
	reMethod = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)
	// A pattern has a host, and nothing but '*' and '**' has a meaning in it: no
	// classes, no '?', so that it reads the same to everyone.
	rePattern = regexp.MustCompile(`^[A-Za-z0-9.:*-]+(?:/[a-z0-9._*-]+)+$`)
)

// File is the keys file.
type File struct {
	APIVersion string   `yaml:"apiVersion"`
	Keys       []Config `yaml:"keys"`
}

// Config is one key of the keys file: where it is, and what its owner lets it
// serve. Policies can ask for less, never for more.
type Config struct {
	ID string `yaml:"id"`
	// File refers to the PEM of the private key: PKCS#8 plain or encrypted,
	// SEC 1, PKCS#1, the encrypted key file of cosign, or an armored OpenPGP secret
	// key, whose primary key signs.
	File config.Secret `yaml:"file"`
	// PKCS11 names a key in a hardware security module, in place of File.
	PKCS11 PKCS11 `yaml:"pkcs11"`
	// Public refers to the public half of such a key in PEM. Where it or Certificates
	// is there, a module that cannot be reached at the start changes nothing: the key
	// is opened when the module is back. Without, the key is off until a restart.
	Public config.Secret `yaml:"public"`
	// Passphrase is set exactly when the key is encrypted.
	Passphrase config.Secret `yaml:"passphrase"`
	// Certificates refers to the certificate chain in PEM, leaf first. The leaf
	// certifies this key, and each certificate is signed by the next.
	Certificates config.Secret `yaml:"certificates"`
	OpenPGP      OpenPGP       `yaml:"openpgp"`
	Methods      []string      `yaml:"methods"`
	// Allow lists every (project, policy) that the key serves by name. A key in
	// two policies says so itself, by two entries.
	Allow   []Allow `yaml:"allow"`
	Require Require `yaml:"require"`
}

// OpenPGP is what a key needs to sign in OpenPGP.
type OpenPGP struct {
	// Certificate refers to the OpenPGP certificate of the key, armored. It says
	// when the key counts as made, which is in the fingerprint. An OpenPGP secret key
	// brings its own; this one then stands in its place, with a later end.
	Certificate config.Secret `yaml:"certificate"`
}

// Allow is one scope of a key: a signing policy, and the repositories whose
// images the key may sign under it. In a pattern '*' stands for any characters
// but '/', and a last component '**' for everything below.
type Allow struct {
	Project      string   `yaml:"project" json:"project"`
	Policy       string   `yaml:"policy" json:"policy"`
	Repositories []string `yaml:"repositories" json:"repositories"`
}

// Require is what must hold for every use of a key, whatever a policy says.
// The zero value demands nothing beyond Allow.
type Require struct {
	// ProtectedRef demands that the token says that the ref is protected.
	ProtectedRef bool `yaml:"protected_ref" json:"protectedRef,omitempty"`
	// Approvals is the least number of people who approved the request.
	Approvals int `yaml:"approvals" json:"approvals,omitempty"`
	// Events lists the events (event_name, pipeline_source) that may start the run.
	Events []string `yaml:"events" json:"events,omitempty"`
	// Refs lists patterns of refs, of which one must match: "refs/tags/v*".
	Refs []string `yaml:"refs" json:"refs,omitempty"`
	// RunnerEnvironments lists the kinds of runner, "github-hosted".
	RunnerEnvironments []string `yaml:"runner_environments" json:"runnerEnvironments,omitempty"`
	// VerifyRun demands that the forge's API confirms the run, Attestation that
	// the forge holds an attestation of this run for the digest, and
	// BranchApprovals a number of reviews that the branch's protection demands.
	VerifyRun       bool `yaml:"verify_run" json:"verifyRun,omitempty"`
	Attestation     bool `yaml:"attestation" json:"attestation,omitempty"`
	BranchApprovals int  `yaml:"branch_approvals" json:"branchApprovals,omitempty"`
}

// Load decodes a keys file and checks it. The error is a config.Problems with
// every problem of the file; file names it there. No key is read.
func Load(file string, data []byte) ([]Config, error) {
	doc, err := config.Parse(file, data)
	if err != nil {
		return nil, err
	}
	var f File
	if err := doc.Decode(&f); err != nil {
		return nil, err
	}
	problems := doc.Place("keys", Check(f.Keys))
	if f.APIVersion != APIVersion {
		problems = append(problems, doc.Problem("apiVersion", "is %q; write %s", f.APIVersion, APIVersion))
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return f.Keys, nil
}

// Check returns everything that is wrong with the keys as they are configured,
// with paths below the list: "[0].allow[1].policy". It reads neither keys nor
// passphrases.
func Check(keys []Config) config.Problems {
	var c checker
	switch {
	case len(keys) == 0:
		c.Add("", "lists no key; without one nothing can be signed")
	case len(keys) > MaxKeys:
		c.Add("", "lists %d keys; at most %d", len(keys), MaxKeys)
		return c.Problems
	}
	seen := map[string]bool{}
	for i, k := range keys {
		at := config.Index("", i)
		if seen[k.ID] {
			c.Add(at+".id", "%q is the id of an earlier key; each key has an id of its own", k.ID)
		}
		seen[k.ID] = true
		c.key(at, k)
	}
	return c.Problems
}

// checker collects problems.
type checker struct{ config.Problems }

func (c *checker) key(at string, k Config) {
	if !reID.MatchString(k.ID) {
		c.Add(at+".id", "%q is not an id; use 1 to 63 of a-z, 0-9, '.', '_', '-', beginning and ending with a letter or digit", k.ID)
	}
	switch {
	case k.PKCS11 != (PKCS11{}):
		c.pkcs11(at, k)
	case k.File == "":
		c.Add(at+".file", "is missing; name the PEM file of the private key, as in file:/etc/sealwright/release.pem")
	case k.Public != "":
		c.Add(at+".public", "is for keys of pkcs11; a key in a file has its public half there")
	}
	if len(k.Methods) == 0 {
		c.Add(at+".methods", "is missing; list the signing methods that may use the key, as in [cosign]")
	}
	c.list(at+".methods", k.Methods, func(m string) error {
		if !reMethod.MatchString(m) {
			return errors.New("is not the name of a method; as in cosign")
		}
		return nil
	})
	if len(k.Allow) == 0 {
		c.Add(at+".allow", "is missing; list each {project, policy, repositories} that the key may serve")
	}
	if len(k.Allow) > MaxAllow {
		c.Add(at+".allow", "has %d entries; at most %d", len(k.Allow), MaxAllow)
		return
	}
	scopes := map[[2]string]bool{}
	for i, a := range k.Allow {
		at := config.Index(at+".allow", i)
		c.allow(at, a)
		scope := [2]string{a.Project, a.Policy}
		if scopes[scope] {
			c.Add(at, "policy %s of project %s is in an earlier entry; put its repositories there", a.Policy, a.Project)
		}
		scopes[scope] = true
	}
	c.require(at+".require", k.Require)
}

func (c *checker) allow(at string, a Allow) {
	for _, n := range [...]struct{ path, name string }{{"project", a.Project}, {"policy", a.Policy}} {
		switch {
		case n.name == "":
			c.Add(at+"."+n.path, "is missing")
		case strings.ContainsAny(n.name, "*?[{"):
			// A pattern here would let a policy that nobody has written yet use
			// the key: the owner of the key names each.
			c.Add(at+"."+n.path, "%q is a pattern; name each %s in an entry of its own, so that a key in two policies says so itself", n.name, n.path)
		}
	}
	if len(a.Repositories) == 0 {
		c.Add(at+".repositories", "is missing; list the repositories whose images the key may sign, as in [\"registry.acme.dev/payments/*\"]")
	}
	c.list(at+".repositories", a.Repositories, checkPattern)
}

func (c *checker) require(at string, r Require) {
	if r.Approvals < 0 {
		c.Add(at+".approvals", "is %d; a number of people is meant", r.Approvals)
	}
	if r.BranchApprovals < 0 {
		c.Add(at+".branch_approvals", "is %d; a number of reviews is meant", r.BranchApprovals)
	}
	notEmpty := func(s string) error {
		if s == "" {
			return errors.New("is empty")
		}
		return nil
	}
	c.list(at+".events", r.Events, notEmpty)
	c.list(at+".runner_environments", r.RunnerEnvironments, notEmpty)
	c.list(at+".refs", r.Refs, func(s string) error {
		if !strings.HasPrefix(s, "refs/") {
			return errors.New("does not begin with refs/; write refs/heads/main or refs/tags/v*")
		}
		return nil
	})
}

// list checks the entries of a list one by one, and that none is there twice.
func (c *checker) list(at string, list []string, check func(string) error) {
	if len(list) > MaxAllow {
		c.Add(at, "has %d entries; at most %d", len(list), MaxAllow)
		return
	}
	for i, s := range list {
		if err := check(s); err != nil {
			c.Add(config.Index(at, i), "%q %v", s, err)
		} else if slices.Contains(list[:i], s) {
			c.Add(config.Index(at, i), "%q is there twice", s)
		}
	}
}

func checkPattern(p string) error {
	host, rest, _ := strings.Cut(p, "/")
	switch {
	case !rePattern.MatchString(p):
		return errors.New("is not a pattern of repositories; write HOST/PATH with '*' for any characters but '/', or /** at the end")
	case strings.Contains(host, "*"):
		return errors.New("has a pattern for the registry's host; write each host out")
	case strings.Contains(strings.TrimSuffix(rest, "**"), "**"), strings.HasSuffix(rest, "**") && rest != "**" && !strings.HasSuffix(rest, "/**"):
		return errors.New("has '**' elsewhere than as its last component")
	}
	return nil
}

// Wanted is one line of the `sign` list of a policy: who wants a key for what.
type Wanted struct{ Project, Policy, Method, Key string }

// CheckWanted returns what the policies want and the keys file does not grant:
// a key that is not there, a method or a policy that the key's entry does not
// name. It is the half of `config check` that holds policies against keys.
func CheckWanted(keys []Config, wanted []Wanted) config.Problems {
	var ps config.Problems
	for _, w := range wanted {
		i := slices.IndexFunc(keys, func(k Config) bool { return k.ID == w.Key })
		if i < 0 {
			ps.Add("", "there is no key %q, which policy %s of project %s signs with", w.Key, w.Policy, w.Project)
			continue
		}
		if !slices.Contains(keys[i].Methods, w.Method) {
			ps.Add(config.Index("", i)+".methods", "does not name %s, for which policy %s of project %s uses key %s", w.Method, w.Policy, w.Project, w.Key)
		}
		if keys[i].scope(w.Project, w.Policy) == nil {
			ps.Add(config.Index("", i)+".allow", "does not name policy %s of project %s, which signs with key %s", w.Policy, w.Project, w.Key)
		}
	}
	return ps
}

// scope returns the entry for a policy, nil if the key does not serve it.
func (k Config) scope(project, policy string) *Allow {
	i := slices.IndexFunc(k.Allow, func(a Allow) bool { return a.Project == project && a.Policy == policy })
	if i < 0 {
		return nil
	}
	return &k.Allow[i]
}
