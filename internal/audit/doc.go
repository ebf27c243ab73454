// Package audit is the log that cannot be rewritten without being noticed: the
// form of its events, the Merkle tree over them, signed checkpoints, proofs, the
// export and its verification.
//
// The tree is that of RFC 6962 section 2.1 (SHA-256), served and exported as
// C2SP tlog-tiles, its checkpoints are C2SP tlog-checkpoint signed with an
// Ed25519 key of the log's own. Nothing here stores: whoever keeps the log gives
// the hashes of Frontier to Extend and keeps the nodes that come back.
//
// What it guarantees: whoever holds a checkpoint and the log's public key can
// tell whether an export continues the log that the checkpoint was signed for.
// What it does not: an operator who holds the key can show different logs to
// people who never compare checkpoints, and VerifyExport without a known
// checkpoint cannot tell an old export from a new one.
package audit
