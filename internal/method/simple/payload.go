package simple

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/openpgp"
	"github.com/sealwright/sealwright/internal/signing"
)

// payloadType is critical.type of the payload; containers/image takes no other.
const payloadType = "atomic container signature"

// The options of a step.
const (
	creatorOption   = "creator"
	timestampOption = "timestamp"
	timestampOn     = "true"
	// maxCreator bounds optional.creator: the name of a program and its version.
	maxCreator = 128
)

// payload is what is signed. Its order and its empty optional part are those of
// containers/image, which wants both members.
type payload struct {
	Critical struct {
		Identity struct {
			DockerReference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			DockerManifestDigest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional optional `json:"optional"`
}

type optional struct {
	Creator   string `json:"creator,omitempty"`
	Timestamp int64  `json:"timestamp,omitempty"` // Unix seconds
}

// reference is docker-reference: repository:tag for an artifact with a tag, which
// is what containers/image compares an image pulled by tag with; repository@digest
// for one without, since by default it takes a bare repository for nothing.
func reference(a signing.Artifact) string {
	if a.Tag != "" {
		return string(a.Repository) + ":" + a.Tag
	}
	return string(a.Repository) + "@" + string(a.Digest)
}

func encode(a signing.Artifact, o optional) ([]byte, error) {
	var p payload
	p.Critical.Identity.DockerReference = reference(a)
	p.Critical.Image.DockerManifestDigest = string(a.Digest)
	p.Critical.Type = payloadType
	p.Optional = o
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encoding the payload of %s: %w", a, err)
	}
	if len(raw) > openpgp.MaxContent {
		return nil, &signing.Error{Code: signing.TooLarge, Message: "the payload to be signed is too large", Expected: fmt.Sprintf("at most %d bytes", openpgp.MaxContent), Found: fmt.Sprintf("%d bytes", len(raw))}
	}
	return raw, nil
}

// payloadFor returns the payload for a target that is signed at a time.
func payloadFor(t method.Target, at time.Time) ([]byte, error) {
	if err := t.Artifact.Validate(); err != nil {
		return nil, err
	}
	if err := checkOptions(t.Options); err != nil {
		return nil, err
	}
	o := optional{Creator: t.Options[creatorOption]}
	if t.Options[timestampOption] == timestampOn {
		o.Timestamp = at.Unix()
	}
	return encode(t.Artifact, o)
}

// claims is what a payload says, by whomever it was made.
type claims struct {
	artifact signing.Artifact // without a tag if it names none
	optional optional
}

// read parses a payload as other tools may make it: in any order, with further
// optional members. It accepts nothing that containers/image would refuse or read
// differently: no unknown or repeated critical member, no other type.
func read(raw []byte) (claims, error) {
	refuse := func(expected, found string) (claims, error) {
		return claims{}, &signing.Error{Code: signing.Denied, Message: "not the payload of a simple signature", Expected: expected, Found: found, Fix: "have the image signed anew"}
	}
	if len(raw) > openpgp.MaxContent {
		return refuse(fmt.Sprintf("at most %d bytes", openpgp.MaxContent), fmt.Sprintf("%d bytes", len(raw)))
	}
	if err := unambiguous(raw); err != nil {
		return refuse("JSON in which no member is there twice", err.Error())
	}
	var p payload
	var rough struct {
		Critical json.RawMessage            `json:"critical"`
		Optional map[string]json.RawMessage `json:"optional"`
	}
	if err := strict(raw, &rough); err != nil || rough.Critical == nil || rough.Optional == nil {
		return refuse("critical and optional, and nothing else", "other JSON, or none")
	}
	if err := strict(rough.Critical, &p.Critical); err != nil {
		return refuse("critical with identity, image and type", "other members")
	}
	for name, into := range map[string]any{"creator": &p.Optional.Creator, "timestamp": &p.Optional.Timestamp} {
		if m, ok := rough.Optional[name]; ok && json.Unmarshal(m, into) != nil {
			return refuse("a creator that is text, a timestamp that is a whole number", "another optional."+name)
		}
	}
	if p.Critical.Type != payloadType {
		return refuse("critical.type "+payloadType, fmt.Sprintf("%.64q", p.Critical.Type))
	}
	ref, err := signing.ParseReference(p.Critical.Identity.DockerReference)
	if err != nil {
		return refuse("a docker-reference REPOSITORY:TAG or REPOSITORY@DIGEST", fmt.Sprintf("%.128q", p.Critical.Identity.DockerReference))
	}
	digest := signing.Digest(p.Critical.Image.DockerManifestDigest)
	if ref.Digest != "" && (ref.Digest != digest || ref.Tag != "") {
		return refuse("one digest", "another one in docker-reference")
	}
	c := claims{artifact: ref, optional: p.Optional}
	c.artifact.Digest = digest
	if err := c.artifact.Validate(); err != nil {
		return refuse("a docker-manifest-digest", fmt.Sprintf("%.128q", digest))
	}
	return c, nil
}

// parse reads a payload of this service: byte for byte what encode makes of what it
// says.
func parse(raw []byte) (claims, error) {
	c, err := read(raw)
	if err != nil {
		return claims{}, notOurs(err)
	}
	if err := checkCreator(c.optional.Creator); err != nil && c.optional.Creator != "" {
		return claims{}, notOurs(err)
	}
	again, err := encode(c.artifact, c.optional)
	if err != nil || !bytes.Equal(again, raw) {
		return claims{}, notOurs(err)
	}
	return c, nil
}

// notOurs refuses bytes of an intent that this method would not have made.
func notOurs(err error) error {
	return &signing.Error{Code: signing.Denied, Message: "the bytes to be signed are not a payload that this service makes", Expected: "an " + payloadType + " in its exact form", Found: "something else", Fix: "the stored intent was altered: keep the database for examination and submit again", Err: err}
}

// strict decodes one JSON value without members that into does not have, spelt
// exactly: encoding/json alone would take "Critical" for "critical".
func strict(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// members are all names that a payload can have outside of optional.
var members = map[string]bool{"critical": true, "optional": true, "identity": true, "image": true, "type": true, "docker-reference": true, "docker-manifest-digest": true}

// maxDepth is how deep a payload is nested: the payload, critical, identity; and
// what others put into optional.
const maxDepth = 8

// unambiguous refuses JSON that two parsers may read differently: a member that is
// there twice, also in another case, and anything behind the value.
func unambiguous(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := value(d, maxDepth); err != nil {
		return err
	}
	if d.More() || len(bytes.TrimSpace(raw[d.InputOffset():])) > 0 {
		return fmt.Errorf("something behind it")
	}
	return nil
}

func value(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("no JSON")
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth == 0 {
		return fmt.Errorf("deeper nesting")
	}
	seen := map[string]bool{}
	for d.More() {
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return fmt.Errorf("no JSON")
			}
			name, _ := t.(string)
			lower := strings.ToLower(name)
			if seen[lower] || members[lower] && lower != name {
				return fmt.Errorf("%.32q twice, or in another case", name)
			}
			seen[lower] = true
		}
		if err := value(d, depth-1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	if err != nil {
		return fmt.Errorf("no JSON")
	}
	return nil
}

func checkOptions(options map[string]string) error {
	if err := method.CheckOptions(Name, options, creatorOption, timestampOption); err != nil {
		return err
	}
	if v, ok := options[timestampOption]; ok && v != timestampOn {
		return &signing.Error{Code: signing.Invalid, Message: "the option timestamp of the simple method", Expected: timestampOn + ", or no such option", Found: fmt.Sprintf("%.64q", v)}
	}
	if v, ok := options[creatorOption]; ok {
		return checkCreator(v)
	}
	return nil
}

func checkCreator(v string) error {
	printable := !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' })
	if v == "" || len(v) > maxCreator || !printable {
		return &signing.Error{Code: signing.Invalid, Message: "the option creator of the simple method", Expected: fmt.Sprintf("1 to %d characters of ASCII, as in acme 1.0", maxCreator), Found: fmt.Sprintf("%.64q", v)}
	}
	return nil
}
