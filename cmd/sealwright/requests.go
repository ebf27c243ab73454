package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/view"
)

const requestsUsage = `List requests, the last submitted first. Needs the role auditor or admin.

Usage:
  sealwright requests [flags]

Flags:
  --project NAME      of this project only
  --state STATE       in this state only, as in awaiting_approval
  --digest DIGEST     that have an artifact with this digest
  --limit N           at most so many (default 50)
  --json              print each as a line of JSON
` + onlineUsage

const statusUsage = `Show a request: what was asked for, from which commit, what was decided and
why, where the signatures are. Needs the role auditor or admin.

Usage:
  sealwright status [flags] ID

Flags:
  --json              print it as JSON
` + onlineUsage

const cancelUsage = `Cancel a request, whoever submitted it. Needs the role admin.

Usage:
  sealwright cancel [flags] ID

Flags:
` + onlineUsage

// runRequests lists requests.
func runRequests(args []string, s streams) int {
	fs := flag.NewFlagSet("requests", flag.ContinueOnError)
	o := onlineFlags(fs)
	project, state, digest := fs.String("project", "", ""), fs.String("state", "", ""), fs.String("digest", "", "")
	limit, asJSON := fs.Int("limit", 50, ""), fs.Bool("json", false, "")
	rest, code, done := parse(fs, args, requestsUsage, s)
	switch {
	case done:
		return code
	case len(rest) > 0 || *limit < 1:
		fmt.Fprintf(s.err, "sealwright: no arguments, and a limit of 1 or more\n\n%s", requestsUsage)
		return exitUsage
	}
	client, token, err := o.open(s.in)
	if err != nil {
		explain(s.err, "listing requests", err)
		return exitUsage
	}
	return ask(s, "listing requests", func(ctx context.Context) error {
		q := api.Query{Project: *project, Digest: *digest, State: signing.RequestState(*state)}
		for left := *limit; ; {
			page, err := client.List(ctx, token, q)
			if err != nil {
				return err
			}
			for _, r := range page.Requests {
				if left == 0 {
					fmt.Fprintln(s.err, "sealwright: there are more; raise --limit")
					return nil
				}
				left--
				if err := printLine(s.out, r, *asJSON); err != nil {
					return err
				}
			}
			if q.Cursor = page.Cursor; q.Cursor == "" {
				return nil
			}
		}
	})
}

func printLine(w io.Writer, r api.Summary, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(r)
	}
	_, err := fmt.Fprintln(w, view.RequestLine(r.Domain(), r.Artifact.Artifact(), r.Artifacts))
	return err
}

// runStatus shows one request.
func runStatus(args []string, s streams) int {
	fs := flag.NewFlagSet("status", flag.ContinueOnError)
	o := onlineFlags(fs)
	asJSON := fs.Bool("json", false, "")
	return about(fs, o, args, statusUsage, s, "reading the request", func(ctx context.Context, c *api.Client, token, id string) error {
		r, err := c.GetAs(ctx, id, token, 0, 0)
		if err != nil {
			return err
		}
		if *asJSON {
			return json.NewEncoder(s.out).Encode(r)
		}
		request, tasks := r.Domain()
		view.RequestText(s.out, request, tasks, false)
		return nil
	})
}

// runCancel cancels one request.
func runCancel(args []string, s streams) int {
	fs := flag.NewFlagSet("cancel", flag.ContinueOnError)
	o := onlineFlags(fs)
	return about(fs, o, args, cancelUsage, s, "canceling the request", func(ctx context.Context, c *api.Client, token, id string) error {
		r, err := c.Cancel(ctx, token, id)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.out, "%s is %s\n", r.ID, r.State)
		return err
	})
}

// about is a command about the one request that its argument names.
func about(fs *flag.FlagSet, o online, args []string, usage string, s streams, what string, do func(ctx context.Context, c *api.Client, token, id string) error) int {
	ids, code, done := parse(fs, args, usage, s)
	switch {
	case done:
		return code
	case len(ids) != 1 || !signing.ValidRequestID(ids[0]):
		fmt.Fprintf(s.err, "sealwright: one request id is needed, as in sr_7K2M0123456789AB\n\n%s", usage)
		return exitUsage
	}
	client, token, err := o.open(s.in)
	if err != nil {
		explain(s.err, what, err)
		return exitUsage
	}
	return ask(s, what, func(ctx context.Context) error { return do(ctx, client, token, ids[0]) })
}
