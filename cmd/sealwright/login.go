package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

const loginUsage = `Log in at your organisation's identity provider, for the commands of people. It
shows a code, which you enter on a page of the provider, on any device. The ID
token is kept in a file that only you can read, until it expires; nothing that
could make new ones is kept.

Usage:
  sealwright login [flags]

Flags:
  --server URL        address of the service (or SEALWRIGHT_SERVER)
  --issuer URL        at this provider, where the service knows several
  --client-id ID      as this client; the service says which
  --scope NAMES       further scopes, with commas
  --print             print the token, keep nothing
  --ca-file FILE      PEM file with further CAs that TLS may use
`

const logoutUsage = `Remove the token that "sealwright login" keeps for a service.

Usage:
  sealwright logout [--server URL]
`

// runLogin logs in and keeps the token.
func runLogin(args []string, s streams) int {
	set := flag.NewFlagSet("login", flag.ContinueOnError)
	o := online{set.String("server", os.Getenv("SEALWRIGHT_SERVER"), ""), new(string), set.String("ca-file", "", "")}
	issuer, client, scope := set.String("issuer", "", ""), set.String("client-id", "", ""), set.String("scope", "", "")
	printed := set.Bool("print", false, "")
	rest, code, done := parse(set, args, loginUsage, s)
	switch {
	case done:
		return code
	case len(rest) > 0:
		fmt.Fprintf(s.err, "sealwright: login takes no arguments\n\n%s", loginUsage)
		return exitUsage
	}
	roots, err := o.roots()
	if err == nil && !(*printed && *issuer != "" && *client != "") {
		_, err = o.client() // before somebody logs in for nothing
	}
	if err != nil {
		explain(s.err, "logging in", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	at := api.LoginIssuer{Issuer: *issuer, ClientID: *client}
	if *scope != "" {
		at.Scopes = strings.Split(*scope, ",")
	}
	d := device{now: time.Now, wait: wait, http: outbound.NewClient(outbound.Options{AllowHTTP: true, RootCAs: roots, MaxBody: maxDiscovery, UserAgent: "sealwright"})}
	d.show = func(v verification) error { return showCode(s.err, at.Issuer, v) }
	err = func() error {
		if at, err = o.where(ctx, at); err != nil {
			return err
		}
		d.issuer = at
		got, err := d.login(ctx)
		if err != nil {
			return err
		}
		return o.keep(s, got, *printed)
	}()
	if err == nil {
		return exitOK
	}
	explain(s.err, "logging in", err)
	if errors.Is(err, signing.Denied) {
		return exitDenied
	}
	return exitError
}

// where fills what the flags leave open from what the service says.
func (o online) where(ctx context.Context, at api.LoginIssuer) (api.LoginIssuer, error) {
	if at.Issuer != "" && at.ClientID != "" {
		return at, nil
	}
	c, err := o.client()
	if err != nil {
		return at, err
	}
	known, err := c.Login(ctx)
	if err != nil {
		var refusal *api.Refusal
		if errors.As(err, &refusal) {
			err = refusal.Problem.Err()
		}
		return at, err
	}
	var names []string
	var fit []api.LoginIssuer
	for _, i := range known.Issuers {
		names = append(names, i.Issuer)
		if at.Issuer == "" || at.Issuer == i.Issuer {
			fit = append(fit, i)
		}
	}
	if len(fit) != 1 {
		return at, &signing.Error{Code: signing.Invalid, Message: "it is not clear where to log in", Expected: "one issuer of role people at the service", Found: shown(fmt.Sprintf("%d: %s", len(names), strings.Join(names, " "))), Fix: "give --issuer, one of these; or have the operator add one to `issuers`"}
	}
	found := fit[0]
	if at.ClientID != "" {
		found.ClientID = at.ClientID
	}
	found.Scopes = append(found.Scopes, at.Scopes...)
	return found, nil
}

func showCode(w io.Writer, issuer string, v verification) error {
	_, err := fmt.Fprintf(w, "Open %s\nand enter the code %s\nto log in at %s. Nobody else may ask you to enter it.\n", v.URI, shown(v.UserCode), issuer)
	if err == nil && v.Complete != "" {
		_, err = fmt.Fprintf(w, "Or open %s, and compare the code.\n", v.Complete)
	}
	return err
}

// keep writes the token where the other commands look for it, or prints it.
func (o online) keep(s streams, got session, printed bool) error {
	if printed {
		_, err := fmt.Fprintln(s.out, got.token)
		return err
	}
	path, err := tokenPath(*o.server)
	if err != nil {
		return err
	}
	if err := writeToken(path, got.token); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.err, "Logged in as %s until %s. The token is in %s; `sealwright logout` removes it.\n", shown(got.subject), got.expires.Local().Format(time.RFC1123), path)
	return err
}

// tokenPath is where the token for a service is kept.
func tokenPath(server string) (string, error) {
	u, err := api.ParseServer(server)
	if err != nil {
		return "", err
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("looking for a place to keep the token: %w (use --print, or set HOME)", err)
	}
	h := sha256.Sum256([]byte(u.String()))
	return filepath.Join(dir, "sealwright", "token-"+hex.EncodeToString(h[:8])), nil
}

// writeToken replaces the file as a whole, readable by its owner only.
func writeToken(path, token string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".token-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(token + "\n")
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// keptToken reads what login wrote: a file of this user alone, and not over.
func keptToken(server string, now time.Time) (string, error) {
	refuse := func(code signing.Code, found string) error {
		return &signing.Error{Code: code, Message: "no token", Expected: "--token-file FILE, SEALWRIGHT_TOKEN_FILE, or the token of a login", Found: found, Fix: "run `sealwright login`"}
	}
	path, err := tokenPath(server)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", refuse(signing.Invalid, "none of them")
	case err != nil:
		return "", err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return "", refuse(signing.Invalid, path+" with mode "+info.Mode().String()+": others can read it, so that it must count as known")
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxToken+2))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(raw))
	if _, err := readSession(token, api.LoginIssuer{}, now); err != nil {
		return "", refuse(signing.Invalid, "the token of a login, in "+path+", that is over or damaged")
	}
	return token, nil
}

// runLogout removes the token of a service.
func runLogout(args []string, s streams) int {
	set := flag.NewFlagSet("logout", flag.ContinueOnError)
	server := set.String("server", os.Getenv("SEALWRIGHT_SERVER"), "")
	rest, code, done := parse(set, args, logoutUsage, s)
	switch {
	case done:
		return code
	case len(rest) > 0 || *server == "":
		fmt.Fprintf(s.err, "sealwright: logout takes no arguments, and needs --server or SEALWRIGHT_SERVER\n\n%s", logoutUsage)
		return exitUsage
	}
	path, err := tokenPath(*server)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		explain(s.err, "logging out", err)
		return exitError
	}
	return exitOK
}

// wait waits for d, or for the end of ctx.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
