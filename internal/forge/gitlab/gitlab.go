// Package gitlab is forge.Forge for GitLab, hosted and self-managed.
package gitlab

import _ "gitlab.com/gitlab-org/api/client-go"
