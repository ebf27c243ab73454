package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/server"
)

const (
	// healthTimeout is shorter than the time-out of any prober's own.
	healthTimeout = 4 * time.Second
	// maxHealth bounds the answer: a line for each check and key.
	maxHealth = 64 << 10
)

// adminClient speaks to the admin socket, whatever the host of a URL is.
func adminClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
}

// adminSocket reads from a configuration where the admin socket is, and nothing
// else.
func adminSocket(path string) (string, error) {
	raw, err := readBounded(path)
	if err != nil {
		return "", err
	}
	doc, err := config.Parse(path, raw)
	if err != nil {
		return "", err
	}
	var c Config
	if err := doc.Decode(&c); err != nil {
		return "", err
	}
	c.resolve(filepath.Dir(path))
	if c.Server.AdminSocket == "" {
		return "", errors.New("server.admin_socket is not set: there is nobody to ask")
	}
	return c.Server.AdminSocket, nil
}

// cmdHealth asks the running service whether it is ready. It is the health check
// of the container image, which holds no other program. It reads where the socket
// is and nothing else: no key is opened every half minute.
func cmdHealth(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("health", errs)
	path := configFlag(f)
	if err := parse(f, args, 0); err != nil {
		return err
	}
	socket, err := adminSocket(*path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+server.PathReady, nil)
	if err != nil {
		return err
	}
	resp, err := adminClient(socket).Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotRunning, err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxHealth))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", text)
	}
	_, err = fmt.Fprintf(out, "%s\n", text)
	return err
}
