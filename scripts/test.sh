#!/usr/bin/env bash
# Everything that can be tested on one machine: what `make test` and `.ci/run` do.
# Formatting, lints, and all tests, with a real Docker, and a real kubectl where there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

# Suites make network namespaces, loop devices and services' rules.
if [ -n "$SUDO" ]; then die "the tests need root, all of them: sudo make test (with rustup's cargo in root's PATH, or sudo -E)"; fi
# shellcheck disable=SC2086 # words
need_packages $TEST_PACKAGES
need_tools
need_rust
need_docker
scripts/clients.sh
BALSA_CLIENTS=$(clients_dir)
export BALSA_CLIENTS

if [ -n "${KUBECTL:-}" ]; then
  if ! "$KUBECTL" version --client >/dev/null 2>&1; then die "KUBECTL is $KUBECTL, which is no kubectl"; fi
  say "kubectl: $KUBECTL"
elif command -v kubectl >/dev/null; then
  KUBECTL=$(command -v kubectl)
  export KUBECTL
  say "kubectl: $KUBECTL"
else
  say "kubectl: none here. The same story is told by kube-rs; what kubectl prints is not looked at."
fi

if previous_is_there; then
  BALSA_PREVIOUS=$(realpath -m "$(previous_program)")
  export BALSA_PREVIOUS
else
  say "== $(previous_missing)"
  # Again where everybody looks, whatever becomes of the tests.
  trap 'say "== $(previous_missing)"' EXIT
fi

scripts/verify.sh
# Before this one: both end up in the same place, from where that one is moved away.
if [ -n "${BALSA_PREVIOUS:-}" ]; then scripts/previous.sh; fi
# With the tests and not by itself: the same features of what both are made of, so nothing is built twice.
say "== the tests, and the program that the end-to-end suites run"
building debug cargo build --workspace --bins --tests
BALSA_BIN=$(target_dir)/debug/balsa
export BALSA_BIN
say "== tests"
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --workspace
  cargo test --workspace --doc
else
  cargo test --workspace --no-fail-fast
fi
say "== all tests have passed"
