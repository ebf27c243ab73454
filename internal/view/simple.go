package view

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/sealwright/sealwright/internal/signing"
)

// reBase is what the base of a lookaside looks like; it becomes YAML.
var reBase = regexp.MustCompile(`^(?:https?|file)://[A-Za-z0-9._~:/\[\]%-]*$`)

// lookasideBase returns what registries.d calls the lookaside of an image's registry, from
// where a signature is; "" if verifiers need none, or it is not well-formed.
func lookasideBase(t signing.Task) string {
	for _, l := range t.Locations {
		b, _, ok := strings.Cut(l.URI, "/"+t.Artifact.Repository.Path()+"@sha256="+t.Artifact.Digest.Hex()+"/signature-")
		if l.Kind == "lookaside" && ok && reBase.MatchString(b) {
			return b
		}
	}
	return ""
}

// verifySimple prints the pieces of configuration with which podman, skopeo and
// CRI-O demand the simple signatures.
func verifySimple(b *strings.Builder, r signing.Request, tasks []signing.Task) {
	type demand struct {
		Type    string `json:"type"`
		KeyType string `json:"keyType"`
		KeyPath string `json:"keyPath"`
	}
	var repositories []string
	demands, places := map[string][]demand{}, map[string]string{}
	for _, t := range tasks {
		if t.Step.Method != "simple" || !verifiable(r, t) {
			continue
		}
		name := string(t.Artifact.Repository)
		if !slices.Contains(repositories, name) {
			if len(repositories) == maxImages {
				continue
			}
			repositories = append(repositories, name)
		}
		d := demand{"signedBy", "GPGKeys", "/etc/pki/containers/" + t.Step.Key + ".asc"}
		if !slices.Contains(demands[name], d) {
			demands[name] = append(demands[name], d)
		}
		if at := lookasideBase(t); at != "" {
			places[name] = at
		}
	}
	if len(repositories) == 0 {
		return
	}
	b.WriteString("\n#### Verify with podman, skopeo or CRI-O\n\nWith the OpenPGP certificates that `/v1/trust` has for the keys, and these pieces of `/etc/containers/registries.d/` and `/etc/containers/policy.json`:\n\n")
	var lines strings.Builder
	for _, name := range repositories {
		if places[name] != "" {
			fmt.Fprintf(&lines, "  %s:\n    lookaside: %s\n", name, places[name])
		}
	}
	if lines.Len() > 0 {
		b.WriteString(fence("docker:\n"+strings.TrimSuffix(lines.String(), "\n"), "yaml"))
		b.WriteString("\n")
	}
	policy, err := json.MarshalIndent(map[string]any{"default": []map[string]string{{"type": "reject"}}, "transports": map[string]any{"docker": demands}}, "", "  ")
	if err == nil {
		b.WriteString(fence(string(policy), "json"))
	}
}
