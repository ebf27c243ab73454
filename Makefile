# make help lists the targets. Everything here runs from a fresh clone; tools are
# built at pinned versions into ~/.cache/sealwright (SEALWRIGHT_CACHE moves it).

BIN      := bin
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS  := -s -w -X main.stamped=$(VERSION)
GOBUILD  := go build -ldflags '$(LDFLAGS)'

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench conformance conformance-all fuzz model mutants generate build dist images doors clean ci

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: build ## sign an image the way a CI job does, be refused, crash, be approved, be audited (under a minute)
	@.ci/demo

test: ## all tests with the race detector (many wait for retries: hence 8 at a time)
	go test -race -parallel 8 -timeout 25m ./...

lint: ## gofmt, vet, staticcheck, errcheck, govulncheck, house rules
	@.ci/lint

bench: ## figures: signing, publishing, service core, the CI step
	@.ci/bench

conformance: ## our signatures and their tampered twins against cosign 2 and 3, containers/image and notation; our requests to GitHub against its API
	@.ci/conformance

conformance-all: ## conformance, every kind of key, and Kyverno, Ratify, policy-controller (the first time takes an hour)
	@SEALWRIGHT_CONFORMANCE=all .ci/conformance

fuzz: ## every fuzz target, FUZZTIME=5m each
	@.ci/fuzz

model: ## 10,000 random lives of requests against a simple model (SEQUENCES=n; half an hour)
	SEALWRIGHT_SEQUENCES=$${SEQUENCES:-10000} go test -count=1 -timeout 4h -run '^TestRandomLivesOfRequestsAreThoseOfTheModel$$' -v ./internal/scenario

mutants: ## remove each check in turn and see its test fail
	@.ci/mutants

generate: ## regenerate what is generated
	go generate ./...

build: ## the three programs, into bin/
	CGO_ENABLED=0 $(GOBUILD) -o $(BIN)/sealwright-ci ./cmd/sealwright-ci
	$(GOBUILD) -o $(BIN)/sealwright ./cmd/sealwright
	CGO_ENABLED=1 $(GOBUILD) -o $(BIN)/sealwrightd ./cmd/sealwrightd

dist: ## static programs for Linux, their checksums and CA roots, into dist/ (ARCHES="amd64 arm64")
	@VERSION='$(VERSION)' .ci/dist

images: ## the container images ci, gitlab and server from dist/, with buildah
	@.ci/images

doors: ## the images, the GitHub action, the GitLab component: each has an image signed by a dev service
	@.ci/doors

ci: ## what CI runs: demo, test, lint, conformance, doors
	@.ci/run

clean: ## remove bin/ and dist/
	rm -rf $(BIN) dist
