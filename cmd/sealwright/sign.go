package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sealwright/sealwright/internal/api"
	"github.com/sealwright/sealwright/internal/signing"
	"github.com/sealwright/sealwright/internal/submit"
)

const signListUsage = `
Outside of a CI job (where there is no token of one), "sealwright sign" has a list of
images signed that no build of today made, as the person who logged in. The policy
is one for lists (origin: {human: true} and nothing else): people are always asked,
and you are not one of them. Needs the role submitter.

  sealwright sign --server URL --policy NAME --digests-file FILE
  sealwright sign --server URL --policy NAME REPOSITORY@sha256:...

Its flags:
  --policy NAME         the policy to sign under
  --digests-file FILE   the list: what "sealwright dct export" writes, or
                        REPOSITORY@sha256:... lines; "-" reads it from the input
  --tags                sign every tag of an export along (Docker Content Trust
                        needs that); without, each digest once
  --repository NAME     in whose threads people are asked, where it is not clear
  --deadline TIME       how long it may wait for people, as in 24h
  --json                print the requests as JSON, one a line
` + onlineUsage

// maxList bounds a list: the largest export, see internal/submit.
const maxList = 16 << 20

// runSign is the step in a pipeline under another name; where there is no job whose
// token it could take, it is for a person with a list.
func runSign(args []string, s streams) int {
	if slices.ContainsFunc(args, func(a string) bool { return slices.Contains([]string{"-h", "-help", "--help"}, a) }) {
		code := runStep([]string{"--help"}, s)
		fmt.Fprint(s.out, signListUsage)
		return code
	}
	if !submit.InJob(args, os.Getenv) {
		return runSignList(args, s)
	}
	return runStep(args, s)
}

func runStep(args []string, s streams) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	defer stop()
	return submit.Main(ctx, submit.Process{
		Name: "sealwright sign", Args: args, Env: os.Getenv, Stdout: s.out, Stderr: s.err,
		Version: strings.TrimPrefix(version(), "sealwright "),
	})
}

// signList are the flags of a person with a list.
type signList struct {
	online
	policy, file, repository *string
	tags, json               *bool
	deadline                 *time.Duration
}

// runSignList has a list of images signed.
func runSignList(args []string, s streams) int {
	fs := flag.NewFlagSet("sign", flag.ContinueOnError)
	l := signList{
		onlineFlags(fs), fs.String("policy", "", ""), fs.String("digests-file", "", ""), fs.String("repository", "", ""),
		fs.Bool("tags", false, ""), fs.Bool("json", false, ""), fs.Duration("deadline", 0, ""),
	}
	images, code, done := parse(fs, args, signListUsage, s)
	switch {
	case done:
		return code
	case *l.policy == "" || *l.deadline < 0 || (*l.file == "") == (len(images) == 0):
		return misused(s, "--policy is needed, and --digests-file or images by digest", signListUsage)
	case *l.file == "-" && *l.tokenFile == "-":
		return misused(s, "list and token cannot both be read from the input", signListUsage)
	}
	raw, made, err := l.read(images, s.in)
	if err != nil {
		explain(s.err, "reading the list", err)
		return exitUsage
	}
	list, err := submit.ReadList(raw, *l.tags)
	if err != nil {
		explain(s.err, "reading the list", err)
		return exitUsage
	}
	if !list.Made.IsZero() {
		made = list.Made
	}
	client, token, err := l.open(s.in)
	if err != nil {
		explain(s.err, "signing a list", err)
		return exitUsage
	}
	if list.Tags > 0 && !*l.tags && !*l.json {
		fmt.Fprintf(s.out, "%d tags, %d images\n", list.Tags, len(list.Artifacts))
	}
	// Each part is decided and approved by itself.
	parts := slices.Collect(slices.Chunk(list.Artifacts, signing.MaxArtifacts))
	for i, part := range parts {
		code := ask(s, fmt.Sprintf("signing part %d of %d of the list", i+1, len(parts)), func(ctx context.Context) error {
			r, err := client.SubmitList(ctx, token, api.ListRequest{
				Policy: *l.policy, Artifacts: part, List: api.List{Digest: string(list.Digest), Made: made}, Repository: *l.repository,
				DeadlineSeconds: int64(*l.deadline / time.Second),
			})
			if err != nil {
				return err
			}
			return printRequest(s, r, *l.json)
		})
		if code != exitOK {
			return code
		}
	}
	return exitOK
}

// read returns the list, and when it was made as far as its file says: now for what
// is typed or piped.
func (l signList) read(images []string, in io.Reader) ([]byte, time.Time, error) {
	now := time.Now()
	switch *l.file {
	case "":
		return []byte(strings.Join(images, "\n") + "\n"), now, nil
	case "-":
		raw, err := readAtMost(in)
		return raw, now, err
	}
	f, err := os.Open(*l.file)
	if err != nil {
		return nil, now, err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return nil, now, err
	}
	raw, err := readAtMost(f)
	return raw, info.ModTime(), err
}

func readAtMost(in io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(in, maxList+1))
	if err == nil && len(raw) > maxList {
		err = &signing.Error{Code: signing.TooLarge, Message: "the list is too large", Expected: fmt.Sprintf("at most %d bytes", maxList), Found: "more", Fix: "split it"}
	}
	return raw, err
}
