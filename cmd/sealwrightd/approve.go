package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/sealwright/sealwright/internal/api"
)

// cmdApprove approves in an emergency, by the admin socket: it takes access to this
// machine and the token of a person, and two such people.
func cmdApprove(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("approve", errs)
	path := configFlag(f)
	glass := f.Bool("break-glass", false, "do without the quorum: two people and a ticket are needed, and the alarm is immediate")
	ticket := f.String("ticket", "", "reference of the emergency's `ticket`, as in INC-4711")
	token := f.String("token-file", "", "`file` with the approver's token, as `sealwright login` writes it")
	f.Usage = func() {
		fmt.Fprintln(errs, "usage: sealwrightd approve --break-glass --ticket TICKET --token-file FILE REQUEST CODE")
		f.PrintDefaults()
	}
	if err := parse(f, args, 2); err != nil {
		return err
	}
	switch {
	case !*glass:
		return &usageError{"--break-glass is missing: everything else is approved where the question was asked, or with `sealwright approve`"}
	case *ticket == "" || *token == "":
		return &usageError{"--ticket and --token-file are needed"}
	}
	socket, err := adminSocket(*path)
	if err != nil {
		return err
	}
	secret, err := readBounded(*token)
	if err != nil {
		return err
	}
	client, err := api.NewClient(api.ClientOptions{Server: "http://localhost", Transport: adminClient(socket).Transport, UserAgent: "sealwrightd/" + version()})
	if err != nil {
		return err
	}
	r, err := client.Approve(ctx, strings.TrimSpace(string(secret)), f.Arg(0), api.ApproveRequest{Code: f.Arg(1), Ticket: *ticket})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s is %s; the audit log has who broke the glass, and ticket %s\n", r.ID, r.State, *ticket)
	return err
}
