package hub

import (
	"cmp"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// gitRoutes are those of git's own objects.
func (h *Hub) gitRoutes() {
	const base = "/repos/{owner}/{repo}"
	h.on("GET "+base+"/commits/{sha}", "contents:read", func(c *call) reply {
		k := c.repo.Commits[c.r.PathValue("sha")]
		if k == nil {
			return failed(422, "No commit found for SHA: "+c.r.PathValue("sha"))
		}
		return ok(k.doc(c))
	})
	h.on("GET "+base+"/git/ref/{ref...}", "contents:read", (*call).gitRef)
	h.on("GET "+base+"/git/tags/{sha}", "contents:read", func(c *call) reply {
		id := c.r.PathValue("sha")
		if to, ok2 := c.repo.TagObjects[id]; ok2 {
			return ok(obj{"sha": id, "object": obj{"type": "commit", "sha": to}})
		}
		return notFound()
	})
	h.on("GET "+base+"/compare/{range}", "contents:read", (*call).compare)
	h.on("GET "+base+"/git/trees/{sha}", "contents:read", (*call).tree)
	h.on("GET "+base+"/git/blobs/{sha}", "contents:read", func(c *call) reply {
		for _, k := range c.repo.Commits {
			for _, text := range k.Files {
				if id := gitID("blob", []byte(text)); id == c.r.PathValue("sha") {
					return ok(obj{"sha": id, "node_id": "", "size": len(text), "encoding": "base64", "content": base64.StdEncoding.EncodeToString([]byte(text)) + "\n", "url": ""})
				}
			}
		}
		return notFound()
	})
}

// gitID is the id of a git object.
func gitID(kind string, content []byte) string {
	sum := sha1.Sum(fmt.Appendf(nil, "%s %d\x00%s", kind, len(content), content)) // git's hash
	return hex.EncodeToString(sum[:])
}

// doc is the commit as the REST API has it.
func (k *Commit) doc(c *call) obj {
	who := func(name, mail string) obj { return obj{"name": name, "email": mail, "date": stamp(k.At)} }
	parents := []obj{}
	for _, p := range k.Parents {
		parents = append(parents, obj{"sha": p})
	}
	reason := "unsigned"
	if k.Verified {
		reason = "valid"
	}
	return obj{
		"sha": k.SHA, "node_id": "", "author": k.Author.doc(), "committer": k.Committer.doc(), "parents": parents,
		"html_url": fmt.Sprintf("%s/%s/commit/%s", c.h.web, c.repo.FullName(), k.SHA),
		"commit": obj{
			"message": k.Message, "author": who(k.AuthorName, k.AuthorEmail), "committer": who(k.CommitterName, k.CommitterEmail),
			"verification": obj{"verified": k.Verified, "reason": reason, "signature": nil, "payload": nil},
		},
	}
}

// gitRef answers for the exact name only.
func (c *call) gitRef() reply {
	kind, name, _ := strings.Cut(c.r.PathValue("ref"), "/")
	sha := ""
	switch kind {
	case "heads":
		sha = c.repo.Branches[name]
	case "tags":
		sha = c.repo.Tags[name]
	}
	if sha == "" {
		return notFound()
	}
	of := "commit"
	if _, annotated := c.repo.TagObjects[sha]; annotated {
		of = "tag"
	}
	return ok(obj{"ref": "refs/" + kind + "/" + name, "node_id": "", "object": obj{"type": of, "sha": sha}})
}

// commitOf resolves a commit, branch or tag.
func (r *Repo) commitOf(s string) string {
	for _, m := range []map[string]string{r.Branches, r.Tags, r.TagObjects} {
		if to, ok := m[s]; ok {
			s = to
		}
	}
	if r.Commits[s] == nil {
		return ""
	}
	return s
}

// reach returns the commits that are sha or before it.
func (r *Repo) reach(sha string) map[string]bool {
	seen := map[string]bool{}
	for todo := []string{sha}; len(todo) > 0; todo = todo[1:] {
		if k := r.Commits[todo[0]]; k != nil && !seen[k.SHA] {
			seen[k.SHA] = true
			todo = append(todo, k.Parents...)
		}
	}
	return seen
}

func (c *call) compare() reply {
	from, to, both := strings.Cut(c.r.PathValue("range"), "...")
	base, head := c.repo.commitOf(from), c.repo.commitOf(to)
	if !both || base == "" || head == "" {
		return notFound()
	}
	before, after := c.repo.reach(base), c.repo.reach(head)
	var ahead []*Commit
	merge, behind := "", 0
	for s := range after {
		k := c.repo.Commits[s]
		if !before[s] {
			ahead = append(ahead, k)
		} else if m := c.repo.Commits[merge]; m == nil || c.repo.within(merge, s) {
			merge = s
		}
	}
	for s := range before {
		if !after[s] {
			behind++
		}
	}
	if merge == "" {
		return failed(404, "No common ancestor between "+from+" and "+to+".")
	}
	// Ancestors come first.
	slices.SortFunc(ahead, func(x, y *Commit) int {
		if d := cmp.Compare(len(c.repo.reach(x.SHA)), len(c.repo.reach(y.SHA))); d != 0 {
			return d
		}
		return strings.Compare(x.SHA, y.SHA)
	})
	status := "diverged"
	switch {
	case len(ahead) == 0 && behind == 0:
		status = "identical"
	case behind == 0:
		status = "ahead"
	case len(ahead) == 0:
		status = "behind"
	}
	var docs []obj
	for _, k := range ahead {
		docs = append(docs, k.doc(c))
	}
	a := c.page(docs, "commits")
	d := a.body.(obj)
	delete(d, "total_count")
	d["status"], d["ahead_by"], d["behind_by"], d["total_commits"] = status, len(ahead), behind, len(ahead)
	d["merge_base_commit"], d["base_commit"] = c.repo.Commits[merge].doc(c), c.repo.Commits[base].doc(c)
	d["html_url"] = c.h.web + "/" + c.repo.FullName() + "/compare/" + from + "..." + to
	if c.r.URL.Query().Get("page") == "" || c.r.URL.Query().Get("page") == "1" {
		d["files"] = []obj{}
	}
	return a
}

// entries lists a directory of a commit: names with the ids of files and trees.
func (k *Commit) entries(dir string) []obj {
	found := map[string]obj{}
	for name, text := range k.Files {
		rest, in := strings.CutPrefix(name, dir)
		if !in {
			continue
		}
		first, _, below := strings.Cut(rest, "/")
		if below {
			found[first] = obj{"path": first, "mode": "040000", "type": "tree", "sha": k.treeID(dir + first + "/")}
		} else {
			found[first] = obj{"path": first, "mode": "100644", "type": "blob", "sha": gitID("blob", []byte(text)), "size": len(text)}
		}
	}
	out := []obj{}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[name])
	}
	return out
}

// treeID names a directory by its content.
func (k *Commit) treeID(dir string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(k.Files)) {
		if rest, in := strings.CutPrefix(name, dir); in {
			b.WriteString(strconv.Quote(rest) + gitID("blob", []byte(k.Files[name])))
		}
	}
	return gitID("tree", []byte(b.String()))
}

// tree answers for a commit, or a tree in one.
func (c *call) tree() reply {
	id := c.r.PathValue("sha")
	if k := c.repo.Commits[id]; k != nil {
		return ok(obj{"sha": k.treeID(""), "tree": k.entries(""), "truncated": false})
	}
	for _, k := range c.repo.Commits {
		for name := range k.Files {
			for i := range name {
				if dir := name[:i+1]; name[i] == '/' && k.treeID(dir) == id {
					return ok(obj{"sha": id, "tree": k.entries(dir), "truncated": false})
				}
			}
		}
	}
	return notFound()
}
