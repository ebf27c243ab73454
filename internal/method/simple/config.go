package simple

import (
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// The types of places.
const (
	TypeOwn       = "own"
	TypeFolder    = "folder"
	TypeWeb       = "http"
	TypeS3        = "s3"
	TypeOpenShift = "openshift"
)

// MaxRows bounds the list: an organisation has some registries, with some
// namespaces each.
const MaxRows = 256

// Config is one row of `lookasides`: where the simple signatures of a part of the
// repositories go. The row with the longest prefix counts; what no row is for goes
// to the service's own lookaside.
type Config struct {
	// Prefix is a registry host, or a host and the first components of a path.
	Prefix string `yaml:"prefix"`
	Type   string `yaml:"type"` // own, folder, http, s3 or openshift
	// URL is where http and s3 write: below it the path of the repository begins. That
	// of s3 has no path: see Bucket and Path.
	URL string `yaml:"url"`
	// ReadURL is where verifiers read, without credentials: the lookaside of
	// registries.d. Without it, http is read at URL; s3 needs it.
	ReadURL string `yaml:"read_url"`
	Folder  string `yaml:"folder"`
	// SingleWriter says that nothing but this service writes to an http server, which
	// then need not understand If-None-Match.
	SingleWriter bool   `yaml:"single_writer"`
	Bucket       string `yaml:"bucket"`
	Region       string `yaml:"region"`
	Path         string `yaml:"path"` // in the bucket
	// Username and Password are sent to URL only: of an http server, or the access
	// key and its secret of a bucket. Token is an http server's in their place.
	Username config.Secret `yaml:"username"`
	Password config.Secret `yaml:"password"`
	Token    config.Secret `yaml:"token"`
	// CAFile replaces the system's roots for URL and ReadURL.
	CAFile string `yaml:"ca_file"`
	// InsecureHTTP speaks plain http, to loopback hosts only.
	InsecureHTTP bool `yaml:"insecure_http"`
}

var (
	rePrefix = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*$`)
	reBucket = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	reRegion = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
	rePath   = regexp.MustCompile(`^[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*$`)
)

// Check returns every problem of the rows that can be seen without using them.
// Paths are relative to the rows: "[0].prefix".
func Check(rows []Config) config.Problems {
	var ps config.Problems
	if len(rows) > MaxRows {
		ps.Add("", "has %d rows; at most %d", len(rows), MaxRows)
		return ps
	}
	prefixes, places := map[string]int{}, map[string]int{}
	for i, r := range rows {
		at := func(key string) string { return config.Key(config.Index("", i), key) }
		if !rePrefix.MatchString(r.Prefix) {
			ps.Add(at("prefix"), "must be a registry host, or a host and the beginning of a path, as in registry.acme.dev/payments")
		} else if j, ok := prefixes[strings.ToLower(r.Prefix)]; ok {
			ps.Add(at("prefix"), "%s has a row already, number %d", r.Prefix, j+1)
		}
		prefixes[strings.ToLower(r.Prefix)] = i
		r.check(at, &ps)
		// Below the base there is no host: two registries in one place would mix.
		where := strings.Join([]string{r.Type, slashless(r.URL), r.Folder, r.Bucket, r.Path}, " ")
		if j, ok := places[where]; ok && r.Type != TypeOwn && r.Type != TypeOpenShift && !strings.EqualFold(host(rows[j].Prefix), host(r.Prefix)) {
			ps.Add(at("prefix"), "row %d writes to the same place for another registry; give each registry its own path", j+1)
		}
		places[where] = i
	}
	return ps
}

func host(prefix string) string { h, _, _ := strings.Cut(prefix, "/"); return h }

// words says which settings each type has, and which of them it needs.
func words() map[string]struct{ has, needs []string } {
	return map[string]struct{ has, needs []string }{
		TypeOwn:       {},
		TypeFolder:    {has: []string{"folder", "read_url"}, needs: []string{"folder"}},
		TypeWeb:       {has: []string{"url", "read_url", "single_writer", "username", "password", "token", "ca_file", "insecure_http"}, needs: []string{"url"}},
		TypeS3:        {has: []string{"url", "read_url", "bucket", "region", "path", "username", "password", "ca_file", "insecure_http"}, needs: []string{"url", "read_url", "bucket", "username", "password"}},
		TypeOpenShift: {},
	}
}

func (r Config) check(at func(string) string, ps *config.Problems) {
	kind, ok := words()[r.Type]
	if !ok {
		ps.Add(at("type"), "is %q; write own, folder, http, s3 or openshift", r.Type)
		return
	}
	set := map[string]bool{
		"url": r.URL != "", "read_url": r.ReadURL != "", "folder": r.Folder != "", "single_writer": r.SingleWriter, "bucket": r.Bucket != "", "region": r.Region != "", "path": r.Path != "",
		"username": r.Username != "", "password": r.Password != "", "token": r.Token != "", "ca_file": r.CAFile != "", "insecure_http": r.InsecureHTTP,
	}
	for _, w := range slices.Sorted(maps.Keys(set)) {
		if set[w] && !slices.Contains(kind.has, w) {
			ps.Add(at(w), "has no meaning for the type %s", r.Type)
		}
		if !set[w] && slices.Contains(kind.needs, w) {
			ps.Add(at(w), "is missing for the type %s", r.Type)
		}
	}
	if (r.Username == "") != (r.Password == "") && r.Type == TypeWeb {
		ps.Add(at("username"), "username and password come together")
	}
	if r.Token != "" && r.Username != "" {
		ps.Add(at("token"), "is there beside username and password; keep one")
	}
	for key, v := range map[string]string{"url": r.URL, "read_url": r.ReadURL} {
		if v == "" {
			continue
		}
		u, err := url.Parse(v)
		switch {
		case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
			ps.Add(at(key), "must be an https URL without credentials, query and fragment")
		case u.Scheme == "http" && !(outbound.IsLoopback(u.Hostname()) && (r.InsecureHTTP || r.Type == TypeFolder)):
			ps.Add(at(key), "plain http is for loopback hosts only, with insecure_http")
		case key == "url" && r.Type == TypeS3 && strings.Trim(u.Path, "/") != "":
			ps.Add(at(key), "is the endpoint alone; write bucket and path beside it")
		}
	}
	for key, p := range map[string]string{"folder": r.Folder, "ca_file": r.CAFile} {
		if p != "" && !filepath.IsAbs(p) {
			ps.Add(at(key), "must be an absolute path")
		}
	}
	for key, c := range map[string]struct {
		v  string
		re *regexp.Regexp
	}{"bucket": {r.Bucket, reBucket}, "region": {r.Region, reRegion}, "path": {r.Path, rePath}} {
		if c.v != "" && !c.re.MatchString(c.v) || key == "path" && strings.Contains("/"+c.v+"/", "/../") {
			ps.Add(at(key), "is not the name of one")
		}
	}
}

// covers reports whether a prefix is that of a repository, by whole components.
func covers(prefix string, repository signing.Repository) bool {
	rest, ok := strings.CutPrefix(string(repository), prefix)
	if h := host(prefix); !ok && strings.EqualFold(h, repository.Host()) {
		rest, ok = strings.CutPrefix(repository.Host()+"/"+repository.Path(), repository.Host()+prefix[len(h):])
	}
	return ok && (rest == "" || rest[0] == '/')
}
