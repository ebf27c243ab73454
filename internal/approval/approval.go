// Package approval decides what people's words are worth: which lines of a
// comment are commands, which code they must repeat, who may not approve, whether
// a quorum can be met, and whether it is met. It is pure: it asks nobody and
// keeps nothing.
//
// What it guarantees:
//   - A command is a line that the forge shows as plain text. What is shown as code
//     or a quote, or not shown at all, is none.
//   - A person counts once: over all groups, all ways and all accounts.
//   - What is not known about who made a build is a refusal, never an approval.
package approval

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"strconv"

	"github.com/sealwright/sealwright/internal/signing"
)

// CodeLength is how many hexadecimal digits a code has. It is no secret: it makes
// a command say which content and which question it answers.
const CodeLength = 8

// Code returns the code of a question: it differs for every request, every basis
// and every round of asking.
func Code(requestID string, basis signing.Digest, round int) string {
	h := sha256.Sum256([]byte("sealwright approval code 1\n" + requestID + "\n" + string(basis) + "\n" + strconv.Itoa(round) + "\n"))
	return hex.EncodeToString(h[:])[:CodeLength]
}

// SameCode reports whether a and b are the same code, in time that does not
// depend on where they differ.
func SameCode(a, b string) bool {
	return len(a) == CodeLength && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
