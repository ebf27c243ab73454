package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sealwright/sealwright/internal/workflow"
)

// ends collects when trust metadata ends, and what keeps it from being renewed.
type ends struct {
	of               func() []workflow.Ending
	expiry, untraced *prometheus.Desc
}

// Ends reports, whenever it is scraped, what of knows.
func (m *Metrics) Ends(of func() []workflow.Ending) {
	m.registry.MustRegister(ends{of,
		prometheus.NewDesc("sealwright_trust_ends_timestamp_seconds", "When a role ends on which tags rest that the service has signed, as of the last look.", []string{"repository", "part", "role"}, nil),
		prometheus.NewDesc("sealwright_trust_not_renewed", "Why a role is not renewed: tags that no request has signed, and 1 for a look that failed.", []string{"repository", "part", "why"}, nil),
	})
}

// Describe implements prometheus.Collector.
func (e ends) Describe(to chan<- *prometheus.Desc) { to <- e.expiry; to <- e.untraced }

// Collect implements prometheus.Collector.
func (e ends) Collect(to chan<- prometheus.Metric) {
	for _, x := range e.of() {
		for _, end := range x.Ends {
			to <- prometheus.MustNewConstMetric(e.expiry, prometheus.GaugeValue, float64(end.Expires.UnixNano())/float64(time.Second), string(x.Repository), x.Part, end.Name)
		}
		failed := 0.0
		if x.Failure != "" {
			failed = 1
		}
		to <- prometheus.MustNewConstMetric(e.untraced, prometheus.GaugeValue, float64(len(x.Untraced)), string(x.Repository), x.Part, "untraced")
		to <- prometheus.MustNewConstMetric(e.untraced, prometheus.GaugeValue, failed, string(x.Repository), x.Part, "failed")
	}
}
