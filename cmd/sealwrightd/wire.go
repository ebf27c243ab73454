package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/sealwright/sealwright/internal/audit"
	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/identity"
	"github.com/sealwright/sealwright/internal/key"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/policy"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/server"
	"github.com/sealwright/sealwright/internal/store"
	"github.com/sealwright/sealwright/internal/workflow"
)

// service is the assembled service. close releases what it holds.
type service struct {
	config   *loaded
	store    *store.Store
	workflow *workflow.Workflow
	server   *server.Server
	logKey   *audit.Verifier
	steps    func(*policy.Set) error // checkSteps with the keys that are open
}

// open builds the service. A configured key, secret or file that cannot be
// used stops the start; a remote that is down does not.
func open(ctx context.Context, c *loaded, log *slog.Logger) (*service, error) {
	ring, err := key.Open(ctx, c.Keys, key.Options{PKCS11: modules()})
	if err != nil {
		return nil, err
	}
	signer, err := openLogKey(c.Log.Key)
	if err != nil {
		return nil, err
	}
	ids, err := identity.New(ctx, c.Issuers, identity.Options{Client: issuerClient(nil), ClientFor: issuerClient, Now: time.Now, Log: log})
	if err != nil {
		return nil, err
	}
	reg, err := registry.New(c.Registries, registry.Options{Log: log})
	if err != nil {
		return nil, err
	}
	s := &service{config: c, logKey: signer.Verifier()}
	metrics := server.NewMetrics(s.backlog)
	forges, err := openForges(c.Forges, metrics.Left)
	if err != nil {
		return nil, err
	}
	described, err := methods(c.Config, reg, nil)
	if err != nil {
		return nil, err
	}
	steps := func(set *policy.Set) error {
		if err := checkSteps(set, ring, described); err != nil {
			return err
		}
		return errors.Join(unasked(set, c.Forges).Err(), unserved(set, c.Notaries).Err())
	}
	if err := steps(c.Policies); err != nil {
		return nil, err
	}
	db, err := openStore(ctx, c.Store, log)
	if err != nil {
		return nil, err
	}
	s.store, s.steps = db, steps
	signers, err := methods(c.Config, reg, db)
	if err != nil {
		return nil, fmt.Errorf("%w (closing: %v)", err, db.Close())
	}
	s.workflow, err = workflow.New(workflow.Options{
		Store: db, Policies: c.Policies, Keys: ring, Methods: signers, Registry: reg,
		LogSigner: signer, CheckpointFile: c.Log.CheckpointFile, CheckpointEvery: c.Log.CheckpointEvery.Duration(),
		Now: time.Now, Rand: rand.Reader, Log: log, Owner: owner(), Version: version(), Workers: c.Workers, Steps: metrics.Step,
		Forges: forges, ForgePoll: polls(c.Forges), Directory: c.People, Heard: metrics.Heard,
	})
	if err == nil {
		err = s.workflow.Load(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%w (closing: %v)", err, db.Close())
	}
	metrics.Generation(s.workflow.Generation)
	metrics.Waiting(s.waiting)
	metrics.Ends(s.workflow.Endings)
	s.server = server.New(server.Options{
		Workflow: s.workflow, Store: db, Identity: ids, LogKey: s.logKey, Log: log, Now: time.Now, Metrics: metrics,
		Rate: c.Server.Rate, PublicLog: c.Server.PublicLog,
	})
	return s, nil
}

// backlog is scraped with the metrics; a database that cannot be read has an
// unknown backlog.
func (s *service) backlog() float64 {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var n int
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		n, _, err = tx.Backlog()
		return err
	})
	if err != nil {
		return -1
	}
	return float64(n)
}

// waiting is scraped with the metrics, as backlog is.
func (s *service) waiting() float64 {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var n int
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		n, err = tx.CountAwaiting()
		return err
	})
	if err != nil {
		return -1
	}
	return float64(n)
}

func openStore(ctx context.Context, c StoreConfig, log *slog.Logger) (*store.Store, error) {
	var secrets [][]byte
	for i, ref := range c.StateSecret {
		text, err := ref.Read(os.LookupEnv)
		if err != nil {
			return nil, fmt.Errorf("reading state secret %d: %w", i+1, err)
		}
		raw, err := hex.DecodeString(string(text))
		if err != nil {
			return nil, fmt.Errorf("state secret %d is not hexadecimal; make one with `sealwrightd keys new --type state-secret`", i+1)
		}
		secrets = append(secrets, raw)
	}
	return store.Open(ctx, store.Options{Path: c.SQLite, Secrets: secrets, Now: time.Now, Log: log})
}

func openLogKey(ref config.Secret) (*audit.Signer, error) {
	raw, err := ref.Read(os.LookupEnv)
	if err != nil {
		return nil, fmt.Errorf("reading the key of the audit log: %w", err)
	}
	return audit.NewSigner(string(raw))
}

// issuerClient returns a client for discovery documents and key sets.
func issuerClient(roots *x509.CertPool) *http.Client {
	return outbound.NewClient(outbound.Options{Timeout: 10 * time.Second, MaxBody: 256 << 10, AllowHTTP: true, RootCAs: roots})
}

// owner names this process in leases.
func owner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d-%d", host, os.Getpid(), time.Now().UnixNano())
}

// certificates reads the TLS certificate again when its file has changed, so
// that it can be renewed without a restart.
type certificates struct {
	cert, key string

	mu     sync.Mutex
	read   time.Time        // guarded by mu; modification time of what is loaded
	loaded *tls.Certificate // guarded by mu
}

func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.cert)
	if err == nil && c.loaded != nil && info.ModTime().Equal(c.read) {
		return c.loaded, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.cert, c.key)
	}
	if err != nil {
		if c.loaded != nil {
			return c.loaded, nil // half-written files: the old pair still serves
		}
		return nil, fmt.Errorf("reading the TLS certificate: %w", err)
	}
	c.loaded, c.read = &pair, info.ModTime()
	return c.loaded, nil
}
