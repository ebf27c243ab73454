package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sealwright/sealwright/internal/audit"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"sealwright": main}) }

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"mkkey":    mkkey,
			"mkexport": mkexport,
			"exitcode": exitcode,
		},
	})
}

// exitcode N COMMAND... runs a program that must end with that code.
func exitcode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit interface{ ExitCode() int }
	if err != nil {
		var ok bool
		if exit, ok = err.(interface{ ExitCode() int }); !ok {
			ts.Fatalf("running %s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// mkkey PRIVATE PUBLIC writes a new key of the log.
func mkkey(ts *testscript.TestScript, _ bool, args []string) {
	private, public, err := audit.GenerateKey(rand.Reader, "sealwright.example/log")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(private+"\n"), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(public+"\n"), 0o600))
}

// mkexport PRIVATE DIR SIZE [CHANGED] writes the export of a log of SIZE events
// with a checkpoint every ten; event CHANGED says something else.
func mkexport(ts *testscript.TestScript, _ bool, args []string) {
	private := ts.ReadFile(args[0])
	signer, err := audit.NewSigner(private)
	ts.Check(err)
	size, err := strconv.Atoi(args[2])
	ts.Check(err)
	changed := -1
	if len(args) > 3 {
		changed, err = strconv.Atoi(args[3])
		ts.Check(err)
	}
	nodes := map[audit.NodeID][]byte{}
	read := func(_ context.Context, ids []audit.NodeID) ([][]byte, error) {
		var out [][]byte
		for _, id := range ids {
			out = append(out, bytes.Clone(nodes[id]))
		}
		return out, nil
	}
	var leaves, checkpoints [][]byte
	for i := range size {
		version := "v1"
		if i == changed {
			version = "v2"
		}
		leaf, err := (audit.Event{Time: time.Date(2026, 3, 1, 12, 0, i, 0, time.UTC), Kind: audit.ServiceStarted, Attrs: map[string]string{"version": version}}).Marshal()
		ts.Check(err)
		frontier, err := read(context.Background(), audit.Frontier(uint64(i)))
		ts.Check(err)
		added, root, err := audit.Extend(uint64(i), frontier, [][]byte{leaf})
		ts.Check(err)
		for _, n := range added {
			nodes[n.ID] = n.Hash
		}
		leaves = append(leaves, leaf)
		if (i+1)%10 == 0 || i+1 == size {
			c, err := signer.SignCheckpoint(uint64(i+1), root)
			ts.Check(err)
			checkpoints = append(checkpoints, c)
		}
	}
	put, err := audit.Folder(ts.MkAbs(args[1]))
	ts.Check(err)
	_, err = audit.WriteExport(context.Background(), audit.Source{
		Entries:     func(_ context.Context, from, to uint64) ([][]byte, error) { return leaves[from:to], nil },
		Nodes:       read,
		Checkpoints: all(checkpoints),
	}, put)
	ts.Check(err)
}

func all(list [][]byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, b := range list {
			if !yield(b, nil) {
				return
			}
		}
	}
}

func TestLinkOutOfTheExportIsNotFollowed(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "checkpoint")
	if err := os.WriteFile(secret, []byte("elsewhere"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "checkpoint")); err != nil {
		t.Fatal(err)
	}
	_, public, err := audit.GenerateKey(rand.Reader, "sealwright.example/log")
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run([]string{"audit", "verify", "--log-key", public, dir}, streams{nil, &out, &errs}); code == exitOK || bytes.Contains(errs.Bytes(), []byte("elsewhere")) {
		t.Errorf("exit code %d, %s", code, fmt.Sprint(&errs))
	}
}

func TestSignIsTheStepUnderAnotherName(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run([]string{"sign", "--help"}, streams{nil, &out, &errs}); code != exitOK || !strings.Contains(out.String(), "  sealwright sign --server URL --policy NAME IMAGE...") || strings.Contains(out.String(), "sealwright-ci") {
		t.Errorf("%d\n%s", code, out.String())
	}
	out.Reset()
	t.Setenv("SEALWRIGHT_ID_TOKEN", "x")
	if code := run([]string{"sign", "--server", "https://sign.acme.dev"}, streams{nil, &out, &errs}); code != exitUsage || !strings.Contains(out.String(), "the input `policy` is missing") {
		t.Errorf("%d\n%s", code, out.String())
	}
}
