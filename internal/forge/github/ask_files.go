package github

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-github/v60/github"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/forge/ask"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxFile bounds a workflow or policy file. GitHub takes 512 KiB of a workflow.
	maxFile = config.MaxDocument
	// maxSegments bounds the path of a file, each a request.
	maxSegments = 20
	// policyPath is where a repository's own policy is.
	policyPath = ".sealwright/policy.yml"
)

// errAbsent says that a tree was listed whole and does not have the file. It is
// no *signing.Error: nobody may take a failure for it.
var errAbsent = errors.New("not in the tree")

// file is a file at a commit, and who may read it where.
type file struct {
	signing.BlobFact
	client      *github.Client
	owner, name string
}

// treeEntry is an entry of a git tree.
type treeEntry struct {
	Path string `json:"path"`
	Mode string `json:"mode"`
	Type string `json:"type"`
	SHA  string `json:"sha"`
}

// workflowFiles asks for the blobs of the files that define the build.
func (b *build) workflowFiles(ctx context.Context) error {
	caller, err := b.workflow(ctx, b.o.BuildConfigURI, b.o.BuildConfigDigest)
	if err != nil {
		return err
	}
	signer := caller
	if b.o.BuildSignerURI != b.o.BuildConfigURI || b.o.BuildSignerDigest != b.o.BuildConfigDigest {
		if signer, err = b.workflow(ctx, b.o.BuildSignerURI, b.o.BuildSignerDigest); err != nil {
			return err
		}
	}
	b.facts.Workflow = &signing.WorkflowFileFacts{Config: caller.BlobFact, Signer: signer.BlobFact}
	return nil
}

// workflow finds a workflow file, URI@ref, at a commit.
func (b *build) workflow(ctx context.Context, uri, commit string) (f file, err error) {
	rest, ok := strings.CutPrefix(uri, "https://"+b.host+"/")
	rest, _, _ = strings.Cut(rest, "@")
	parts := strings.SplitN(rest, "/", 3)
	if !ok || len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" || !ask.IsCommit(commit) {
		return file{}, ask.Lacks("a workflow file and its commit")
	}
	f = file{BlobFact: signing.BlobFact{Path: parts[2], Commit: commit}, owner: parts[0], name: parts[1]}
	if f.client, err = b.named(ctx, f.owner, f.name); err != nil {
		return file{}, err
	}
	f.Blob, err = b.blob(ctx, f.client, f.owner, f.name, commit, f.Path)
	if errors.Is(err, errAbsent) {
		err = &signing.Error{Code: signing.NotFound, Message: "there is no file " + ask.Clip(rest) + " in commit " + commit}
	}
	return f, err
}

// blob returns the object id of the file at path in a commit. It lists one tree
// after the other; errAbsent is returned only where the last one was listed whole.
// What is no file, a symbolic link or a submodule on the way, is an error: git
// and the forge would not read the same.
func (b *build) blob(ctx context.Context, g *github.Client, owner, name, commit, file string) (string, error) {
	segments := strings.Split(file, "/")
	if len(segments) > maxSegments {
		return "", &signing.Error{Code: signing.Invalid, Message: "the path has too many parts", Found: ask.Clip(file)}
	}
	tree := commit
	for i, s := range segments {
		var t struct {
			Tree      []treeEntry `json:"tree"`
			Truncated *bool       `json:"truncated"`
		}
		if err := b.get(ctx, g, ask.Path("repos", owner, name, "git", "trees", tree), nil, &t, "contents: read"); err != nil {
			return "", err
		}
		if t.Truncated == nil || t.Tree == nil {
			return "", ask.Garbled("the tree of commit "+commit, "it is no list")
		}
		at := slices.IndexFunc(t.Tree, func(e treeEntry) bool { return e.Path == s })
		switch {
		case at < 0 && *t.Truncated:
			return "", &signing.Error{Code: signing.TooLarge, Message: "the tree of commit " + commit + " is too large for GitHub to list, so that nobody can say what is not in it"}
		case at < 0:
			return "", errAbsent
		}
		e := t.Tree[at]
		last := i == len(segments)-1
		switch {
		case !ask.IsCommit(e.SHA):
			return "", ask.Garbled("the tree of commit "+commit, "an entry has no id")
		case !last && e.Type == "tree":
			tree = e.SHA
		case last && e.Type == "blob" && (e.Mode == "100644" || e.Mode == "100755"):
			return e.SHA, nil
		default:
			return "", &signing.Error{Code: signing.Invalid, Message: strings.Join(segments[:i+1], "/") + " in commit " + commit + " is not what it has to be", Expected: "a file in directories", Found: modes(e.Mode), Fix: "replace it by a file; links and submodules are not followed"}
		}
	}
	return "", errAbsent
}

func modes(mode string) string {
	switch mode {
	case "120000":
		return "a symbolic link"
	case "160000":
		return "a submodule"
	case "040000":
		return "a directory"
	case "100644", "100755":
		return "a file"
	}
	return "mode " + ask.Clip(mode)
}

// content reads a blob and holds it against its id.
func (b *build) content(ctx context.Context, g *github.Client, owner, name, id string) ([]byte, error) {
	var v struct {
		Content  string `json:"content"`
		Encoding string `json:"encoding"`
		Size     int64  `json:"size"`
	}
	if err := b.get(ctx, g, ask.Path("repos", owner, name, "git", "blobs", id), nil, &v, "contents: read"); err != nil {
		return nil, err
	}
	if v.Size > maxFile {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the file is larger than this service reads", Expected: fmt.Sprintf("at most %d bytes", maxFile), Found: fmt.Sprintf("%d bytes", v.Size)}
	}
	text, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(v.Content, "\n", ""))
	if err != nil || v.Encoding != "base64" {
		return nil, ask.Garbled("blob "+id, "it is not in base64")
	}
	h := sha1.New()
	if len(id) == 64 {
		h = sha256.New()
	}
	fmt.Fprintf(h, "blob %d\x00", len(text))
	h.Write(text)
	if hex.EncodeToString(h.Sum(nil)) != id {
		return nil, ask.Garbled("blob "+id, "it is other content")
	}
	return text, nil
}

// PolicyFile implements forge.Origin. Commits of forks are read as well: GitHub
// keeps them with those of the repository that they were forked from.
func (c *Client) PolicyFile(ctx context.Context, r forge.Repository, commit string) (*signing.PolicyFileFacts, error) {
	if commit != "" && !ask.IsCommit(commit) {
		return nil, &signing.Error{Code: signing.Invalid, Message: "not the id of a commit", Found: strconv.Quote(ask.Clip(commit))}
	}
	at, err := c.place(ctx, r)
	if err != nil {
		return nil, err
	}
	b := &build{Client: c, at: at, o: signing.Origin{Forge: c.host, SourceRepositoryIdentifier: r.ID, SourceRepository: r.Name}}
	f, err := ask.PolicyFile(ctx, commit, b.defaultHead, b.readPolicy)
	if err != nil {
		return nil, err
	}
	if err := b.stillNamed(ctx); err != nil {
		return nil, err
	}
	return f, nil
}

// policyFile asks for the repository's own policy on its default branch.
func (b *build) policyFile(ctx context.Context) (err error) {
	b.facts.PolicyFile, err = ask.PolicyFile(ctx, "", b.defaultHead, b.readPolicy)
	return err
}

// defaultHead returns the default branch and its head.
func (b *build) defaultHead(ctx context.Context) (*signing.PolicyFileFacts, error) {
	ref := "refs/heads/" + b.at.branch
	var r struct {
		Ref    string    `json:"ref"`
		Object gitObject `json:"object"`
	}
	if err := b.get(ctx, b.at.client, ask.Path("repos", b.at.owner, b.at.name, "git", "ref", "heads")+"/"+ask.Path(strings.Split(b.at.branch, "/")...), nil, &r, "contents: read"); err != nil {
		return nil, err
	}
	if r.Ref != ref || r.Object.Type != "commit" || !ask.IsCommit(r.Object.SHA) {
		return nil, ask.Garbled("the default branch", "it is another ref")
	}
	return &signing.PolicyFileFacts{Branch: b.at.branch, Commit: r.Object.SHA}, nil
}

// readPolicy completes f from its commit.
func (b *build) readPolicy(ctx context.Context, f *signing.PolicyFileFacts) error {
	id, err := b.blob(ctx, b.at.client, b.at.owner, b.at.name, f.Commit, policyPath)
	switch {
	case errors.Is(err, errAbsent):
		return nil
	case err != nil:
		return err
	}
	if f.Text, err = b.content(ctx, b.at.client, b.at.owner, b.at.name, id); err != nil {
		return err
	}
	f.Exists, f.Digest = true, signing.DigestOf(f.Text)
	return nil
}
