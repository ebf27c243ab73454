package submit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxDigestsFile bounds what a build tool wrote: the provenance of a large
	// bake, which is in the same file, has some hundred KB for each target.
	maxDigestsFile = 16 << 20
	// maxTargets bounds the results in one file; each is one image or more.
	maxTargets = signing.MaxArtifacts
)

// readDigestsFile returns what the file says was pushed.
func readDigestsFile(path string) ([]byte, error) {
	bad := func(found string, cause error) error {
		return &signing.Error{Code: signing.Invalid, Message: "`digests-file` cannot be used", Expected: fmt.Sprintf("a readable file of at most %d bytes", maxDigestsFile), Found: found, Fix: "check the path as seen from this step, and that the build step before it wrote the file", Err: cause}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, bad("no readable file", err)
	}
	defer func() { _ = f.Close() }() // read only
	raw, err := io.ReadAll(io.LimitReader(f, maxDigestsFile+1))
	if err != nil {
		return nil, bad("no readable file", err)
	}
	if len(raw) > maxDigestsFile {
		return nil, bad("more", nil)
	}
	return raw, nil
}

// parseDigests reads what a build tool says that it pushed. The form is found by
// its shape:
//
//   - {...} with `format: sealwright.dev/dct-export/...` is what `sealwright dct
//     export` writes;
//   - {...} with `containerimage.digest` is the metadata of one build: buildx
//     `build --metadata-file`, `imagetools create`, buildctl, and the output
//     `metadata` of docker/build-push-action;
//   - any other {...} holds such metadata for each target of a bake;
//   - [...] is a list of REPOSITORY@DIGEST, as this step's own output `digests`;
//   - anything else is one REPOSITORY[:TAG]@DIGEST a line, as ko, kaniko and
//     others write; empty lines and those that begin with # do not count.
//
// Every image is named by digest: nothing here is resolved. quiet names the
// targets of a bake that pushed no image.
func parseDigests(raw []byte) (images []image, quiet []string, err error) {
	text := strings.TrimSpace(strings.TrimPrefix(string(raw), "\ufeff")) // PowerShell writes a byte order mark
	switch {
	case len(raw) > maxDigestsFile:
		return nil, nil, unreadable("more than a build tool writes", fmt.Sprintf("at most %d bytes", maxDigestsFile), fmt.Sprintf("%d bytes", len(raw)))
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return nil, nil, unreadable("not text", "UTF-8", "other bytes")
	case text == "":
		return nil, nil, unreadable("nothing in it", "at least one image", "an empty file")
	case text[0] == '{':
		images, quiet, err = parseMetadata([]byte(text))
	case text[0] == '[':
		images, err = parseJSONList([]byte(text))
	default:
		images, err = parseLines(text)
	}
	if err != nil {
		return nil, nil, err
	}
	if len(images) == 0 {
		return nil, nil, unreadable("no image in it", "at least one image with its digest", "none", "push the image in the build step: `--push`, or `push: true`")
	}
	return images, quiet, nil
}

func unreadable(message, expected, found string, fix ...string) error {
	return &signing.Error{Code: signing.Invalid, Message: "the list of digests has " + message, Expected: expected, Found: found, Fix: strings.Join(append(fix, "give buildx metadata, or one REPOSITORY@sha256:... a line")[:1], "")}
}

func parseLines(text string) ([]image, error) {
	var out []image
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		i, err := byDigest(line)
		if err != nil {
			return nil, place(fmt.Sprintf("line %d", n), err)
		}
		if out = append(out, i); len(out) > maxTargets {
			return nil, tooMany()
		}
	}
	return out, nil
}

func parseJSONList(raw []byte) ([]image, error) {
	var list []string
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, unreadable("another form than a list of texts", `["REPOSITORY@sha256:...", ...]`, "other JSON")
	}
	if len(list) > maxTargets {
		return nil, tooMany()
	}
	var out []image
	for n, s := range list {
		i, err := byDigest(s)
		if err != nil {
			return nil, place(fmt.Sprintf("[%d]", n), err)
		}
		out = append(out, i)
	}
	return out, nil
}

// byDigest reads REPOSITORY[:TAG]@DIGEST, of which the digest counts.
func byDigest(s string) (image, error) {
	if signing.Digest(s).Validate() == nil {
		return image{}, &signing.Error{Code: signing.Invalid, Message: "a digest without its repository", Expected: "REPOSITORY@sha256:...", Found: s, Fix: "write the repository in front of it, or give `images: REPOSITORY@DIGEST`"}
	}
	a, err := signing.ParseReference(s)
	if err != nil {
		return image{}, err
	}
	if a.Digest == "" {
		return image{}, &signing.Error{Code: signing.Invalid, Message: "an image without its digest", Expected: "REPOSITORY@sha256:...", Found: a.String(), Fix: "list what was pushed by digest; `images` takes a tag, which is resolved once"}
	}
	return image{given: s, repository: a.Repository, digest: a.Digest}, nil
}

func tooMany() error {
	return unreadable("too many images", fmt.Sprintf("at most %d", maxTargets), "more", "sign them in several steps")
}

// place says where in the list a problem is.
func place(where string, err error) error {
	e := signing.Public(err)
	e.Message = "the list of digests, " + where + ": " + e.Message
	return e
}

// parseMetadata reads the metadata of a build, or of the targets of a bake.
// Names of targets have no dot, those of BuildKit's own entries have one.
func parseMetadata(raw []byte) (images []image, quiet []string, err error) {
	names, fields, err := object(raw)
	if err != nil {
		return nil, nil, err
	}
	if isExport(fields) {
		e, err := parseExport(raw)
		if err != nil {
			return nil, nil, err
		}
		if images = e.images(); len(images) > maxTargets {
			return nil, nil, tooMany()
		}
		return images, nil, nil
	}
	if fields[keyDigest] != nil || fields[keyDescriptor] != nil {
		for _, n := range names {
			if !strings.Contains(n, ".") {
				return nil, nil, unreadable("one build and targets beside it", "the metadata of one build, or of a bake", fmt.Sprintf("both %s and %.80q", keyDigest, n))
			}
		}
		images, err = parseBuild(fields)
		return images, nil, err
	}
	for _, target := range names {
		if strings.Contains(target, ".") {
			continue // of the whole: buildx.build.warnings
		}
		if len(images)+len(quiet) >= maxTargets {
			return nil, nil, tooMany()
		}
		_, result, err := object(fields[target])
		if err != nil {
			return nil, nil, place(fmt.Sprintf("target %.80q", target), err)
		}
		if result[keyDigest] == nil && result[keyDescriptor] == nil {
			quiet = append(quiet, target) // a context of others, or kept in the cache only
			continue
		}
		more, err := parseBuild(result)
		if err != nil {
			return nil, nil, place(fmt.Sprintf("target %.80q", target), err)
		}
		images = append(images, more...)
	}
	if len(images) == 0 {
		return nil, nil, unreadable("no image in it", "`"+keyDigest+"` in the metadata of a build or of a target", fmt.Sprintf("%d other entries", len(names)), "push the image in the build step: `--push`, or `push: true`")
	}
	return images, quiet, nil
}

// The entries of BuildKit's exporters that say what was pushed.
const (
	keyDigest     = "containerimage.digest"
	keyDescriptor = "containerimage.descriptor"
	keyName       = "image.name"
)

// parseBuild reads the metadata of one build: one digest, and the names under
// which it was pushed, comma-separated. Each repository is one image.
func parseBuild(fields map[string]json.RawMessage) ([]image, error) {
	digest, err := builtDigest(fields)
	if err != nil {
		return nil, err
	}
	var list string
	if raw := fields[keyName]; raw == nil || json.Unmarshal(raw, &list) != nil {
		return nil, unreadable("a digest without names", "`"+keyName+"` as text", "none", "name the image in the build step: `--tag`, or `name=` of the output")
	}
	var out []image
	seen := map[signing.Repository]bool{}
	for _, name := range strings.Split(list, ",") {
		a, err := signing.ParseReference(familiar(strings.TrimSpace(name)))
		if err != nil {
			return nil, err
		}
		if a.Digest != "" && a.Digest != digest {
			return nil, unreadable("a name with another digest", string(digest), string(a.Digest))
		}
		if !seen[a.Repository] {
			seen[a.Repository] = true
			out = append(out, image{given: string(a.Repository) + "@" + string(digest), repository: a.Repository, digest: digest})
		}
		if len(out) > maxTargets {
			return nil, tooMany()
		}
	}
	return out, nil
}

// builtDigest returns the digest of the manifest or index; where both entries
// that hold it are there, they must agree.
func builtDigest(fields map[string]json.RawMessage) (signing.Digest, error) {
	var found []signing.Digest
	if raw := fields[keyDigest]; raw != nil {
		var d signing.Digest
		if json.Unmarshal(raw, &d) != nil {
			return "", unreadable("a digest that is not text", "`"+keyDigest+"` as text", "something else")
		}
		found = append(found, d)
	}
	if raw := fields[keyDescriptor]; raw != nil {
		_, descriptor, err := object(raw)
		if err != nil {
			return "", err
		}
		var d signing.Digest
		if json.Unmarshal(descriptor["digest"], &d) != nil {
			return "", unreadable("a descriptor without a digest", "`"+keyDescriptor+"` with `digest`", "none")
		}
		found = append(found, d)
	}
	for _, d := range found {
		if err := d.Validate(); err != nil {
			return "", err
		}
		if d != found[0] {
			return "", unreadable("two digests for one build", string(found[0]), string(d))
		}
	}
	return found[0], nil
}

// familiar writes out what docker's tools leave away: names without a registry
// host are docker.io's, those without a path its library's.
func familiar(name string) string {
	host, _, nested := strings.Cut(name, "/")
	switch {
	case nested && (strings.ContainsAny(host, ".:") || host == "localhost"):
		return name
	case nested:
		return "docker.io/" + name
	default:
		return "docker.io/library/" + name
	}
}

// object reads one JSON object in which every name occurs once, in order.
// encoding/json alone would take the last of two.
func object(raw []byte) (names []string, fields map[string]json.RawMessage, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, nil, unreadable("another form than an object", "a JSON object", "something else")
	}
	fields = map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		var value json.RawMessage
		if err == nil && ok {
			err = dec.Decode(&value)
		}
		if err != nil || !ok {
			return nil, nil, unreadable("JSON that is not complete", "one complete JSON document", fmt.Sprintf("a mistake near byte %d", dec.InputOffset()))
		}
		if fields[name] != nil {
			return nil, nil, unreadable("an entry twice", "each entry once", fmt.Sprintf("%.80q twice", name))
		}
		names, fields[name] = append(names, name), value
	}
	if _, err := dec.Token(); err != nil {
		return nil, nil, unreadable("JSON that is not complete", "one complete JSON document", "its end too early")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, unreadable("something behind the document", "one JSON document", "more")
	}
	return names, fields, nil
}
