package signing

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

const (
	digestOne = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	digestTwo = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
)

func TestTasksOfStepsWithPartsAreOneForEachRepositoryAndPart(t *testing.T) {
	b := Basis{
		Artifacts: []Artifact{{Repository: "r.io/a", Digest: digestOne, Tag: "v1", Size: 7}, {Repository: "r.io/b", Digest: digestTwo, Tag: "v1"}, {Repository: "r.io/a", Digest: digestTwo, Tag: "v2"}},
		Untrust:   []Artifact{{Repository: "r.io/a", Tag: "v0"}, {Repository: "r.io/c", Tag: "v9"}},
		Steps:     []Step{{Method: "cosign"}, {Method: "dct", Parts: []string{"x", "y"}}},
	}
	tasks := b.Tasks("sr_1")
	if len(tasks) != 3+3*2 || b.CheckSize() != nil {
		t.Fatalf("%d tasks, %v", len(tasks), b.CheckSize())
	}
	for i, want := range []struct {
		repository Repository
		part       string
		changes    []Change
	}{
		{"r.io/a", "x", []Change{{Tag: "v1", Digest: digestOne, Size: 7}, {Tag: "v2", Digest: digestTwo}, {Tag: "v0", Remove: true}}},
		{"r.io/a", "y", []Change{{Tag: "v1", Digest: digestOne, Size: 7}, {Tag: "v2", Digest: digestTwo}, {Tag: "v0", Remove: true}}},
		{"r.io/b", "x", []Change{{Tag: "v1", Digest: digestTwo}}},
		{"r.io/b", "y", []Change{{Tag: "v1", Digest: digestTwo}}},
		{"r.io/c", "x", []Change{{Tag: "v9", Remove: true}}},
		{"r.io/c", "y", []Change{{Tag: "v9", Remove: true}}},
	} {
		got := tasks[3+i]
		if got.Artifact != (Artifact{Repository: want.repository}) || got.Part != want.part || !reflect.DeepEqual(got.Changes, want.changes) || got.Step.Method != "dct" {
			t.Errorf("task %d: %+v", i, got)
		}
	}
	many := Basis{Steps: []Step{{Parts: make([]string, MaxTasks+1)}}, Untrust: b.Untrust[:1]}
	if err := many.CheckSize(); !errors.Is(err, TooLarge) {
		t.Errorf("too many parts: %v", err)
	}
}

func TestABasisThatCannotBeSignedTogetherIsRefused(t *testing.T) {
	one := Artifact{Repository: "r.io/a", Digest: digestOne, Tag: "v1"}
	bare := Artifact{Repository: "r.io/a", Digest: digestOne}
	dct := Step{Method: "dct", Parts: []string{"x"}}
	for name, c := range map[string]struct {
		b   Basis
		why string
	}{
		"nothing together":           {Basis{Artifacts: []Artifact{bare}, Steps: []Step{{Method: "cosign", Recursive: true}}}, ""},
		"good":                       {Basis{Artifacts: []Artifact{one}, Untrust: []Artifact{{Repository: "r.io/a", Tag: "v2"}}, Steps: []Step{{Method: "cosign"}, dct}}, ""},
		"two steps, each its roles":  {Basis{Artifacts: []Artifact{one}, Steps: []Step{dct, {Method: "dct", Parts: []string{"y"}}}}, ""},
		"an image without a tag":     {Basis{Artifacts: []Artifact{one, bare}, Steps: []Step{{Method: "cosign"}, dct}}, "without one"},
		"recursive":                  {Basis{Artifacts: []Artifact{one}, Steps: []Step{{Method: "dct", Parts: []string{"x"}, Recursive: true}}}, "below an index"},
		"one role twice":             {Basis{Artifacts: []Artifact{one}, Steps: []Step{dct, {Method: "dct", Key: "other", Parts: []string{"x"}}}}, "same role"},
		"untrust with no such step":  {Basis{Untrust: []Artifact{{Repository: "r.io/a", Tag: "v2"}}, Steps: []Step{{Method: "cosign"}}}, "no trust in a tag"},
		"untrust with no step":       {Basis{Untrust: []Artifact{{Repository: "r.io/a", Tag: "v2"}}}, "no trust in a tag"},
		"nothing and a step for it":  {Basis{Steps: []Step{dct}}, ""},
		"children of another method": {Basis{Artifacts: []Artifact{one}, Children: []Artifact{bare}, Steps: []Step{{Method: "cosign", Recursive: true}, dct}}, ""},
	} {
		err := c.b.CheckTogether()
		var e *Error
		if (err != nil) != (c.why != "") || err != nil && (!errors.As(err, &e) || e.Fix == "" || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATagStandsForOneThing(t *testing.T) {
	tag := func(repository, tag, digest string) Artifact {
		return Artifact{Repository: Repository(repository), Tag: tag, Digest: Digest(digest)}
	}
	for name, c := range map[string]struct {
		artifacts, untrust []Artifact
		bad                bool
	}{
		"nothing":                       {nil, nil, false},
		"one digest in two ways":        {[]Artifact{tag("r.io/a", "v1", digestOne), tag("r.io/a", "v2", digestOne), tag("r.io/a", "", digestTwo)}, nil, false},
		"the same tag in two places":    {[]Artifact{tag("r.io/a", "v1", digestOne), tag("r.io/b", "v1", digestTwo)}, []Artifact{tag("r.io/c", "v1", "")}, false},
		"two digests":                   {[]Artifact{tag("r.io/a", "v1", digestOne), tag("r.io/a", "v1", digestTwo)}, nil, true},
		"signed and untrusted":          {[]Artifact{tag("r.io/a", "v1", digestOne)}, []Artifact{tag("r.io/a", "v1", "")}, true},
		"untrusted twice":               {nil, []Artifact{tag("r.io/a", "v1", ""), tag("r.io/a", "v1", "")}, true},
		"two images without a tag each": {[]Artifact{tag("r.io/a", "", digestOne), tag("r.io/a", "", digestTwo)}, nil, false},
	} {
		if err := CheckTags(c.artifacts, c.untrust); errors.Is(err, Invalid) != c.bad {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATagToUntrustIsARepositoryAndATagAndNothingElse(t *testing.T) {
	good := Artifact{Repository: "r.io/a", Tag: "v1"}
	if err := good.ValidateUntrust(); err != nil || good.String() != "r.io/a:v1" {
		t.Errorf("%s: %v", good, err)
	}
	for name, a := range map[string]Artifact{
		"no tag": {Repository: "r.io/a"}, "no repository": {Tag: "v1"}, "no host": {Repository: "a", Tag: "v1"}, "bad tag": {Repository: "r.io/a", Tag: "../v1"},
		"digest": {Repository: "r.io/a", Tag: "v1", Digest: digestOne}, "size": {Repository: "r.io/a", Tag: "v1", Size: 1}, "resolved": {Repository: "r.io/a", Tag: "v1", ResolvedFrom: "v1"},
	} {
		if err := a.ValidateUntrust(); !errors.Is(err, Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBytesThatChangeAnythingElseThanTheTaskAreDenied(t *testing.T) {
	task := &Task{Artifact: Artifact{Repository: "r.io/a"}, Part: "x", Changes: []Change{{Tag: "v1", Digest: digestOne}}, Intent: &Intent{Differences: []Difference{{Tag: "v1", To: digestOne}}}}
	good := func() Statement {
		return Statement{Repository: "r.io/a", Part: "x", Changes: []Change{{Tag: "v1", Digest: digestOne}}, Differences: []Difference{{Tag: "v1", To: digestOne}}}
	}
	if err := good().MatchesTask(task); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Statement){
		"repository": func(s *Statement) { s.Repository = "r.io/b" }, "digest": func(s *Statement) { s.Digest = digestOne }, "tag": func(s *Statement) { s.Tag = "v1" },
		"part": func(s *Statement) { s.Part = "y" }, "no part": func(s *Statement) { s.Part = "" }, "no change": func(s *Statement) { s.Changes = nil },
		"another change": func(s *Statement) { s.Changes[0].Digest = digestTwo }, "one removed": func(s *Statement) { s.Changes[0].Remove = true },
		"a difference more": func(s *Statement) { s.Differences = append(s.Differences, Difference{Tag: "v2", From: digestOne}) },
		"from elsewhere":    func(s *Statement) { s.Differences[0].From = digestTwo }, "no difference": func(s *Statement) { s.Differences = nil },
	} {
		said := good()
		change(&said)
		if err := said.MatchesTask(task); !errors.Is(err, Denied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
