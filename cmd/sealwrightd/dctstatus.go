package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/method/dct"
	"github.com/sealwright/sealwright/internal/server"
	"github.com/sealwright/sealwright/internal/signing"
)

// cmdDCTStatus shows who may sign what in a repository, when each role ends, and
// what the running service says of renewing.
func cmdDCTStatus(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("dct status", errs)
	path := configFlag(f)
	gun, err := oneGUN(f, args)
	if err != nil {
		return err
	}
	c, ring, err := openRing(ctx, *path)
	if err != nil {
		return err
	}
	client, err := dct.Open(c.Notaries, dct.Options{Memory: dct.NewMemory()})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dctTimeout)
	defer cancel()
	s, err := client.Fetch(ctx, gun)
	if err != nil {
		return err
	}
	if err := printTrust(out, s, mine(ring), time.Now()); err != nil {
		return err
	}
	for _, line := range renewing(ctx, c.Server.AdminSocket, gun) {
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}

// mine names the keys of the service as metadata names them, bare.
func mine(ring *key.Ring) map[string]string {
	out := map[string]string{}
	for _, id := range ring.IDs() {
		info, _ := ring.Info(id)
		if k, err := dct.KeyFor(info); err == nil { // others cannot sign for dct
			out[k.Bare()] = id
		}
	}
	return out
}

// printTrust writes the roles of a repository.
func printTrust(out io.Writer, s *dct.State, mine map[string]string, now time.Time) error {
	var b strings.Builder
	role := func(name string, d dct.Document, more string) {
		left := d.Expires.Sub(now) / day
		fmt.Fprintf(&b, "%-24s version %-4d ends %s (%d days)  %s%s\n", name, d.Version, d.Expires.UTC().Format(time.DateOnly), left, holders(d.Keys, mine), more)
	}
	fmt.Fprintf(&b, "%s, root trusted by %s\n", s.Repository, s.Root.Trusted)
	role("root", s.Root.Document, "")
	role("snapshot", s.Snapshot, "")
	role("timestamp", s.Timestamp, "")
	for _, r := range s.Roles {
		switch {
		case !r.Published:
			fmt.Fprintf(&b, "%-24s nothing signed yet  %s\n", r.Name, holders(r.Keys, mine))
		case r.Err != nil:
			role(r.Name, r.Document, "; not believed: "+signing.Public(r.Err).Message)
		default:
			role(r.Name, r.Document, fmt.Sprintf("; %d tags", len(r.Targets)))
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// holders names who holds keys: the service, or somebody else.
func holders(keys []dct.Key, mine map[string]string) string {
	var who []string
	for _, k := range keys {
		name := k.ID[:min(12, len(k.ID))] + "..."
		if id, ok := mine[k.Bare()]; ok {
			name = id + " of this service"
		}
		who = append(who, "key "+name)
	}
	return strings.Join(who, ", ")
}

// renewing asks the running service what it says of the repository, if it runs.
func renewing(ctx context.Context, socket string, gun signing.Repository) []string {
	if socket == "" {
		return []string{"renewal: server.admin_socket is not set, so that the service cannot be asked which tags trace to requests"}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+server.PathReady, nil)
	if err != nil {
		return []string{"renewal: " + err.Error()}
	}
	resp, err := adminClient(socket).Do(req)
	if err != nil {
		return []string{"renewal: the service does not run, so that it cannot be asked which tags trace to requests"}
	}
	defer func() { _ = resp.Body.Close() }() // read only
	var said struct {
		Checks []struct{ Name, Detail string }
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxHealth)).Decode(&said); err != nil {
		return []string{"renewal: the service gave no answer"}
	}
	var out []string
	for _, c := range said.Checks {
		if strings.HasPrefix(c.Name, "trust "+string(gun)+" ") {
			out = append(out, "renewal: "+c.Name+": "+c.Detail)
		}
	}
	if len(out) == 0 {
		out = append(out, "renewal: the running service warns of nothing")
	}
	return out
}
