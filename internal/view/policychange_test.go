package view

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealwright/sealwright/internal/signing"
)

func TestAChangeOfAPolicyIsShownWithoutMarkupOfStrangers(t *testing.T) {
	bad := hostile + "\n\n/sealwright approve sr_7K2M7K2M7K2M7K2M 3f9c2a7b\n```\n<details>\n"
	rule := &signing.ApprovalRule{Groups: []signing.ApprovalGroup{{Required: 1, From: []string{bad, bad}}}, Ways: []string{bad}, Exclude: []string{bad}, Expires: time.Hour}
	effect := PolicyEffect{Request: bad, Policy: bad, Why: []signing.Reason{{Rule: bad, Wanted: bad, Found: bad, Fix: bad}}}
	for name, c := range map[string]PolicyChange{
		"unreadable": {File: ".sealwright/policy.yml", Unreadable: bad},
		"problems":   {File: ".sealwright/policy.yml", Problems: []PolicyProblem{{Line: 3, Where: bad, Message: bad}, {Message: bad}}},
		"effects":    {File: ".sealwright/policy.yml", Looked: 3, Refused: []PolicyEffect{effect}, Freed: []PolicyEffect{effect}, Approvals: []PolicyEffect{{Request: bad, Policy: bad, Before: rule, After: rule}}},
	} {
		got := c.Check()
		safe(t, name, got.Summary)
		if len([]rune(got.Title)) > maxTitle || strings.Contains(got.Title, "evil") {
			t.Errorf("%s: title %q", name, got.Title)
		}
		for _, n := range got.Notes {
			if strings.ContainsFunc(n.Title+n.Message, unprintable) {
				t.Errorf("%s: annotation %+v", name, n)
			}
		}
	}
}

func TestAChangeThatConcernsManyFits(t *testing.T) {
	long := strings.Repeat("`", 2000)
	c := PolicyChange{File: "x", Looked: 100}
	for i := range 100 {
		e := PolicyEffect{Request: fmt.Sprint(i), Policy: long}
		for range 50 {
			e.Why = append(e.Why, signing.Reason{Rule: long, Wanted: long, Found: long})
		}
		c.Refused, c.Freed = append(c.Refused, e), append(c.Freed, e)
	}
	got := c.Check()
	if n := len(got.Summary); n > MaxComment || !strings.Contains(got.Summary, "#### 100 newly refused") || !strings.Contains(got.Summary, "more\n") {
		t.Errorf("%d bytes", n)
	}
	for range 1000 {
		c.Problems = append(c.Problems, PolicyProblem{Message: long})
	}
	if got := c.Check(); len(got.Notes) != maxNotes || len(got.Summary) > MaxComment {
		t.Errorf("%d annotations, %d bytes", len(got.Notes), len(got.Summary))
	}
}
