package main

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

const approveUsage = `Approve a request that waits for people, where its policy takes answers this way
(the way "api"). CODE is that of the question, "sealwright status ID" shows it
too: read what you approve first. Needs the role approver.

Usage:
  sealwright approve [flags] ID CODE

Flags:
` + onlineUsage

const denyUsage = `Say no to a request that waits for people, or take your own approval back. REASON
is shown to whoever asked. Needs the role approver.

Usage:
  sealwright deny [flags] ID CODE [REASON...]

Flags:
` + onlineUsage

const resubmitUsage = `Ask for the artifacts of a request again, under a policy for people
(origin: {human: true}) of the same project: what was signed for testing for a
release, say. The build is the recorded one, and approvals are asked for anew.
Needs the role submitter.

Usage:
  sealwright resubmit [flags] --policy NAME ID

Flags:
  --policy NAME       the policy to sign under
  --deadline TIME     how long it may wait for people, as in 24h
  --json              print the new request as JSON
` + onlineUsage

const retryUsage = `Have what a request waits for tried again now, and not when its next try is due.
Needs the role admin.

Usage:
  sealwright retry [flags] ID

Flags:
` + onlineUsage

// runApprove approves a request.
func runApprove(args []string, s streams) int {
	fs := flag.NewFlagSet("approve", flag.ContinueOnError)
	o := onlineFlags(fs)
	rest, code, done := parse(fs, args, approveUsage, s)
	if !done && len(rest) != 2 {
		return misused(s, "a request id and its code are needed, as in sr_7K2M0123456789AB 3f9c2a7b", approveUsage)
	}
	if done {
		return code
	}
	return command(s, o, rest[0], approveUsage, "approving the request", func(ctx context.Context, c *api.Client, token string) (api.Request, error) {
		return c.Approve(ctx, token, rest[0], api.ApproveRequest{Code: rest[1]})
	})
}

// runDeny denies a request.
func runDeny(args []string, s streams) int {
	fs := flag.NewFlagSet("deny", flag.ContinueOnError)
	o := onlineFlags(fs)
	rest, code, done := parse(fs, args, denyUsage, s)
	if !done && len(rest) < 2 {
		return misused(s, "a request id and its code are needed, as in sr_7K2M0123456789AB 3f9c2a7b", denyUsage)
	}
	if done {
		return code
	}
	return command(s, o, rest[0], denyUsage, "denying the request", func(ctx context.Context, c *api.Client, token string) (api.Request, error) {
		return c.Deny(ctx, token, rest[0], api.DenyRequest{Code: rest[1], Reason: strings.Join(rest[2:], " ")})
	})
}

// runRetry has a request tried again.
func runRetry(args []string, s streams) int {
	fs := flag.NewFlagSet("retry", flag.ContinueOnError)
	o := onlineFlags(fs)
	rest, code, done := parse(fs, args, retryUsage, s)
	if !done && len(rest) != 1 {
		return misused(s, "one request id is needed, as in sr_7K2M0123456789AB", retryUsage)
	}
	if done {
		return code
	}
	return command(s, o, rest[0], retryUsage, "retrying the request", func(ctx context.Context, c *api.Client, token string) (api.Request, error) {
		return c.Retry(ctx, token, rest[0])
	})
}

// runResubmit asks for the artifacts of a request again.
func runResubmit(args []string, s streams) int {
	fs := flag.NewFlagSet("resubmit", flag.ContinueOnError)
	o := onlineFlags(fs)
	policy, deadline, asJSON := fs.String("policy", "", ""), fs.Duration("deadline", 0, ""), fs.Bool("json", false, "")
	rest, code, done := parse(fs, args, resubmitUsage, s)
	switch {
	case done:
		return code
	case len(rest) != 1 || *policy == "" || *deadline < 0:
		return misused(s, "one request id and --policy are needed", resubmitUsage)
	}
	return asked(s, o, rest[0], resubmitUsage, "submitting again", func(ctx context.Context, c *api.Client, token string) error {
		r, err := c.Resubmit(ctx, token, rest[0], api.ResubmitRequest{Policy: *policy, DeadlineSeconds: int64(*deadline / time.Second)})
		if err != nil {
			return err
		}
		return printRequest(s, r, *asJSON)
	})
}

// command runs one that changes a request, and says what the request is now.
func command(s streams, o online, id, usage, what string, do func(context.Context, *api.Client, string) (api.Request, error)) int {
	return asked(s, o, id, usage, what, func(ctx context.Context, c *api.Client, token string) error {
		r, err := do(ctx, c, token)
		if err != nil {
			return err
		}
		return printRequest(s, r, false)
	})
}

// asked asks the service about the request id as the person who logged in.
func asked(s streams, o online, id, usage, what string, do func(context.Context, *api.Client, string) error) int {
	if !signing.ValidRequestID(id) {
		return misused(s, "the first argument is a request id, as in sr_7K2M0123456789AB", usage)
	}
	client, token, err := o.open(s.in)
	if err != nil {
		explain(s.err, what, err)
		return exitUsage
	}
	return ask(s, what, func(ctx context.Context) error { return do(ctx, client, token) })
}

func printRequest(s streams, r api.Request, inJSON bool) error {
	if inJSON {
		if asJSON(s, r) != exitOK {
			return fmt.Errorf("printing %s", r.ID)
		}
		return nil
	}
	_, err := fmt.Fprintf(s.out, "%s is %s\n", r.ID, r.State)
	return err
}

func misused(s streams, what, usage string) int {
	fmt.Fprintf(s.err, "sealwright: %s\n\n%s", what, usage)
	return exitUsage
}
