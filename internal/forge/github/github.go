// Package github is forge.Forge for github.com and GitHub Enterprise Server, as a
// GitHub App.
package github

import (
	_ "github.com/bradleyfalzon/ghinstallation/v2"
	_ "github.com/google/go-github/v60/github"
)
