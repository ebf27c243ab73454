package server

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the service's Prometheus metrics, in a registry of their own.
// Labels take a bounded set of values only; nothing that strangers send
// becomes one.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	tokens   *prometheus.CounterVec
	steps    *prometheus.HistogramVec
	heard    *prometheus.CounterVec
	left     *prometheus.GaugeVec
}

// NewMetrics returns Metrics that also report backlog, the number of events
// that wait for their place in the log, whenever they are scraped.
func NewMetrics(backlog func() float64) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sealwright_http_requests_total", Help: "HTTP requests by route, method and status."}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sealwright_http_request_seconds", Help: "Time to answer, in seconds. Long polls are included.", Buckets: prometheus.DefBuckets}, []string{"route"}),
		tokens:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sealwright_tokens_refused_total", Help: "Tokens and submissions refused, by code."}, []string{"code"}),
		steps:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sealwright_step_seconds", Help: "Time taken by each step of the signing cycle, in seconds.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"step"}),
	}
	m.heard = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sealwright_deliveries_total", Help: "Webhook deliveries, and commands in them, by forge and what became of them."}, []string{"forge", "outcome"})
	m.left = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sealwright_forge_requests_left", Help: "Requests that a forge says are left of a limit, as of its last answer."}, []string{"forge", "account", "limit"})
	m.registry.MustRegister(m.requests, m.duration, m.tokens, m.steps, m.heard, m.left,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sealwright_log_backlog_events", Help: "Events that wait for their place in the audit log."}, backlog),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Generation reports, whenever it is scraped, the number of the configuration in
// force, and whether newer policies on disk could not be loaded.
func (m *Metrics) Generation(of func() (n int64, refused bool)) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sealwright_policy_generation", Help: "Number of the configuration by which this process decides."}, func() float64 {
			n, _ := of()
			return float64(n)
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sealwright_policy_refused", Help: "1 while the policy files on disk cannot be loaded and older ones are in force."}, func() float64 {
			if _, refused := of(); refused {
				return 1
			}
			return 0
		}))
}

// Handler serves the metrics in Prometheus's text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Step is for workflow.Options.Steps.
func (m *Metrics) Step(step string, took time.Duration) {
	m.steps.WithLabelValues(step).Observe(took.Seconds())
}

// Heard is for workflow.Options.Heard.
func (m *Metrics) Heard(host, outcome string) { m.heard.WithLabelValues(host, outcome).Inc() }

// Left is for the clients of forges.
func (m *Metrics) Left(forge, account, limit string, left int64) {
	m.left.WithLabelValues(forge, account, limit).Set(float64(left))
}

// Waiting reports, whenever it is scraped, how many Requests wait for people; -1
// where that is not known.
func (m *Metrics) Waiting(of func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sealwright_requests_awaiting_approval", Help: "Requests that wait for people."}, of))
}

func (m *Metrics) observe(route, method string, status int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(route).Observe(took.Seconds())
}

func (m *Metrics) refused(code string) { m.tokens.WithLabelValues(code).Inc() }
