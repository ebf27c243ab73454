// Command sealwright-ci is the step in a pipeline: it gets the job's token,
// asks Sealwright for signatures, waits, and writes outputs and a summary. It
// holds no key and has no state.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/sealwright/sealwright/internal/submit"
)

func main() {
	os.Exit(run())
}

func run() int {
	// GitHub sends SIGINT to a canceled step and SIGTERM 7.5 s later; GitLab
	// sends SIGTERM. A second one ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	defer stop()
	return submit.Main(ctx, submit.Process{
		Args: os.Args[1:], Env: os.Getenv, Stdout: os.Stdout, Stderr: os.Stderr,
		TTY: isTerminal(os.Stdout), Version: version(),
	})
}

// isTerminal reports whether progress can be drawn in place.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 &&
		os.Getenv("TERM") != "dumb" && os.Getenv("NO_COLOR") == "" && os.Getenv("CI") == ""
}

// stamped is what the linker was told, as in -X main.stamped=v1.2.3: a release
// is built without the history that the Go command would read.
var stamped string

// version is what a release says of itself, else what the Go command stamped
// into the binary.
func version() string {
	if stamped != "" {
		return stamped
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
