package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
)

const dctUsage = `Look at what is signed in Docker Content Trust (Notary v1).

Usage:
  sealwright dct export [flags] GUN...   verify it, and write it as JSON

GUN is the name of a repository with its registry, as in registry.acme.dev/payments/web
or docker.io/acme/web.
`

const dctExportUsage = `Verify what is signed in Docker Content Trust, from the root that you name, and write
tag, digest, size, role, signers and expiry as JSON. "sealwright sign --digests-file"
reads it. Tags are those that docker would pull: of targets/releases, else of targets.

Usage:
  sealwright dct export [flags] GUN...

Flags:
  --notary URL           the notary server (default: DOCKER_CONTENT_TRUST_SERVER, else
                         that of Docker Hub, else https:// and the registry's host)
  --root-key-id ID       trust roots with this key; may be repeated
  --root-ca FILE         trust roots whose certificate is of this authority (PEM)
  --trust-on-first-use   trust the root that is there, and print its key ids: compare
                         them with what the owner of the repository says
  --output FILE          write to a file instead of the output
  --docker-config FILE   credentials, as docker login keeps them
                         (default: the one of docker, if it is there)
  --token-realm HOST     a token service that may get them, besides the server itself
  --ca-file FILE         PEM file with the CAs of the notary server

Exit codes: 0 everything was verified, 1 error, 2 usage, 5 something was not.
`

const (
	hubNotary = "https://notary.docker.io"
	// exportTimeout bounds one repository: some documents of at most 32 MB together.
	exportTimeout = 2 * time.Minute
)

// runDCT dispatches the commands about Docker Content Trust.
func runDCT(args []string, s streams) int {
	if len(args) == 0 || args[0] != "export" {
		if len(args) > 0 && slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
			fmt.Fprint(s.out, dctUsage)
			return exitOK
		}
		return misused(s, "what to do is missing: export", dctUsage)
	}
	return runExport(args[1:], s)
}

// many is a flag that may be repeated.
type many []string

func (m *many) String() string     { return strings.Join(*m, ",") }
func (m *many) Set(v string) error { *m = append(*m, submit.Split(v)...); return nil }

// exporter are the flags of dct export.
type exporter struct {
	notary, rootCA, output, dockerConfig, caFile *string
	rootKeys, realms                             many
	firstUse                                     *bool
	now                                          func() time.Time
}

func runExport(args []string, s streams) int {
	fs := flag.NewFlagSet("export", flag.ContinueOnError)
	x := exporter{
		notary: fs.String("notary", os.Getenv("DOCKER_CONTENT_TRUST_SERVER"), ""), rootCA: fs.String("root-ca", "", ""), output: fs.String("output", "", ""),
		dockerConfig: fs.String("docker-config", "", ""), caFile: fs.String("ca-file", "", ""), firstUse: fs.Bool("trust-on-first-use", false, ""), now: time.Now,
	}
	fs.Var(&x.rootKeys, "root-key-id", "")
	fs.Var(&x.realms, "token-realm", "")
	guns, code, done := parse(fs, args, dctExportUsage, s)
	if done {
		return code
	}
	ways := 0
	for _, given := range []bool{len(x.rootKeys) > 0, *x.rootCA != "", *x.firstUse} {
		if given {
			ways++
		}
	}
	switch {
	case len(guns) == 0:
		return misused(s, "at least one repository is needed, as in registry.acme.dev/payments/web", dctExportUsage)
	case len(guns) > submit.MaxExported:
		return misused(s, fmt.Sprintf("at most %d repositories at once", submit.MaxExported), dctExportUsage)
	case ways != 1:
		return misused(s, "say what to trust, in one way: --root-key-id, --root-ca or --trust-on-first-use", dctExportUsage)
	}
	out := submit.Export{Format: submit.ExportFormat, Made: x.now().UTC().Truncate(time.Second)}
	for _, gun := range guns {
		r, err := x.export(signing.Repository(gun), s.err)
		if err != nil {
			explain(s.err, "exporting "+gun, err)
			return refusedExport(err)
		}
		out.Repositories = append(out.Repositories, r)
	}
	if err := x.write(out, s.out); err != nil {
		explain(s.err, "writing the export", err)
		return exitError
	}
	return exitOK
}

// refusedExport is the exit code for a repository that was not exported.
func refusedExport(err error) int {
	switch signing.CodeOf(err) {
	case signing.Denied:
		return exitVerified
	case signing.Invalid:
		return exitUsage
	}
	return exitError
}

// write writes the export where it is wanted, all or nothing.
func (x exporter) write(e submit.Export, to io.Writer) error {
	var b bytes.Buffer
	if err := e.Write(&b); err != nil {
		return err
	}
	// What is written is what is read: a mistake is seen here and not by who signs it.
	if _, err := submit.ReadList(b.Bytes(), false); err != nil {
		return err
	}
	if *x.output == "" {
		_, err := to.Write(b.Bytes())
		return err
	}
	return os.WriteFile(*x.output, b.Bytes(), 0o644)
}

// row is the configuration of the client for one repository.
func (x exporter) row(gun signing.Repository) (dct.Config, error) {
	if err := gun.Validate(); err != nil {
		return dct.Config{}, err
	}
	host, _, _ := strings.Cut(string(gun), "/")
	url := "https://" + host
	if host == "docker.io" {
		url = hubNotary
	}
	c := dct.Config{URL: strings.TrimSuffix(cmp.Or(*x.notary, url), "/"), Repositories: []string{host}, TrustOnFirstUse: *x.firstUse, Connection: registry.Connection{TokenRealm: x.realms}}
	pin := dct.Pin{Repository: host, RootKeys: x.rootKeys}
	for file, to := range map[*string]*string{x.caFile: &c.CAFile, x.rootCA: &pin.CAFile, x.dockerConfig: &c.DockerConfig} {
		if *file == "" {
			continue
		}
		full, err := filepath.Abs(*file)
		if err != nil {
			return dct.Config{}, err
		}
		*to = full
	}
	if !*x.firstUse {
		c.Pins = []dct.Pin{pin}
	}
	if c.DockerConfig == "" {
		c.DockerConfig = dockerLogin()
	}
	return c, nil
}

// dockerLogin is where docker login keeps credentials, "" if there is no such file.
func dockerLogin() string {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(home, ".docker")
	}
	file, err := filepath.Abs(filepath.Join(dir, "config.json"))
	if err != nil {
		return ""
	}
	if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return file
}

// export verifies one repository. What docker would not believe is said, and left out.
func (x exporter) export(gun signing.Repository, warnings io.Writer) (submit.ExportedRepository, error) {
	row, err := x.row(gun)
	if err != nil {
		return submit.ExportedRepository{}, err
	}
	client, err := dct.Open([]dct.Config{row}, dct.Options{Memory: dct.NewMemory(), Now: x.now})
	if err != nil {
		var problems config.Problems
		if errors.As(err, &problems) {
			err = &signing.Error{Code: signing.Invalid, Message: "the flags do not describe a notary server", Expected: "an https address, and root keys of 64 hex digits", Found: problems.Error(), Fix: "correct them"}
		}
		return submit.ExportedRepository{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), exportTimeout)
	defer cancel()
	state, err := client.Fetch(ctx, gun)
	if err != nil {
		return submit.ExportedRepository{}, err
	}
	out := exported(state, row.URL)
	if state.Root.Trusted == dct.ByFirstUse {
		fmt.Fprintf(warnings, "sealwright: %s: trusted on first use, root key %s: compare it with what its owner says\n", gun, strings.Join(out.RootKeys, ", "))
	}
	for _, r := range state.Roles {
		if r.Err != nil {
			fmt.Fprintf(warnings, "sealwright: %s: role %s is not to be believed, and left out: %v\n", gun, printable(r.Name), r.Err)
		}
		lost := 0
		for _, t := range r.Targets {
			if _, ok := state.Lookup(t.Tag); !ok {
				lost++
			}
		}
		if lost > 0 {
			fmt.Fprintf(warnings, "sealwright: %s: %d tags of %s are in no role that docker pulls by, and left out\n", gun, lost, printable(r.Name))
		}
	}
	return out, nil
}

// exported is what the verified state says, in the form of an export.
func exported(state *dct.State, server string) submit.ExportedRepository {
	out := submit.ExportedRepository{Repository: string(state.Repository), Server: server, RootKeys: keyIDs(state.Root.Keys), Trusted: string(state.Root.Trusted), Roles: []submit.ExportedRole{}, Tags: []submit.ExportedTag{}}
	role := func(name string, d dct.Document) {
		out.Roles = append(out.Roles, submit.ExportedRole{Name: name, Version: d.Version, Expires: d.Expires.UTC(), Keys: keyIDs(d.Keys)})
	}
	role("root", state.Root.Document)
	role("snapshot", state.Snapshot)
	role("timestamp", state.Timestamp)
	seen := map[string]bool{}
	for _, r := range state.Roles {
		role(r.Name, r.Document)
	}
	for _, name := range []string{dct.RoleReleases, dct.RoleTargets} {
		r, ok := state.Role(name)
		if !ok || r.Err != nil {
			continue
		}
		for _, t := range r.Targets {
			if seen[t.Tag] {
				continue
			}
			seen[t.Tag] = true
			out.Tags = append(out.Tags, submit.ExportedTag{Tag: t.Tag, Digest: string(t.Digest), Size: t.Size, Role: name, Signers: signersOf(state, t), SignedBy: keyIDs(r.SignedBy), Expires: r.Expires.UTC()})
		}
	}
	return out
}

// signersOf names the delegations that bind the tag to the same digest, as `docker
// trust inspect` shows signers.
func signersOf(state *dct.State, t dct.Target) []string {
	out := []string{}
	for _, r := range state.Roles {
		if same, ok := r.Target(t.Tag); ok && r.Err == nil && same.Digest == t.Digest && r.Name != dct.RoleReleases && r.Name != dct.RoleTargets {
			out = append(out, strings.TrimPrefix(r.Name, dct.RoleTargets+"/"))
		}
	}
	return out
}

func keyIDs(keys []dct.Key) []string {
	out := []string{}
	for _, k := range keys {
		out = append(out, k.ID)
	}
	return out
}
