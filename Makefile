# mesh: one command each. `make demo` first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(HOME)/.cargo/bin:$(PATH):$(HOME)/.local/bin:/usr/sbin:/sbin
CARGO := cargo

# Further words for the program, such as: make demo ARGS="--scenario site-loss"
ARGS :=

.PHONY: help
help: ## Show this
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install what is missing: Debian packages (root or sudo), Rust by rustup
	@tests/deps.sh

.PHONY: build
build: deps ## Build the binary, target/debug/mesh
	$(CARGO) build --package mesh-node --bin mesh

.PHONY: demo
demo: deps ## Watch PostgreSQL fail over between three sites (ARGS=--keep, ARGS="--scenario site-loss")
	@echo "Building mesh: some minutes the first time, seconds afterwards."
	@$(CARGO) build --package mesh-node --bin mesh --package mesh-tests --bin mesh-demo
	@exec $${CARGO_TARGET_DIR:-target}/debug/mesh-demo $(ARGS)

.PHONY: test
test: deps ## Run every test: units, simulation, PostgreSQL, real clusters
	$(CARGO) build --workspace --bins
	export MESH_BIN=$${CARGO_TARGET_DIR:-$(CURDIR)/target}/debug/mesh; \
	if $(CARGO) nextest --version >/dev/null 2>&1; then $(CARGO) nextest run --workspace $(ARGS); \
	else $(CARGO) test --workspace --no-fail-fast $(filter-out --profile ci,$(ARGS)); fi
	tests/network.sh

.PHONY: verify
verify: deps ## Check format, lints and dependencies, then run every test; changes nothing
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and sources are not checked"; fi
	$(MAKE) test

.PHONY: fix
fix: ## Format, and let clippy mend what it can
	$(CARGO) fmt --all
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged -- -D warnings

.PHONY: fuzz
fuzz: deps ## Try every parser with inputs that nobody wrote on purpose (ARGS="--seconds 600 wal")
	tests/fuzz.sh $(ARGS)

.PHONY: chaos
chaos: deps ## Play real faults drawn from a seed for as long as wanted (root; ARGS="--seed 7 --minutes 60")
	$(CARGO) build --release --package mesh-node --bin mesh
	$(CARGO) run --release --quiet --package mesh-tests --bin mesh-chaos -- $(ARGS)

.PHONY: bench
bench: deps ## Measure the five faults in network namespaces (root; ARGS="--runs 10 --peer patroni")
	$(CARGO) build --release --package mesh-node --bin mesh
	$(CARGO) run --release --quiet --package mesh-tests --bin mesh-bench -- $(ARGS)
