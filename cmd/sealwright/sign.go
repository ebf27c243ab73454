package main

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sealwright/sealwright/internal/submit"
)

// runSign is the step in a pipeline under another name. It takes the token of a
// CI job: persons do not submit.
func runSign(args []string, s streams) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	defer stop()
	return submit.Main(ctx, submit.Process{
		Name: "sealwright sign", Args: args, Env: os.Getenv, Stdout: s.out, Stderr: s.err,
		Version: strings.TrimPrefix(version(), "sealwright "),
	})
}
