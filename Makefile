# The commands of this project. `make help` lists them.

CARGO ?= cargo
ARGS ?=
TIME ?= 60
TARGETS ?=
MODELS ?=
SOAK_MODELS := mock,$(CURDIR)/target/test-models/smollm2-135m-instruct-q4_1.gguf
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

# Arguments that build the backends in C++. llama.cpp takes about two minutes on two cores, once; MLX is installed ready
# built where it exists for the machine. Always a release build, so that tests and bench share it, and all packages in one
# call, so that cargo resolves one set of features. A shell substitution, since only the recipe knows what is installed.
FFI := $$(scripts/setup.sh ffi-args)

# Every crate that needs nothing but Rust.
PLAIN := --workspace --exclude zonda-llama-cpp --exclude zonda-mlx

.DEFAULT_GOAL := help
.PHONY: help build bench record soak test test-vulkan test-neon test-loom test-asan fuzz check check-windows check-macos audit fetch-test-models clients fmt

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build target/release/zonda
	@scripts/setup.sh rust
	$(CARGO) build --locked --release

bench: ## Fetch a model and measure every backend in the four scenarios (options: ARGS="--runs 5")
	@scripts/setup.sh rust python llama-cpp mlx
	$(CARGO) build --locked $(FFI)
	target/release/zonda bench $(ARGS)

record: ## Write benchmarks/record/MACHINE: all backends on SmolLM2, two on a 7B, with reports (options: ARGS="--runs 5")
	@scripts/setup.sh rust python llama-cpp mlx
	$(CARGO) build --locked $(FFI)
	scripts/record.sh $(ARGS)

fetch-test-models: ## Fetch the models and tokenizers that tests need (about 110 MB, once)
	@scripts/setup.sh python
	python3 testdata/fetch.py

clients: ## Install OpenAI's clients, Playwright and Chromium for tests (skipped without a network or Node)
	@scripts/setup.sh chromium
	@testdata/clients/install.sh

test: fetch-test-models clients ## Run all tests
	@scripts/setup.sh rust llama-cpp mlx
	$(CARGO) test --locked $(PLAIN) --no-fail-fast $(ARGS)
	$(CARGO) test --locked -p zonda-cli --features otlp --test otlp $(ARGS)
	$(CARGO) test --locked $(FFI) --no-fail-fast --lib --bins $$(scripts/setup.sh ffi-tests) $(ARGS)

# A target folder of its own, since features change how llama.cpp is compiled. llama.cpp uses a software device only if
# GGML_VK_VISIBLE_DEVICES names it. CPLUS_INCLUDE_PATH adds a type that Debian 12's headers lack.
test-vulkan: ## Test llama.cpp on Vulkan with Mesa's software device (compiles for about five minutes, once)
	@scripts/setup.sh rust llama-cpp vulkan
	CARGO_TARGET_DIR=target/vulkan CPLUS_INCLUDE_PATH=$(CURDIR)/crates/llama-cpp/vulkan GGML_VK_VISIBLE_DEVICES=0 \
		$(CARGO) test --locked -p zonda-llama-cpp --features vulkan --test suite gpu $(ARGS) -- --nocapture

test-neon: ## Test the AArch64 kernels in an emulator, on CPUs with and without dot products
	@scripts/setup.sh rust neon
	scripts/test-neon.sh $(ARGS)

check: ## Check format, lints, docs, dependency rules and architecture; warnings are errors
	@scripts/setup.sh rust cargo-deny llama-cpp mlx
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked $(PLAIN) --all-targets -- -D warnings
	$(CARGO) clippy --locked $(FFI) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked $(PLAIN) --no-deps --document-private-items
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked $(FFI) --no-deps --document-private-items
	$(CARGO) deny --log-level error check bans licenses sources
	$(CARGO) test --locked -p zonda-cli --test architecture

check-windows: ## Type-check for Windows (needs rustup and the network, once)
	@scripts/setup.sh rust
	rustup target add x86_64-pc-windows-gnu
	$(CARGO) check --locked $(PLAIN) --all-targets --target x86_64-pc-windows-gnu

check-macos: ## Type-check for macOS (needs rustup and the network, once)
	@scripts/setup.sh rust
	rustup target add aarch64-apple-darwin
	$(CARGO) check --locked $(PLAIN) --all-targets --target aarch64-apple-darwin

audit: ## Look for security advisories on our dependencies (needs the network)
	@scripts/setup.sh rust cargo-deny
	$(CARGO) deny check advisories

test-loom: ## Check the worker pool's protocol in every order of its threads' steps (loom)
	@scripts/setup.sh rust
	scripts/test-loom.sh $(ARGS)

fuzz: ## Fuzz every parser for TIME seconds each (libFuzzer; options: TIME=60 TARGETS="gguf http")
	@scripts/setup.sh rust fuzz
	scripts/fuzz.sh $(TIME) $(TARGETS)

# In turn, half of the time each. The program is a release build; the tests around it are not, since they are built for `make test` anyway.
soak: fetch-test-models ## Mixed load on a server for TIME seconds, answers and process watched (options: TIME=1800 MODELS=mock,FILE)
	@scripts/setup.sh rust
	$(CARGO) build --locked --release
	ZONDA_SOAK_TIME=$(if $(filter file,$(origin TIME)),1800,$(TIME)) ZONDA_SOAK_PROGRAM=$(CURDIR)/target/release/zonda \
		ZONDA_SOAK_MODELS=$(or $(MODELS),$(SOAK_MODELS)) \
		$(CARGO) test --locked --test soak for_a_long_time -- --ignored --nocapture

test-asan: ## Test the kernels under AddressSanitizer
	@scripts/setup.sh rust
	scripts/test-asan.sh $(ARGS)

fmt: ## Format the code
	$(CARGO) fmt --all
