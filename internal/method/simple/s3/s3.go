// Package s3 publishes simple signatures in a bucket of an S3-compatible object
// store, which verifiers read over plain HTTP. It is a package of its own because
// programs that only verify must not carry a cloud's library.
package s3

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/sealwright/sealwright/internal/config"
	"github.com/sealwright/sealwright/internal/method/simple"
	"github.com/sealwright/sealwright/internal/outbound"
	"github.com/sealwright/sealwright/internal/signing"
)

// defaultRegion is what stores of others than AWS expect in a signature.
const defaultRegion = "us-east-1"

// Bucket is a bucket as a Target. Verifiers read it as a Reader does.
type Bucket struct {
	*simple.Reader
	api    *awss3.Client
	bucket string
	below  string // "" or a path with a slash at the end
	base   string
}

// Open returns the bucket of a row. c carries all requests: to the endpoint, signed
// with the access key, and to what verifiers read, without. Writing is conditional:
// the store must know If-None-Match.
func Open(row simple.Config, o simple.Options, c *http.Client) (simple.Target, error) {
	read := func(ref config.Secret) (string, error) {
		b, err := ref.Read(o.Env)
		if err != nil {
			return "", &signing.Error{Code: signing.Invalid, Message: "a credential of a lookaside cannot be read", Found: err.Error()}
		}
		return string(b), nil
	}
	credentials := func(context.Context) (aws.Credentials, error) {
		id, err := read(row.Username)
		if err != nil {
			return aws.Credentials{}, err
		}
		secret, err := read(row.Password)
		return aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}, err
	}
	if _, err := credentials(context.Background()); err != nil {
		return nil, err
	}
	region := row.Region
	if region == "" {
		region = defaultRegion
	}
	b := &Bucket{bucket: row.Bucket, base: strings.TrimRight(row.ReadURL, "/")}
	b.Reader = simple.NewReader(b.base, c)
	if row.Path != "" {
		b.below = row.Path + "/"
	}
	b.api = awss3.New(awss3.Options{
		BaseEndpoint: aws.String(strings.TrimRight(row.URL, "/")), UsePathStyle: true, Region: region,
		Credentials: aws.CredentialsProviderFunc(credentials), HTTPClient: c,
		// The caller retries, and other stores do not know the newer checksums.
		Retryer: aws.NopRetryer{}, RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired, ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
	})
	return b, nil
}

// Add implements simple.Target.
func (b *Bucket) Add(ctx context.Context, a signing.Artifact, signature []byte) (signing.Location, error) {
	return simple.AddNumbered(ctx, a, b.base, b, signature)
}

// Get implements simple.Numbered.
func (b *Bucket) Get(ctx context.Context, _, path string) ([]byte, error) {
	out, err := b.api.GetObject(ctx, &awss3.GetObjectInput{Bucket: &b.bucket, Key: aws.String(b.below + path)})
	if err != nil {
		return nil, b.failure(err)
	}
	return outbound.ReadBody(&http.Response{Body: out.Body, ContentLength: aws.ToInt64(out.ContentLength)}, simple.MaxSignature)
}

// Create implements simple.Numbered.
func (b *Bucket) Create(ctx context.Context, _, path string, content []byte) error {
	_, err := b.api.PutObject(ctx, &awss3.PutObjectInput{
		Bucket: &b.bucket, Key: aws.String(b.below + path), Body: bytes.NewReader(content), ContentLength: aws.Int64(int64(len(content))),
		ContentType: aws.String("application/octet-stream"), IfNoneMatch: aws.String("*"),
	})
	if err == nil {
		return nil
	}
	// 409 is another write to the same name at this moment.
	if s := status(err); s == http.StatusPreconditionFailed || s == http.StatusConflict {
		return simple.ErrTaken
	}
	return b.failure(err)
}

// status returns that of the answer which an error stands for; 0 for none.
func status(err error) int {
	var r *smithyhttp.ResponseError
	if errors.As(err, &r) {
		return r.HTTPStatusCode()
	}
	return 0
}

// failure says what an error of the library means, in our words: its own quote what
// the server sent.
func (b *Bucket) failure(err error) error {
	var ours *signing.Error
	if errors.As(err, &ours) {
		return ours
	}
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	if s := status(err); s != 0 {
		return simple.Refused(s, "bucket "+b.bucket)
	}
	return &signing.Error{Code: signing.Unavailable, Message: "the bucket could not be reached", Found: b.bucket}
}
