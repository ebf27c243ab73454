package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
	"golang.org/x/time/rate"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/forge"
	"github.com/sealwright/sealwright/internal/signing"
)

const (
	// DefaultHookRate bounds the deliveries per second of one address, apart from
	// what jobs may ask: a forge delivers from a handful of addresses, and neither
	// may starve the other.
	DefaultHookRate = 400
	// hookBurstSeconds is for how long an address may send what it did not before.
	hookBurstSeconds = 3
	// smallHook is a body that anybody may send at once; hooksAtOnce bounds how many
	// are being read. Larger ones (a push of many commits) share largeHooks places:
	// what strangers can make this process keep is 64 + 100 MiB.
	smallHook   = 1 << 20
	hooksAtOnce = 64
	largeHooks  = 4
	// hookWait is how long a delivery waits for a place; both forges give up after
	// ten seconds.
	hookWait = 5 * time.Second
)

// gate bounds what deliveries take before they are authenticated.
type gate struct {
	small, large chan struct{}
	limit        middleware.RateLimiterStore
}

func newGate(perSecond float64) *gate {
	return &gate{
		small: make(chan struct{}, hooksAtOnce), large: make(chan struct{}, largeHooks),
		limit: middleware.NewRateLimiterMemoryStoreWithConfig(middleware.RateLimiterMemoryStoreConfig{Rate: rate.Limit(perSecond), Burst: int(perSecond * hookBurstSeconds), ExpiresIn: limiterExpiry}),
	}
}

// enter takes a place, or says that there is none. leave gives it back.
func enter(ctx context.Context, places chan struct{}) (leave func(), err error) {
	timer := time.NewTimer(hookWait)
	defer timer.Stop()
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
	case <-timer.C:
	}
	return nil, &signing.Error{Code: signing.Unavailable, Message: "too many deliveries at once", RetryAfter: hookWait, Fix: "nothing is lost: what was not delivered is found by reading the threads that wait"}
}

// hook answers POST /hooks/github/{host} and /hooks/gitlab/{host}: 202 once the
// delivery is durable, and for everything authentic that there is no use for,
// since GitLab disables a webhook that answers otherwise.
func (s *Server) hook(c echo.Context, _ caller) error {
	if may, err := s.hooks.limit.Allow(c.RealIP()); err != nil || !may {
		return &signing.Error{Code: signing.RateLimited, Message: "too many deliveries from this address", RetryAfter: time.Second, Err: err}
	}
	leave, err := enter(c.Request().Context(), s.hooks.small)
	if err != nil {
		return err
	}
	defer leave()
	var body bytes.Buffer
	more, err := readHook(c, &body)
	if err == nil && more {
		var leave func()
		if leave, err = enter(c.Request().Context(), s.hooks.large); err != nil {
			return err
		}
		defer leave()
		err = readRest(c, &body)
	}
	if err != nil {
		return err
	}
	outcome, err := s.Workflow.Receive(c.Request().Context(), c.Param("host"), c.Request().Header, body.Bytes())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusAccepted, api.Heard{Outcome: outcome})
}

// readHook reads the beginning of a delivery, and reports whether there is more
// than anybody may send at once. What is too large is refused whatever the header
// says of its length.
func readHook(c echo.Context, into *bytes.Buffer) (more bool, err error) {
	r := c.Request()
	if r.ContentLength > forge.MaxDelivery {
		return false, tooLarge(fmt.Sprintf("%d bytes", r.ContentLength))
	}
	r.Body = http.MaxBytesReader(c.Response(), r.Body, forge.MaxDelivery)
	_, err = io.CopyN(into, r.Body, smallHook)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, io.EOF):
		return false, nil
	}
	return false, cutOff(into.Len(), err)
}

func readRest(c echo.Context, into *bytes.Buffer) error {
	_, err := io.Copy(into, c.Request().Body)
	var cut *http.MaxBytesError
	switch {
	case errors.As(err, &cut):
		return tooLarge("more")
	case err != nil:
		return cutOff(into.Len(), err)
	}
	return nil
}

func tooLarge(found string) error {
	return &signing.Error{Code: signing.TooLarge, Message: "the delivery is too large", Expected: fmt.Sprintf("at most %d bytes, which is what forges send", forge.MaxDelivery), Found: found, Fix: "nothing needs to be done: commands are never that long"}
}

func cutOff(n int, err error) error {
	return &signing.Error{Code: signing.Invalid, Message: "the body ended early", Expected: "the whole delivery", Found: fmt.Sprintf("%d bytes", n), Err: err}
}
