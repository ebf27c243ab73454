package internal_test

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// attacks are the ways to get, or to keep, an approval that is none. Each has a
// row in docs/threat-model.md with the tests that fail without its defence.
var attacks = []string{
	"an edited comment", "somebody else's edit", "a command in a code fence", "a command in a quote", "a command in an HTML comment",
	"a comment of a bot", "a comment of an App", "a system note of GitLab", "an `update` of a GitLab note",
	"a wrong code", "the code of an older push", "our own comment, edited by somebody else",
	"a command in another thread", "a command in another repository, where the commenter is admin", "a command on another forge",
	"approval by the author", "approval by a co-author", "approval by who started the run", "approval by who started it again", "approval by a pusher",
	"approval twice by one person", "approval by one person on two forges", "approval by somebody who was renamed", "an author that maps to no account",
	"an approver who left the team between approval and signing", "a CI token that approves",
	"an approval inserted into the database", "an approval changed in the database", "a decision inserted into the database", "a decision changed in the database", "an intent inserted into the database", "an intent changed in the database",
	"a pending member of a team", "an outsider on a public repository",
	"a permission API that answers 404", "a permission API that answers 500", "a permission API that is slow",
	"approval after expiry", "approval after cancel", "approval after the policy changed", "approval for another request",
	"a delivery sent again", "a delivery replayed", "a delivery with a changed GUID",
	"a wrong signature of a delivery", "a delivery without a signature", "a delivery with a SHA-1 signature only", "`X-Gitlab-Token` where signing is configured",
	"a body of 25 MB", "an unknown event", "malformed JSON of every recorded payload",
}

// simpleAttacks are the ways to have a simple signature taken for another one, or
// to break who reads or writes them.
var simpleAttacks = []string{
	"the signature of another repository or digest", "the signature of another key", "an altered signature or payload", "something behind the signature, a second message",
	"two signatures in one message", "a weak hash", "a key that has expired or is revoked", "a compression bomb, a signature of megabytes",
	"a payload that two readers read differently", "a creator or a timestamp that says more than the policy", "a certificate of another key, or of the same key made at another time",
	"a path out of the lookaside (`..`, encoded slashes)", "a link out of the folder", "a gap in the numbers", "a list without end",
	"a server that redirects", "403 where nothing is, a server that is broken or throttles", "writers at once", "credentials to where verifiers read",
	"bytes to be signed that were altered in the database",
}

// TestEveryAttackOnApprovalsHasARowAndItsTestsExist holds the table of the
// document against the list above and the tests of the tree.
func TestEveryAttackOnApprovalsHasARowAndItsTestsExist(t *testing.T) {
	holdAttacks(t, "An approval that is none", attacks)
}

func TestEveryAttackOnSimpleSignaturesHasARowAndItsTestsExist(t *testing.T) {
	holdAttacks(t, "A lookaside, or somebody who can write to one", simpleAttacks)
}

func holdAttacks(t *testing.T, title string, attacks []string) {
	t.Helper()
	raw, err := os.ReadFile("../docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(raw), "\n### "+title+"\n")
	section, _, _ = strings.Cut(section, "\n### ")
	if !ok {
		t.Fatal("docs/threat-model.md has no section")
	}
	var told []string
	for row := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), " | ")
		if len(cells) != 3 || strings.HasPrefix(row, "| ---") || strings.HasPrefix(row, "|---") {
			continue
		}
		if name := strings.TrimSpace(cells[0]); name != "attack" {
			told = append(told, name)
			if !reTest.MatchString(cells[2]) {
				t.Errorf("%q names no test", name)
			}
		}
	}
	for _, a := range attacks {
		if !slices.Contains(told, a) {
			t.Errorf("docs/threat-model.md has no row for %q", a)
		}
	}
	if len(told) != len(attacks) {
		t.Errorf("%d rows, %d attacks", len(told), len(attacks))
	}
}
