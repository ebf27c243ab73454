package forge

import (
	"github.com/sealwright/sealwright/internal/config"
)

// Config is one entry of `forges` in the service's configuration.
type Config struct {
	// Host names the forge as builds do: github.com, ghe.acme.dev, gitlab.acme.dev.
	Host string `yaml:"host"`
	Kind string `yaml:"kind"` // "github" or "gitlab"
	// API is the base URL of the API where it does not follow from the host.
	API string `yaml:"api"`

	// Apps are the GitHub Apps, each with its installations; several where several
	// organisations want an App of their own.
	Apps []App `yaml:"apps"`
	// Tokens are GitLab's: a bot, group or project access token.
	Tokens []Token `yaml:"tokens"`
	// Webhook holds the secrets that deliveries are signed with: any of them, so
	// that they can be replaced. SigningTokens are GitLab's (whsec_...); where there
	// is one, plain secrets are not accepted.
	Webhook struct {
		Secrets       []config.Secret `yaml:"secrets"`
		SigningTokens []config.Secret `yaml:"signing_tokens"`
	} `yaml:"webhook"`
	// Poll is how often waiting threads are read, for deliveries that never come.
	Poll config.Duration `yaml:"poll"`
	// AttestationRoot is a Sigstore trusted root (JSON) for `bind.attestation`.
	AttestationRoot string `yaml:"attestation_root"`
}

// App is a GitHub App.
type App struct {
	ID            string        `yaml:"id"`
	PrivateKey    config.Secret `yaml:"private_key"`
	Installations []string      `yaml:"installations"` // ids; empty finds them by repository
}

// Token is an access token of GitLab and what it is for.
type Token struct {
	Token config.Secret `yaml:"token"`
	// Groups are the paths of groups or projects that it serves; empty is all.
	Groups []string `yaml:"groups"`
}
