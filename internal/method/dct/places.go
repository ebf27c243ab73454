package dct

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/method"
	"github.com/sealwright/sealwright/internal/registry"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// PlacesFile is the trust item that says which Notary servers there are, and which
	// roots are pinned there.
	PlacesFile = "notaries.json"
	// maxPlaces bounds such a document: a thousand pins take some 200 KiB.
	maxPlaces = 1 << 20
	// maxPlaceRows bounds its rows.
	maxPlaceRows = 256
)

// published is one row of PlacesFile. Certificates are in it, as PEM: whoever reads it
// has none of the service's files.
type published struct {
	URL          string         `json:"url"`
	Repositories []string       `json:"repositories"`
	CA           string         `json:"ca,omitempty"`
	Pins         []publishedPin `json:"pins"`
}

type publishedPin struct {
	Repository string   `json:"repository"`
	RootKeys   []string `json:"rootKeys,omitempty"`
	CA         string   `json:"ca,omitempty"`
}

// places returns PlacesFile for the rows of c. Credentials are not in it, and roots
// that were trusted on first use are not either: that was the service's own word.
func (c *Client) places() ([]byte, error) {
	rows := []published{}
	for _, n := range c.rows {
		p := published{URL: n.URL, Repositories: n.Repositories, Pins: []publishedPin{}}
		var err error
		if p.CA, err = readPEM(n.CAFile); err != nil {
			return nil, err
		}
		for _, pin := range n.Config.Pins {
			q := publishedPin{Repository: pin.Repository, RootKeys: pin.RootKeys}
			if q.CA, err = readPEM(pin.CAFile); err != nil {
				return nil, err
			}
			p.Pins = append(p.Pins, q)
		}
		rows = append(rows, p)
	}
	return json.Marshal(rows)
}

func readPEM(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	raw, err := config.ReadFile(path, config.MaxCA)
	return string(raw), err
}

// Read returns a method that reads and verifies what is published on the servers of a
// trust item, anonymously. It remembers nothing, and trusts nothing on first use.
func Read(document []byte, now func() time.Time) (*Method, error) {
	bad := func(found string) (*Method, error) {
		return nil, &signing.Error{Code: signing.Invalid, Message: "not a list of notary servers", Expected: "the trust item " + PlacesFile + " of the service", Found: found}
	}
	rows, err := method.Rows[published](document, maxPlaces, maxPlaceRows)
	if err != nil {
		return bad(err.Error())
	}
	c := &Client{now: now}
	for _, r := range rows {
		n, err := r.open()
		if err != nil {
			return bad(err.Error())
		}
		c.rows = append(c.rows, n)
	}
	return New(c), nil
}

// open makes a client of a row.
func (p published) open() (notary, error) {
	n := notary{Config: Config{URL: p.URL, Repositories: p.Repositories, TrustOnFirstUse: true}}
	if err := Check([]Config{n.Config}).Err(); err != nil {
		return notary{}, err
	}
	n.TrustOnFirstUse = false // it was for Check, which wants pins or that
	o := registry.Options{}
	if p.CA != "" {
		pool, err := poolOf(p.CA)
		if err != nil {
			return notary{}, err
		}
		o.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, DisableCompression: true, MaxResponseHeaderBytes: maxAnswer}
	}
	for _, q := range p.Pins {
		one := pin{keys: q.RootKeys}
		if q.CA != "" {
			pool, err := poolOf(q.CA)
			if err != nil {
				return notary{}, err
			}
			one.roots = pool
		}
		n.Config.Pins = append(n.Config.Pins, Pin{Repository: q.Repository, RootKeys: q.RootKeys})
		n.pins = append(n.pins, one)
	}
	u, err := url.Parse(p.URL)
	if err != nil {
		return notary{}, err
	}
	n.server, err = registry.NewNotary(registry.Config{Host: u.Host, InsecureHTTP: strings.HasPrefix(p.URL, "http:")}, o)
	return n, err
}

func poolOf(text string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(text)) {
		return nil, fmt.Errorf("a certificate that is none")
	}
	return pool, nil
}
