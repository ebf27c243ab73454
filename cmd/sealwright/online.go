package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// maxToken is what the service accepts: anything longer is another file.
	maxToken = 16 << 10
	// maxCA bounds a bundle of CA certificates; that of a whole system has some 300 KB.
	maxCA = 1 << 20
	// askTimeout bounds one question to the service.
	askTimeout = time.Minute
)

const onlineUsage = `  --server URL        address of the service (or SEALWRIGHT_SERVER)
  --token-file FILE   file with your ID token from the identity provider, "-" is
                      standard input (or SEALWRIGHT_TOKEN_FILE); by default the
                      token of "sealwright login"
  --ca-file FILE      PEM file with further CAs that the service's TLS may use
`

// online are the flags of every command that asks a service.
type online struct{ server, tokenFile, caFile *string }

func onlineFlags(fs *flag.FlagSet) online {
	return online{fs.String("server", os.Getenv("SEALWRIGHT_SERVER"), ""), fs.String("token-file", os.Getenv("SEALWRIGHT_TOKEN_FILE"), ""), fs.String("ca-file", "", "")}
}

// open returns a client and the token of the person. An error with code Invalid
// is one of usage.
func (o online) open(in io.Reader) (*api.Client, string, error) {
	client, err := o.client()
	if err != nil {
		return nil, "", err
	}
	token, err := o.token(in)
	return client, token, err
}

func (o online) client() (*api.Client, error) {
	if *o.server == "" {
		return nil, &signing.Error{Code: signing.Invalid, Message: "no server", Expected: "--server URL", Found: "neither the flag nor SEALWRIGHT_SERVER", Fix: "give the address that your CI jobs use"}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	pool, err := o.roots()
	if err != nil {
		return nil, err
	}
	if pool != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return api.NewClient(api.ClientOptions{Server: *o.server, UserAgent: "sealwright", Transport: transport})
}

// roots returns the CAs that TLS may use: the system's and those of --ca-file, or
// nil without that flag.
func (o online) roots() (*x509.CertPool, error) {
	if *o.caFile == "" {
		return nil, nil
	}
	f, err := os.Open(*o.caFile)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	pem, err := io.ReadAll(io.LimitReader(f, maxCA))
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, &signing.Error{Code: signing.Invalid, Message: "--ca-file cannot be used", Expected: "a PEM file with CA certificates", Found: "no certificate in it"}
	}
	return pool, nil
}

// token reads the token, which never is an argument: those are for all to see.
func (o online) token(in io.Reader) (string, error) {
	refuse := func(found string) error {
		return &signing.Error{Code: signing.Invalid, Message: "no token", Expected: "--token-file FILE with an ID token and nothing else", Found: found, Fix: "run `sealwright login`, or save an ID token of your identity provider to a file of your own"}
	}
	if *o.tokenFile == "" {
		return keptToken(*o.server, time.Now())
	}
	if *o.tokenFile != "-" {
		f, err := os.Open(*o.tokenFile)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }() // read only
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxToken+2))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(raw))
	switch {
	case token == "":
		return "", refuse("an empty file")
	case len(token) > maxToken:
		return "", refuse(fmt.Sprintf("more than %d bytes", maxToken))
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", refuse("a file with spaces or line breaks in it")
	}
	return token, nil
}

// ask runs a question to the service and returns the exit code.
func ask(s streams, what string, question func(context.Context) error) int {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	err := question(ctx)
	if err == nil {
		return exitOK
	}
	var refusal *api.Refusal
	if errors.As(err, &refusal) {
		err = refusal.Problem.Err()
	}
	explain(s.err, what, err)
	var wrong *unverified
	switch {
	case errors.As(err, &wrong):
		return exitVerified
	case errors.Is(err, signing.Denied), errors.Is(err, signing.Unauthenticated):
		return exitDenied
	}
	return exitError
}

// unverified is an answer that does not verify.
type unverified struct{ error }

func (u *unverified) Unwrap() error { return u.error }
