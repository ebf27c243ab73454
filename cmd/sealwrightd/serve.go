package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/sealwright/sealwright/internal/server"
)

// shutdownGrace is how long requests in hand may take when the service stops.
// What they began is durable either way.
const shutdownGrace = 20 * time.Second

// gcPercent is how much garbage may come on top of what is in use before it is
// collected. The service keeps some 10 MB; at Go's default of 100 the collector
// takes a tenth of the CPU of a busy one, to save memory that nobody is short of.
// GOGC in the environment wins.
const gcPercent = 400

// serve runs the service until ctx ends. started, if not nil, is told the
// address when it listens.
func serve(ctx context.Context, c *loaded, log *slog.Logger, started func(addr string)) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	s, err := open(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.store.Close()) }()
	l, err := listen(c.Server)
	if err != nil {
		return err
	}
	admin, err := listenAdmin(c.Server.AdminSocket)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	// Long polls end when the service stops; so do drives, between two steps.
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	public := server.HTTPServer(base, s.server.Handler(), log)
	local := server.HTTPServer(base, s.server.Admin(), log)
	failed := make(chan error, 2)
	go func() { failed <- public.Serve(l) }()
	if admin != nil {
		go func() { failed <- local.Serve(admin) }()
	}
	ran := make(chan error, 1)
	go func() { ran <- s.workflow.Run(base) }()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	poll := time.NewTicker(policyPoll)
	defer poll.Stop()
	var reloads sync.WaitGroup
	reloads.Go(func() { newReloader(c, s, log).run(base, poll.C, hangup) })
	defer reloads.Wait()
	log.Info("listening", "address", l.Addr().String(), "url", c.Server.URL, "tls", !c.Server.PlainHTTP)
	if started != nil {
		started(l.Addr().String())
	}
	select {
	case <-ctx.Done():
		log.Info("stopping")
	case err = <-failed:
		err = fmt.Errorf("serving: %w", err)
	}
	grace, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	// No new work first, then the long polls, then what is being driven.
	_ = l.Close() // Shutdown closes it again and reports
	stop()
	shut := errors.Join(ignoreClosed(public.Shutdown(grace)), ignoreClosed(local.Shutdown(grace)))
	return errors.Join(err, shut, <-ran)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func listen(c ServerConfig) (net.Listener, error) {
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", c.Listen, err)
	}
	if c.PlainHTTP {
		return l, nil
	}
	certs := &certificates{cert: c.TLS.Certificate, key: c.TLS.Key}
	if _, err := certs.get(nil); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return tls.NewListener(l, &tls.Config{GetCertificate: certs.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}), nil
}

// listenAdmin listens on the unix socket for the operator. Only the service's
// own user may connect.
func listenAdmin(path string) (net.Listener, error) {
	if path == "" {
		return nil, nil
	}
	// The database lock is held: a socket that is left over is nobody's.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing the old admin socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on the admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("guarding the admin socket: %w", err), l.Close())
	}
	return l, nil
}
