// Command imageverify asks containers/image, the library inside podman, skopeo
// and CRI-O, whether an image may run under a policy with one requirement. The
// programs themselves, as Debian builds them, have sigstore switched off.
//
//	imageverify [-type sigstoreSigned|signedBy] -key FILE [-identity TYPE] [-lookaside URL] REPOSITORY@DIGEST
//
// Exit status: 0 accepted, 1 refused, 2 it could not be asked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

var errRefused = errors.New("refused")

func main() {
	kind := flag.String("type", "sigstoreSigned", "sigstoreSigned (cosign .sig) or signedBy (GPG)")
	key := flag.String("key", "", "file with the public key")
	identity := flag.String("identity", "matchRepository", "signedIdentity: matchRepository, matchRepoDigestOrExact or matchExact")
	lookaside := flag.String("lookaside", "", "URL of the lookaside, for signedBy")
	flag.Parse()
	err := run(context.Background(), *kind, *key, *identity, *lookaside, flag.Arg(0))
	switch {
	case errors.Is(err, errRefused):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "imageverify:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, kind, key, identity, lookaside, reference string) error {
	if key == "" || reference == "" {
		return errors.New("usage: imageverify -key FILE REPOSITORY@DIGEST")
	}
	requirement := fmt.Sprintf(`{"type": %q, "keyPath": %q, "signedIdentity": {"type": %q}}`, kind, key, identity)
	registries := "default-docker: {use-sigstore-attachments: true}\n"
	if kind == "signedBy" {
		requirement = fmt.Sprintf(`{"type": "signedBy", "keyType": "GPGKeys", "keyPath": %q, "signedIdentity": {"type": %q}}`, key, identity)
		registries = fmt.Sprintf("default-docker: {lookaside: %q}\n", lookaside)
	}
	policy, err := signature.NewPolicyFromBytes([]byte(`{"default": [` + requirement + `]}`))
	if err != nil {
		return fmt.Errorf("building the policy: %w", err)
	}
	pc, err := signature.NewPolicyContext(policy)
	if err != nil {
		return fmt.Errorf("building the policy: %w", err)
	}
	dir, err := os.MkdirTemp("", "registries.d")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "default.yaml"), []byte(registries), 0o600); err != nil {
		return err
	}
	auth := filepath.Join(dir, "auth.json") // no credentials of whoever runs this
	if err := os.WriteFile(auth, []byte("{}"), 0o600); err != nil {
		return err
	}
	ref, err := docker.ParseReference("//" + reference)
	if err != nil {
		return fmt.Errorf("reading the reference: %w", err)
	}
	sys := &types.SystemContext{RegistriesDirPath: dir, DockerInsecureSkipTLSVerify: types.OptionalBoolTrue, SystemRegistriesConfPath: os.DevNull, AuthFilePath: auth}
	src, err := ref.NewImageSource(ctx, sys)
	if err != nil {
		return fmt.Errorf("reading the image: %w", err)
	}
	defer src.Close()
	if ok, err := pc.IsRunningImageAllowed(ctx, image.UnparsedInstance(src, nil)); err != nil || !ok {
		return fmt.Errorf("%w: %v", errRefused, err)
	}
	return nil
}
