# The commands of this project. `make help` lists them.

CARGO ?= cargo
ARGS ?=
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help build bench test check audit fetch-test-models fmt

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build target/release/zonda
	@scripts/setup.sh rust
	$(CARGO) build --release

bench: ## Fetch a model and measure every backend over the four scenarios (options: ARGS="--runs 5")
	@scripts/setup.sh rust python
	$(CARGO) build --release
	target/release/zonda bench $(ARGS)

fetch-test-models: ## Fetch the models and tokenizers that tests need (about 110 MB, once)
	@scripts/setup.sh python
	python3 testdata/fetch.py

test: fetch-test-models ## Run all tests
	@scripts/setup.sh rust
	$(CARGO) test --workspace --no-fail-fast $(ARGS)

check: ## Format, lints, docs, dependency rules, architecture: all without warnings
	@scripts/setup.sh rust cargo-deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items
	$(CARGO) deny --log-level error check bans licenses sources
	$(CARGO) test -p zonda-cli --test architecture

audit: ## Known security advisories of our dependencies (needs the network)
	@scripts/setup.sh rust cargo-deny
	$(CARGO) deny check advisories

fmt: ## Format the code
	$(CARGO) fmt --all
