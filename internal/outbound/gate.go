package outbound

import (
	"context"
	"sync"
)

// gate limits concurrent exchanges by host. Hosts come from strangers too (the
// redirects of a registry), so a host is forgotten when nobody talks to it.
type gate struct {
	per   int
	mu    sync.Mutex
	hosts map[string]*slots // guarded by mu
}

// slots are the places of one host. users counts those who hold or await one.
type slots struct {
	free  chan struct{}
	users int // guarded by gate.mu
}

// enter waits for a place at host and returns what gives it back; giving it back
// twice is harmless. It fails only when ctx ends first.
func (g *gate) enter(ctx context.Context, host string) (leave func(), err error) {
	g.mu.Lock()
	s, ok := g.hosts[host]
	if !ok {
		s = &slots{free: make(chan struct{}, g.per)}
		g.hosts[host] = s
	}
	s.users++
	g.mu.Unlock()

	select {
	case s.free <- struct{}{}:
	case <-ctx.Done():
		g.forget(host, s)
		return nil, ctx.Err()
	}
	return sync.OnceFunc(func() {
		<-s.free
		g.forget(host, s)
	}), nil
}

func (g *gate) forget(host string, s *slots) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(g.hosts, host)
	}
}
