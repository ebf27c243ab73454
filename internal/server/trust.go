package server

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
)

// trust answers with everything that verifiers need: the log's key, every key,
// and for each way of signing its trust items and snippets.
func (s *Server) trust(c echo.Context, _ caller) error {
	keys, err := s.trusted()
	if err != nil {
		return err
	}
	out := api.Trust{Log: s.LogKey.String(), Keys: keys, Methods: []api.TrustMethod{}}
	ways, err := s.Workflow.Trust()
	if err != nil {
		return err
	}
	for _, w := range ways {
		m := api.TrustMethod{Method: w.Step.Method, Key: w.Step.Key, Options: w.Step.Options, Policies: w.Policies, Items: []api.TrustItem{}, Snippets: w.Info.Snippets}
		for _, item := range w.Info.Trust {
			m.Items = append(m.Items, api.TrustItem{Name: item.Name, MediaType: item.MediaType, Content: item.Bytes})
		}
		out.Methods = append(out.Methods, m)
	}
	return c.JSON(http.StatusOK, out)
}

func (s *Server) trusted() ([]signing.KeyRecord, error) {
	keys := make([]signing.KeyRecord, 0)
	for _, info := range s.Workflow.TrustedKeys() {
		k, err := info.Record()
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// trustKeys answers with the public half of every key.
func (s *Server) trustKeys(c echo.Context, _ caller) error {
	keys, err := s.trusted()
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, struct {
		Keys []signing.KeyRecord `json:"keys"`
	}{keys})
}

// trustKey answers with one public key as PEM, as `cosign verify --key` reads it.
func (s *Server) trustKey(c echo.Context, _ caller) error {
	keys, err := s.trusted()
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.ID == c.Param("id") {
			return c.Blob(http.StatusOK, "application/x-pem-file", []byte(k.PublicKey))
		}
	}
	return &signing.Error{Code: signing.NotFound, Message: "no such key", Fix: "see /v1/trust/keys"}
}

// trustLog answers with the key of the audit log, as `sealwright audit verify`
// reads it.
func (s *Server) trustLog(c echo.Context, _ caller) error {
	return c.String(http.StatusOK, s.LogKey.String()+"\n")
}
