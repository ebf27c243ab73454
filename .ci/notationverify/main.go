// Command notationverify does what the program `notation` does, which is not on
// the Go module proxy, with the library inside it: verify an image under the trust
// store and trust policy of a configuration folder, and sign one.
//
//	notationverify verify -config DIR REPOSITORY@DIGEST
//	notationverify sign -key FILE -certificates FILE [-format jws|cose] [-expiry DURATION] [-at-once N] REPOSITORY@DIGEST...
//
// sign takes many, to be measured against. // Registries are spoken to over plain HTTP; each is on loopback. Exit status:
// 0 accepted or signed, 1 refused, 2 it could not be asked.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/dir"
	"github.com/notaryproject/notation-go/registry"
	"github.com/notaryproject/notation-go/signer"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/registry/remote"
)

var errRefused = errors.New("refused")

func main() {
	err := run(context.Background(), os.Args[1:])
	switch {
	case errors.Is(err, errRefused):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "notationverify:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: notationverify verify|sign FLAGS REPOSITORY@DIGEST")
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	config := f.String("config", "", "folder with trustpolicy.json and truststore/")
	key := f.String("key", "", "file with the private key")
	certificates := f.String("certificates", "", "file with the certificate chain")
	format := f.String("format", "jws", "jws or cose")
	expiry := f.Duration("expiry", 0, "how long the signature is valid")
	atOnce := f.Int("at-once", 8, "how many are signed at once")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "verify":
		repo, err := open(ctx, f.Arg(0))
		if err != nil {
			return err
		}
		return verify(ctx, repo, *config, f.Arg(0))
	case "sign":
		// One connection for each that is signed at once, as for every other program.
		http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = *atOnce
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(*atOnce)
		for _, ref := range f.Args() {
			g.Go(func() error {
				repo, err := open(ctx, ref)
				if err != nil {
					return err
				}
				return sign(ctx, repo, *key, *certificates, *format, *expiry, ref)
			})
		}
		return g.Wait()
	}
	return fmt.Errorf("no command %q", args[0])
}

// open returns the repository of an image that is there.
func open(ctx context.Context, ref string) (registry.Repository, error) {
	target, err := remote.NewRepository(ref)
	if err != nil {
		return nil, fmt.Errorf("reading the reference: %w", err)
	}
	target.PlainHTTP, target.SkipReferrersGC = true, true
	target.Client = http.DefaultClient // no credentials of whoever runs this
	repo := registry.NewRepository(target)
	if _, err := repo.Resolve(ctx, target.Reference.Reference); err != nil {
		return nil, fmt.Errorf("reading the image: %w", err)
	}
	return repo, nil
}

func verify(ctx context.Context, repo registry.Repository, config, ref string) error {
	// The file by its path, as LoadDocument reads that of the user's home.
	raw, err := os.ReadFile(filepath.Join(config, dir.PathTrustPolicy))
	if err != nil {
		return fmt.Errorf("reading the trust policy: %w", err)
	}
	policy, err := parsePolicy(raw)
	if err != nil {
		return fmt.Errorf("reading the trust policy: %w", err)
	}
	v, err := verifier.New(policy, truststore.NewX509TrustStore(dir.NewSysFS(config)), nil)
	if err != nil {
		return fmt.Errorf("building the verifier: %w", err)
	}
	if _, _, err := notation.Verify(ctx, v, repo, notation.VerifyOptions{ArtifactReference: ref, MaxSignatureAttempts: 100}); err != nil {
		return fmt.Errorf("%w: %v", errRefused, err)
	}
	return nil
}

func parsePolicy(raw []byte) (*trustpolicy.Document, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	var d trustpolicy.Document
	return &d, dec.Decode(&d)
}

func sign(ctx context.Context, repo registry.Repository, key, certificates, format string, expiry time.Duration, ref string) error {
	s, err := signer.NewFromFiles(key, certificates)
	if err != nil {
		return fmt.Errorf("opening the key: %w", err)
	}
	mediaType := map[string]string{"jws": jws.MediaTypeEnvelope, "cose": cose.MediaTypeEnvelope}[format]
	_, err = notation.Sign(ctx, s, repo, notation.SignOptions{
		SignerSignOptions: notation.SignerSignOptions{SignatureMediaType: mediaType, ExpiryDuration: expiry}, ArtifactReference: ref,
	})
	return err
}
