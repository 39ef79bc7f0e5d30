# Two commands matter: `make run` and `make test`. Both install what they need on Debian and Ubuntu and
# say what is missing elsewhere.

DATA_DIR ?= /var/lib/balsa
# RocksDB's C++ comes out of the compiler cache where there is one. Nothing else of the build may differ
# between targets, or it is compiled once more.
ifneq ($(wildcard /usr/lib/ccache),)
export PATH := /usr/lib/ccache:$(PATH)
endif

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help run clean-cluster test simulate robustness soak verify fix bench

help: ## This list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

run: ## A cluster on this machine with the demo in it; Ctrl-C stops it and leaves the containers.
	@BALSA_DATA_DIR=$(DATA_DIR) scripts/run.sh

clean-cluster: ## Removes what `make run` made: containers, networks, rules, files.
	@BALSA_DATA_DIR=$(DATA_DIR) scripts/clean.sh

test: ## All tests: unit, integration, end to end.
	@scripts/test.sh

simulate: ## Log and state on a simulated network, clock and disk; SEEDS=n for n fresh seeds, SEED=s for that one.
ifdef SEED
	BALSA_SEED=$(SEED) BALSA_SCRIPT=$(or $(SCRIPT),drawn) cargo test -p balsa-state --test simulation -- --exact seeds::one_run --nocapture --ignored
else
	BALSA_SEEDS=$(or $(SEEDS),10) cargo test -p balsa-state --test simulation -- --exact seeds::fresh_seeds_find_nothing_either --nocapture
endif

robustness: ## Real servers under faults; SCHEDULES=n of them, and BALSA_SEED=n for the same again. Root.
	BALSA_SCHEDULES=$(or $(SCHEDULES),20) cargo test -p balsa-tests --test robustness -- --nocapture --test-threads 1 survive

soak: ## A steady load with a fault every ten seconds, for SECONDS=n. Root.
	BALSA_SOAK=$(or $(SECONDS),300) cargo test -p balsa-tests --test robustness -- --nocapture a_soak

verify: ## Formatting, lints, floors. Changes nothing.
	@scripts/verify.sh

fix: ## Formats, and lets clippy repair what it can.
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

bench: ## Measures Balsa beside etcd and rewrites the tables of docs/benchmarks.md; needs root and Docker.
	cargo build --release -p balsa -p balsa-loadtest
	$(SUDO) $(TARGET_DIR)/release/balsa-loadtest bench --balsa $(TARGET_DIR)/release/balsa --update docs/benchmarks.md $(ARGS)
