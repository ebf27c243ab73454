package server

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/store"
)

const (
	pathLookaside = "/lookaside/"
	// signatureAge is how long a signature may be kept by caches: a number is never
	// given again. That there is none is not kept at all.
	signatureAge = "public, max-age=86400, immutable"
)

// lookaside answers with one simple signature, as registries.d has podman and
// skopeo ask for it: from 1 until there is none. Signatures are public, as they are
// in a registry.
func (s *Server) lookaside(c echo.Context, _ caller) error {
	escaped := strings.TrimPrefix(c.Request().URL.EscapedPath(), pathLookaside)
	path, n, err := parseLookaside(escaped)
	if err != nil {
		return err
	}
	b, err := s.Store.Lookaside().Get(c.Request().Context(), path, n)
	if errors.Is(err, signing.Invalid) {
		return noSignature(escaped)
	}
	if err != nil {
		return err
	}
	c.Response().Header().Set("Cache-Control", signatureAge)
	c.Response().Header().Set("ETag", `"`+string(signing.DigestOf(b))+`"`)
	return c.Blob(http.StatusOK, echo.MIMEOctetStream, b)
}

func noSignature(escaped string) error {
	return &signing.Error{Code: signing.NotFound, Message: "no such signature", Expected: pathLookaside + "HOST/REPOSITORY@sha256=HEX/signature-N", Found: fmt.Sprintf("%.200q", escaped)}
}

// parseLookaside reads HOST/REPOSITORY@sha256=<hex>/signature-N, escaped as the
// client sent it. There is one spelling of each signature, but that '@', '=' and
// ':' may be escaped, since some clients do.
func parseLookaside(escaped string) (path string, n int, err error) {
	for _, c := range []string{"@", "=", ":"} {
		hex := fmt.Sprintf("%%%02X", c[0])
		escaped = strings.ReplaceAll(strings.ReplaceAll(escaped, hex, c), strings.ToLower(hex), c)
	}
	i := strings.LastIndex(escaped, "/")
	if i < 0 {
		return "", 0, noSignature(escaped)
	}
	repository, digest, ok := strings.Cut(escaped[:i], "@sha256=")
	number, ok2 := strings.CutPrefix(escaped[i+1:], "signature-")
	a := signing.Artifact{Repository: signing.Repository(repository), Digest: signing.Digest("sha256:" + digest)}
	if !ok || !ok2 || a.Validate() != nil {
		return "", 0, noSignature(escaped)
	}
	n, err = strconv.Atoi(number)
	if err != nil || n < 1 || n > store.MaxLookaside || strconv.Itoa(n) != number {
		return "", 0, noSignature(escaped)
	}
	return escaped[:i], n, nil
}
