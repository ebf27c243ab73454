package gitlab

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxFile bounds a file that is read: configurations and policies of people.
	maxFile = 1 << 20
	// maxEntries bounds a directory that is listed.
	maxEntries = 10_000

	policyDirectory, policyName = ".sealwright", "policy.yml"
)

// file reads a file at a commit, with git's id of its content, which is computed
// and compared.
func (b *build) file(ctx context.Context, name, commit string) ([]byte, string, error) {
	if err := b.sha(commit); err != nil {
		return nil, "", err
	}
	var f struct {
		Path     string `json:"file_path"`
		Size     int    `json:"size"`
		Encoding string `json:"encoding"`
		Content  string `json:"content"`
		Blob     string `json:"blob_id"`
	}
	if err := b.ask(ctx, &f, query("ref", commit), "read_api, as reporter of the project", "repository", "files", name); err != nil {
		return nil, "", err
	}
	text, err := base64.StdEncoding.DecodeString(f.Content)
	if f.Path != name || f.Encoding != "base64" || err != nil {
		return nil, "", ask.Garbled("GET /repository/files", "not the file that was asked for")
	}
	if len(text) > maxFile {
		return nil, "", &signing.Error{Code: signing.TooLarge, Message: "the file " + ask.Clip(name) + " is larger than this service reads", Expected: fmt.Sprintf("at most %d bytes", maxFile)}
	}
	if len(f.Blob) == 40 {
		sum := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(text)), text...))
		if hex.EncodeToString(sum[:]) != f.Blob {
			return nil, "", ask.Garbled("GET /repository/files", "content that is not the blob that it names")
		}
	}
	return text, f.Blob, nil
}

// config returns the path of the CI configuration, which has to be in the project.
// The token names it where it is; the project's setting may have changed since.
func (b *build) config(ctx context.Context) (string, error) {
	elsewhere := func(found string) error {
		return &signing.Error{Code: signing.Invalid, Message: "the CI configuration is in another place than the project", Expected: "a file of the project", Found: strconv.Quote(ask.Clip(found)), Fix: "keep the configuration in the project"}
	}
	if uri := b.o.BuildConfigURI; uri != "" {
		rest, ours := strings.CutPrefix(strings.ToLower(uri), strings.ToLower("https://"+b.host+"/"+b.o.SourceRepository+"//"))
		at := strings.LastIndex(rest, "@"+strings.ToLower(b.o.SourceRepositoryRef))
		if !ours || b.o.SourceRepository == "" || at <= 0 || at+1+len(b.o.SourceRepositoryRef) != len(rest) {
			return "", elsewhere(uri)
		}
		return uri[len(uri)-len(rest):][:at], nil
	}
	var p struct {
		Config string `json:"ci_config_path"`
	}
	if err := b.ask(ctx, &p, nil, "read_api, as reporter of the project"); err != nil {
		return "", err
	}
	switch {
	case p.Config == "":
		return ".gitlab-ci.yml", nil
	case strings.Contains(p.Config, "@"), strings.Contains(p.Config, "://"):
		return "", elsewhere(p.Config)
	}
	return p.Config, nil
}

// workflowFiles asks for the blob of the CI configuration. The file that defines
// the job is the same, unless a policy of a group defines it, whose file is not
// the project's: its blob stays empty.
func (b *build) workflowFiles(ctx context.Context) error {
	commit := b.o.BuildConfigDigest
	if commit == "" {
		commit = b.o.SourceRepositoryDigest
	}
	if b.sha(commit) != nil {
		return ask.Lacks("the commit of its configuration")
	}
	where, err := b.config(ctx)
	if err != nil {
		return err
	}
	_, blob, err := b.file(ctx, where, commit)
	if err != nil {
		return err
	}
	f := &signing.WorkflowFileFacts{Config: signing.BlobFact{Path: where, Commit: commit, Blob: blob}}
	f.Signer = f.Config
	if b.o.BuildSignerURI != "" && b.o.BuildSignerURI != b.o.BuildConfigURI {
		f.Signer = signing.BlobFact{Path: b.o.BuildSignerURI, Commit: b.o.BuildSignerDigest}
	}
	b.facts.Workflow = f
	return nil
}

// entry is one entry of a directory.
type entry struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	Type string `json:"type"`
	Mode string `json:"mode"`
}

func (b *build) directory(ctx context.Context, commit, at string) ([]entry, error) {
	q := query("ref", commit)
	if at != "" {
		q["path"] = []string{at}
	}
	return list[entry](ctx, b.Client, b.at.token, b.below("repository", "tree"), q, maxEntries, "read_api, as reporter of the project")
}

// PolicyFile implements forge.Origin. The commits of a merge request are read in
// the project that it is for, which has those of forks as well.
func (c *Client) PolicyFile(ctx context.Context, r forge.Repository, commit string) (*signing.PolicyFileFacts, error) {
	if commit != "" {
		if err := c.sha(commit); err != nil {
			return nil, err
		}
	}
	at, err := c.place(ctx, r)
	if err != nil {
		return nil, err
	}
	b := &build{Client: c, at: at}
	return ask.PolicyFile(ctx, commit, b.defaultHead, b.readPolicy)
}

// policyFile reads the repository's own policy at the head of the default branch.
func (b *build) policyFile(ctx context.Context) (err error) {
	b.facts.PolicyFile, err = ask.PolicyFile(ctx, "", b.defaultHead, b.readPolicy)
	return err
}

// defaultHead returns the default branch and its head.
func (b *build) defaultHead(ctx context.Context) (*signing.PolicyFileFacts, error) {
	branch := b.at.branch
	if branch == "" {
		return nil, &signing.Error{Code: signing.NotFound, Message: "the project has no default branch"}
	}
	var head struct {
		Name   string `json:"name"`
		Commit commit `json:"commit"`
	}
	if err := b.ask(ctx, &head, nil, "read_api, as reporter of the project", "repository", "branches", branch); err != nil {
		return nil, err
	}
	if head.Name != branch || b.sha(head.Commit.ID) != nil {
		return nil, ask.Garbled("GET /repository/branches", "another branch than the one that was asked for")
	}
	return &signing.PolicyFileFacts{Branch: branch, Commit: head.Commit.ID}, nil
}

// readPolicy completes f from its commit. The policy is absent only where the tree
// was listed and it is not there.
func (b *build) readPolicy(ctx context.Context, f *signing.PolicyFileFacts) error {
	root, err := b.directory(ctx, f.Commit, "")
	if err != nil {
		return err
	}
	if len(root) == 0 {
		return ask.Garbled("GET /repository/tree", "an empty tree")
	}
	if !slices.ContainsFunc(root, func(e entry) bool { return e.Name == policyDirectory }) {
		return nil
	}
	below, err := b.directory(ctx, f.Commit, policyDirectory)
	if err != nil {
		return err
	}
	blob := ""
	for _, e := range below {
		if e.Name == policyName {
			if e.Type != "blob" || !strings.HasPrefix(e.Mode, "100") {
				return &signing.Error{Code: signing.Invalid, Message: policyDirectory + "/" + policyName + " is no plain file", Expected: "a file of its own, no link", Found: ask.Clip(e.Type + " " + e.Mode)}
			}
			blob = e.ID
		}
	}
	if blob == "" {
		return nil
	}
	text, id, err := b.file(ctx, policyDirectory+"/"+policyName, f.Commit)
	if err != nil {
		return err
	}
	if id != blob {
		return ask.Garbled("GET /repository/files", "another blob than the one that the tree lists")
	}
	f.Exists, f.Text, f.Digest = true, text, signing.DigestOf(text)
	return nil
}

// builder asks for the id of the project that a name has now.
func (b *build) builder(ctx context.Context) error {
	name := b.q.BuilderRepository
	if name == signing.BuilderOfJob {
		uri := b.o.BuildSignerURI
		if uri == "" {
			uri = b.o.BuildConfigURI
		}
		rest, ours := strings.CutPrefix(uri, "https://"+b.host+"/")
		var cut bool
		if name, _, cut = strings.Cut(rest, "//"); !ours || !cut {
			return ask.Lacks("the file that defines its job")
		}
	}
	var p struct {
		ID   int64  `json:"id"`
		Path string `json:"path_with_namespace"`
	}
	if strings.Trim(name, "/0123456789") == "" {
		return &signing.Error{Code: signing.Invalid, Message: "not the path of a project", Found: strconv.Quote(ask.Clip(name))}
	}
	if _, err := b.get(ctx, b.at.token, ask.Path("projects", name), nil, &p, "read_api, as a member of "+ask.Clip(name)); err != nil {
		return err
	}
	if p.ID <= 0 || !strings.EqualFold(p.Path, name) {
		return &signing.Error{Code: signing.NotFound, Message: "another project answers to this name", Expected: strconv.Quote(ask.Clip(name)), Found: strconv.Quote(ask.Clip(p.Path))}
	}
	b.facts.Builder = &signing.BuilderFacts{Repository: p.Path, ID: strconv.FormatInt(p.ID, 10)}
	return nil
}
