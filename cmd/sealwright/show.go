package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/sealwright/sealwright/internal/audit"
)

const auditShowUsage = `Print the entries of an export of the audit log, one to a line. Nothing is
verified: "sealwright audit verify" does that.

Usage:
  sealwright audit show [--request ID] DIR

Flags:
  --request ID   only what is about this request
`

// runAuditShow prints the entries of an export.
func runAuditShow(args []string, s streams) int {
	set := flag.NewFlagSet("audit show", flag.ContinueOnError)
	request := set.String("request", "", "")
	dirs, code, done := parse(set, args, auditShowUsage, s)
	switch {
	case done:
		return code
	case len(dirs) != 1:
		fmt.Fprintf(s.err, "sealwright: one export folder is needed, %d were given\n\n%s", len(dirs), auditShowUsage)
		return exitUsage
	}
	root, err := os.OpenRoot(dirs[0]) // no link leads out of it
	if err == nil {
		err = errors.Join(showEntries(root.FS(), *request, s.out), root.Close())
	}
	if err != nil {
		explain(s.err, "reading "+dirs[0], err)
		return exitError
	}
	return exitOK
}

func showEntries(fsys fs.FS, request string, out io.Writer) error {
	return audit.ReadEntries(fsys, func(index uint64, leaf []byte) error {
		ev, err := audit.ParseEvent(leaf)
		if err != nil {
			// Still worth seeing: it is what somebody altered.
			_, err = fmt.Fprintf(out, "%d not an event: %+.200q\n", index, leaf)
			return err
		}
		if request != "" && ev.Request != request {
			return nil
		}
		_, err = fmt.Fprintf(out, "%d %s\n", index, ev)
		return err
	})
}
