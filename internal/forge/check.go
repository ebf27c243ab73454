package forge

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/outbound"
)

// The kinds of forges.
const (
	KindGitHub = "github"
	KindGitLab = "gitlab"
)

// MinPoll and MaxPoll bound Config.Poll: reading every thread more often than that
// would use up what a forge allows, and less often is no help.
const (
	MinPoll = 30 * time.Second
	MaxPoll = time.Hour
)

var (
	reHost   = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`)
	reNumber = regexp.MustCompile(`^[1-9][0-9]{0,18}$`)
	reGroup  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$`)
)

// CheckConfig checks the entries of `forges` as far as it needs nobody: it opens no file
// and asks no forge. Paths in what it returns begin at the list.
func CheckConfig(rows []Config) config.Problems {
	var ps config.Problems
	seen := map[string]int{}
	for i, c := range rows {
		at := func(key string) string { return config.Key(config.Index("", i), key) }
		if !reHost.MatchString(c.Host) {
			ps.Add(at("host"), "must be the host as builds name it, in lower case, without scheme and path, as in github.com")
		} else if j, ok := seen[c.Host]; ok {
			ps.Add(at("host"), "%s has an entry already, number %d", c.Host, j+1)
		} else {
			seen[c.Host] = i
		}
		c.checkAPI(at, &ps)
		switch c.Kind {
		case KindGitHub:
			c.checkGitHub(at, &ps)
		case KindGitLab:
			c.checkGitLab(at, &ps)
		default:
			ps.Add(at("kind"), "must be %s or %s", KindGitHub, KindGitLab)
		}
		if d := c.Poll.Duration(); d != 0 && (d < MinPoll || d > MaxPoll) {
			ps.Add(at("poll"), "must be between %s and %s, or left out", MinPoll, MaxPoll)
		}
	}
	return ps
}

func (c Config) checkAPI(at func(string) string, ps *config.Problems) {
	if c.API == "" {
		return
	}
	u, err := url.Parse(c.API)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
		ps.Add(at("api"), "must be the base URL of the API, as in https://ghe.acme.dev/api/v3")
	case u.Scheme == "http" && !outbound.IsLoopback(u.Hostname()):
		ps.Add(at("api"), "must be https: credentials are sent to it")
	}
}

func (c Config) checkGitHub(at func(string) string, ps *config.Problems) {
	if len(c.Tokens) > 0 {
		ps.Add(at("tokens"), "are for gitlab; GitHub is asked as a GitHub App: write apps")
	}
	if len(c.Webhook.SigningTokens) > 0 {
		ps.Add(at("webhook")+".signing_tokens", "are for gitlab; write secrets")
	}
	if len(c.Apps) == 0 {
		ps.Add(at("apps"), "is missing: the GitHub App by which the forge is asked, with its id and private key")
	}
	ids := map[string]bool{}
	for i, a := range c.Apps {
		app := func(key string) string { return config.Key(config.Index(at("apps"), i), key) }
		if !reNumber.MatchString(a.ID) {
			ps.Add(app("id"), "must be the number of the App, as its settings show it")
		} else if ids[a.ID] {
			ps.Add(app("id"), "%s is listed already", a.ID)
		}
		ids[a.ID] = true
		if a.PrivateKey == "" {
			ps.Add(app("private_key"), "is missing: a reference to the App's private key (PEM), as in file:/run/secrets/app.pem")
		}
		for j, n := range a.Installations {
			if !reNumber.MatchString(n) {
				ps.Add(config.Index(app("installations"), j), "must be the number of an installation")
			}
		}
	}
}

func (c Config) checkGitLab(at func(string) string, ps *config.Problems) {
	if len(c.Apps) > 0 {
		ps.Add(at("apps"), "are for github; GitLab is asked with a token: write tokens")
	}
	if c.AttestationRoot != "" {
		ps.Add(at("attestation_root"), "is for github; GitLab holds no attestations of runs")
	}
	if len(c.Tokens) == 0 {
		ps.Add(at("tokens"), "is missing: the access token of a bot, a group or a project")
	}
	everything := slices.IndexFunc(c.Tokens, func(t Token) bool { return len(t.Groups) == 0 })
	served := map[string]bool{}
	for i, t := range c.Tokens {
		token := func(key string) string { return config.Key(config.Index(at("tokens"), i), key) }
		if t.Token == "" {
			ps.Add(token("token"), "is missing: a reference to the token, as in file:/run/secrets/gitlab")
		}
		if len(t.Groups) == 0 && i != everything {
			ps.Add(token("groups"), "is missing: token %d serves everything already", everything+1)
		}
		for j, g := range t.Groups {
			if !reGroup.MatchString(g) {
				ps.Add(config.Index(token("groups"), j), "must be the path of a group or project, as in acme/payments")
			} else if served[strings.ToLower(g)] {
				ps.Add(config.Index(token("groups"), j), "%s is served by another token already", g)
			}
			served[strings.ToLower(g)] = true
		}
	}
}
