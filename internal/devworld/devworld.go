// Package devworld is the world around the service, played on loopback: a
// GitHub-like and a GitLab-like token issuer, an identity provider of persons and
// a container registry, with knobs that make them misbehave. `sealwrightd dev` and the tests run the real
// service against it.
//
// It listens on loopback addresses only and keeps everything in memory. Its
// issuers sign whatever they are asked to, so no service that matters may trust
// them: the keys are made by the process, and end with it.
package devworld

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// headerTimeout ends connections that never send a request.
const headerTimeout = 10 * time.Second

// Options configure a World; the zero value is ready to use.
type Options struct {
	// Addr and RegistryAddr are where issuers with control endpoints and the
	// registry listen, "127.0.0.1:0" by default. Others than loopback are refused.
	Addr, RegistryAddr string
	// NoReferrers leaves the referrers API out of the registry.
	NoReferrers bool
	Now         func() time.Time // time.Now by default
	// Keys are the first keys of the issuers of GitHub, GitLab and persons, for tests
	// of many worlds: a new one takes a tenth of a second. Nil makes new ones.
	Keys *IssuerKeys
	// ControlToken guards the control endpoints; it is random by default.
	ControlToken string
}

// World is a running world. Close it.
type World struct {
	// URL is where the issuers and the control endpoints listen.
	URL string
	// ControlToken is the bearer token of the control endpoints.
	ControlToken string
	// GitHub and GitLab are the issuers, at URL/github and URL/gitlab.
	GitHub, GitLab *Issuer
	// People is the identity provider of persons, at URL/people.
	People *Issuer
	// CI has the faults and the access log of the issuers.
	CI *Faults
	// Registry is the container registry.
	Registry *Registry

	options Options
	mu      sync.Mutex // guards those below
	servers []*http.Server
	holds   map[string]*Fault
	forge   *Forge // nil until StartForge
}

// Start starts a world.
func Start(o Options) (*World, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ControlToken == "" {
		o.ControlToken = randomText()
	}
	w := &World{ControlToken: o.ControlToken, options: o, holds: map[string]*Fault{}}
	if err := w.open(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (w *World) open() error {
	l, err := listen(w.options.Addr)
	if err != nil {
		return err
	}
	w.URL = "http://" + l.Addr().String()
	if err := w.openIssuers(); err != nil {
		return errors.Join(err, l.Close())
	}
	mux := http.NewServeMux()
	mux.Handle("/", w.CI)
	w.control(mux)
	w.serve(l, mux)
	w.Registry, err = w.StartRegistry(w.options.RegistryAddr, !w.options.NoReferrers)
	return err
}

func (w *World) openIssuers() (err error) {
	keys := w.options.Keys
	if keys == nil {
		if keys, err = NewIssuerKeys(); err != nil {
			return err
		}
	}
	w.GitHub = newIssuer(w.URL+"/github", w.options.Now, keys.github)
	w.GitLab = newIssuer(w.URL+"/gitlab", w.options.Now, keys.gitlab)
	w.People = newIssuer(w.URL+"/people", w.options.Now, keys.people)
	issuers := http.NewServeMux()
	issuers.Handle("/github/", w.GitHub)
	issuers.Handle("/gitlab/", w.GitLab)
	issuers.Handle("/people/", w.People)
	w.CI = NewFaults(issuers, w.options.Now)
	return nil
}

// StartRegistry starts a further registry of this world at addr, which may be
// empty.
func (w *World) StartRegistry(addr string, referrers bool) (*Registry, error) {
	l, err := listen(addr)
	if err != nil {
		return nil, err
	}
	r := newRegistry(l.Addr().String(), referrers, w.options)
	w.serve(l, r)
	return r, nil
}

func (w *World) serve(l net.Listener, h http.Handler) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout}
	w.mu.Lock()
	w.servers = append(w.servers, s)
	w.mu.Unlock()
	go func() { _ = s.Serve(l) }() // ends with http.ErrServerClosed when the world is closed
}

// Close ends the world and every request that it still holds.
func (w *World) Close() error {
	w.mu.Lock()
	servers := w.servers
	w.servers = nil
	w.mu.Unlock()
	var errs []error
	for _, s := range servers {
		if f, ok := s.Handler.(interface{ Close() }); ok {
			f.Close()
		}
		errs = append(errs, s.Close())
	}
	if w.CI != nil {
		w.CI.Close()
	}
	return errors.Join(errs...)
}

// listen listens on a loopback address and refuses every other.
func listen(addr string) (net.Listener, error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listening on %q: %w (write a loopback address, 127.0.0.1:0)", addr, err)
	}
	if !a.Addr().IsLoopback() {
		return nil, fmt.Errorf("listening on %s: not a loopback address; this world signs whatever it is asked to", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", addr, err)
	}
	return l, nil
}
