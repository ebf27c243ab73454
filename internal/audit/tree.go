package audit

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/sealwright/sealwright/internal/signing"
)

// HashSize is the length of every hash of the tree: SHA-256, RFC 6962 section 2.1.
const HashSize = sha256.Size

// MaxSize bounds the number of entries of a log. No log comes near it; it keeps
// sizes inside SQL's and Go's signed integers.
const MaxSize = math.MaxInt64

// NodeID names a node of the tree: level 0 holds the leaf hashes, node (l, i)
// covers the leaves from i<<l to (i+1)<<l. Only nodes whose subtree is full are
// stored; they never change.
type NodeID = compact.NodeID

// Node is a stored node.
type Node struct {
	ID   NodeID
	Hash []byte
}

// NodeReader returns the hashes of stored nodes, in the order of ids. A node
// that is not there is an error.
type NodeReader func(ctx context.Context, ids []NodeID) ([][]byte, error)

// LeafHash returns the hash of a leaf: SHA-256(0x00 || leaf).
func LeafHash(leaf []byte) []byte { return rfc6962.DefaultHasher.HashLeaf(leaf) }

// Frontier returns the ids of the nodes that a log of the given size is
// extended from, and that its root is computed from: at most 63, left to right.
func Frontier(size uint64) []NodeID { return compact.RangeNodes(0, size, nil) }

// Extend appends leaves to a log of the given size. Frontier holds the hashes
// of Frontier(size) in that order and is not changed. It returns every node that
// becomes full, each once, leaf hashes included, and the root of the log of
// size+len(leaves) entries (RFC 6962 section 2.1). The caller stores the nodes
// and the leaves in one transaction.
func Extend(size uint64, frontier, leaves [][]byte) (nodes []Node, root []byte, err error) {
	r, err := newRange(size, frontier)
	if err != nil {
		return nil, nil, err
	}
	if uint64(len(leaves)) > MaxSize-size {
		return nil, nil, refuse("log too large", fmt.Sprint(uint64(MaxSize)), "", "")
	}
	// A full binary tree has less than two nodes for each leaf.
	nodes = make([]Node, 0, 2*len(leaves)+len(frontier))
	for _, leaf := range leaves {
		if err := r.Append(LeafHash(leaf), func(id NodeID, hash []byte) { nodes = append(nodes, Node{id, hash}) }); err != nil {
			return nil, nil, fmt.Errorf("extending the log at %d: %w", r.End(), err)
		}
	}
	root, err = rootOf(r)
	return nodes, root, err
}

// Root returns the root of a log of the given size from the hashes of Frontier(size).
func Root(size uint64, frontier [][]byte) ([]byte, error) {
	r, err := newRange(size, frontier)
	if err != nil {
		return nil, err
	}
	return rootOf(r)
}

// newRange returns the compact range [0, size). The library appends in place, so the slice is cloned.
func newRange(size uint64, frontier [][]byte) (*compact.Range, error) {
	if size > MaxSize {
		return nil, refuse("log too large", fmt.Sprint(uint64(MaxSize)), fmt.Sprint(size), "")
	}
	for i, h := range frontier {
		if len(h) != HashSize {
			return nil, refuse(fmt.Sprintf("node %d of the frontier is not a hash", i), "32 bytes", fmt.Sprintf("%d bytes", len(h)), "")
		}
	}
	f := &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	r, err := f.NewRange(0, size, slices.Clone(frontier))
	if err != nil {
		return nil, fmt.Errorf("reading the frontier of the log: %w", err)
	}
	return r, nil
}

func rootOf(r *compact.Range) ([]byte, error) {
	if r.End() == 0 {
		return rfc6962.DefaultHasher.EmptyRoot(), nil
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		return nil, fmt.Errorf("computing the root of the log: %w", err)
	}
	return root, nil
}

// InclusionProof returns the audit path of the entry at index in the log of the
// given size (RFC 6962 section 2.1.1).
func InclusionProof(ctx context.Context, nodes NodeReader, index, size uint64) ([][]byte, error) {
	n, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "no such entry in the log", Err: err}
	}
	return readProof(ctx, nodes, n)
}

// VerifyInclusion proves that leaf is the entry at index of the log that c commits to.
func VerifyInclusion(c Checkpoint, index uint64, leaf []byte, path [][]byte) error {
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, c.Size, LeafHash(leaf), path, c.Root); err != nil {
		return &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("entry %d is not in the log of checkpoint %d", index, c.Size), Err: err}
	}
	return nil
}

// ConsistencyProof returns the proof that the log of the size from is a prefix
// of the log of the size to (RFC 6962 section 2.1.2).
func ConsistencyProof(ctx context.Context, nodes NodeReader, from, to uint64) ([][]byte, error) {
	n, err := proof.Consistency(from, to)
	if err != nil {
		return nil, &signing.Error{Code: signing.Invalid, Message: "no such interval in the log", Err: err}
	}
	return readProof(ctx, nodes, n)
}

// VerifyConsistency proves that the log of newer is the log of older with
// entries added at its end, if any.
func VerifyConsistency(older, newer Checkpoint, path [][]byte) error {
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, older.Size, newer.Size, path, older.Root, newer.Root); err != nil {
		return &signing.Error{Code: signing.Invalid, Message: fmt.Sprintf("the log of checkpoint %d does not continue the log of checkpoint %d", newer.Size, older.Size), Fix: "keep both checkpoints: together they are evidence that the log was rewritten", Err: err}
	}
	return nil
}

func readProof(ctx context.Context, nodes NodeReader, n proof.Nodes) ([][]byte, error) {
	if len(n.IDs) == 0 {
		return nil, nil
	}
	hashes, err := nodes(ctx, n.IDs)
	if err != nil {
		return nil, fmt.Errorf("reading the nodes of a proof: %w", err)
	}
	path, err := n.Rehash(hashes, rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		return nil, fmt.Errorf("assembling a proof: %w", err)
	}
	return path, nil
}
