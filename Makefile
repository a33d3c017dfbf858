# Everything a developer runs. `make help` lists the targets.
GO      ?= go
BIN     ?= bin
PKGS    ?= ./...
FUZZTIME ?= 5s
FUZZJOBS ?= 1
export CGO_ENABLED ?= 1

.PHONY: all check test unit dev man packages images peers bench fuzz nightly vuln clean help

all: ## build everything
	CGO_ENABLED=0 $(GO) build $(PKGS)

check: ## formatting, vet, staticcheck, rules of the house, module sums (under a minute when built)
	@out=$$(git ls-files -co --exclude-standard '*.go' | xargs -r $(GO) tool gofumpt -l); \
	  if [ -n "$$out" ]; then echo "gofumpt would change:"; echo "$$out"; exit 1; fi
	$(GO) vet $(PKGS)
	$(GO) tool staticcheck $(PKGS)
	$(GO) test -count=1 ./integration/archtest
	$(GO) mod verify

peers: ## install the outside programs that tests talk to (Debian, root)
	@integration/tools/peers

test: peers ## all tests with the race detector, on real peers and real binaries
	$(GO) test -race -shuffle=on -timeout 25m $(PKGS)
	$(GO) test -run '^(TestIdleMemory|TestQresyncForgotten|TestCorpus)$$' ./backend/imapd # what the race detector would measure, or take too long for
	$(GO) test -run '^TestParseDeep$$' ./shared/message

dev: ## a whole cluster on loopback in the foreground; ^C ends it
	$(GO) run ./cmd/postern dev

man: ## manual pages, into man/
	@mkdir -p man
	@for f in cmd/*/*.[0-9].md; do $(GO) tool go-md2man -in $$f -out man/$$(basename $$f .md); echo man/$$(basename $$f .md); done

packages: ## deb and rpm packages of the commit that is checked out, into dist/
	@deploy/packages/build dist

images: ## container images of the four programs
	@deploy/container/build

unit: ## tests of the packages alone, without installing anything
	$(GO) test -short -shuffle=on -timeout 10m $(PKGS)

bench: ## the benchmarks of the packages; side by side with other systems: integration/bench/README.md
	$(GO) test -run '^$$' -bench . -benchtime 2s $(PKGS)

fuzz: ## each fuzz target for FUZZTIME (default 5s)
	@integration/tools/fuzz $(FUZZTIME)

nightly: peers ## every crash state, a thousand simulated seeds, each planted bug, five minutes of each fuzz target, the long ledger run, an hour of random faults
	@integration/tools/soak 1h
	$(GO) test ./integration/sim -run TestSeeds -seeds 1000 -timeout 120m
	POSTERN_NIGHTLY=1 $(GO) test -race -shuffle=on -timeout 120m $(PKGS)
	POSTERN_LINT_MEMORY=1 $(GO) test -run '^TestMemory$$' ./shared/directory/lint # the race detector takes minutes for it
	@integration/chaos/planted
	@integration/tools/fuzz 5m $(FUZZJOBS)

vuln: ## known flaws, against a supplied database (GOVULNDB); "not run" without one
	@if [ -z "$$GOVULNDB" ]; then echo "not run: set GOVULNDB to a vulnerability database"; else $(GO) run golang.org/x/vuln/cmd/govulncheck@latest $(PKGS); fi

clean: ## remove what the targets above made
	rm -rf $(BIN) man dist

help: ## this list
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12
