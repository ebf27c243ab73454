package policy

import (
	"errors"
	"testing"

	"github.com/sealwright/sealwright/internal/signing"
)

func TestAListFallsUnderTheOneRowThatHasAllOfItsImages(t *testing.T) {
	s, err := Load(map[string][]byte{"a.yaml": []byte(`apiVersion: sealwright.dev/v1
project: payments
repositories:
  - {forge: github.com, name: acme/web, id: "1", owner_id: "9", images: ["registry.acme.dev/web", "registry.acme.dev/shared"]}
  - {forge: github.com, name: acme/api, id: "2", images: ["registry.acme.dev/api", "registry.acme.dev/shared"]}
  - {forge: github.com, owner: acme, owner_id: "9", images: ["registry.acme.dev/all/{repository}"]}
policies:
  lists:
    origin: {human: true}
    approvals: {required: 1, from: ["github.com:acme/release"]}
    sign: [{method: cosign, key: k}]
  again:
    origin: {human: true, refs: [refs/heads/main], github: {events: [push]}}
    approvals: {required: 1, from: ["github.com:acme/release"]}
    sign: [{method: cosign, key: k}]
`)})
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		policy, name string
		images       []string
		want         string // id of the repository; empty for none
	}{
		"one":                         {"lists", "", []string{"web"}, "1"},
		"all of one row":              {"lists", "", []string{"api", "shared"}, "2"},
		"of two rows":                 {"lists", "", []string{"web", "api"}, ""},
		"of either":                   {"lists", "", []string{"shared"}, ""},
		"of either, named":            {"lists", "ACME/api", []string{"shared"}, "2"},
		"named, and not its":          {"lists", "acme/api", []string{"web"}, ""},
		"of nobody":                   {"lists", "", []string{"other"}, ""},
		"of an owner":                 {"lists", "", []string{"all/web"}, ""},
		"a policy for what was built": {"again", "", []string{"web"}, ""},
		"no such policy":              {"none", "", []string{"web"}, ""},
	} {
		var images []signing.Artifact
		for _, i := range c.images {
			images = append(images, signing.Artifact{Repository: signing.Repository("registry.acme.dev/" + i)})
		}
		o, err := s.Owner(c.policy, c.name, images)
		if o.SourceRepositoryIdentifier != c.want || (c.want == "") != errors.Is(err, signing.Denied) {
			t.Errorf("%s: %+v %v", what, o, err)
		}
		if err == nil && (o.Kind != kindList || o.SourceRepositoryDigest != "" || o.SourceRepositoryRef != "" || o.RunID != "") {
			t.Errorf("%s: the origin says something of a build: %+v", what, o)
		}
	}
}
