#!/usr/bin/env bash
# Everything that can be tested on one machine: what `make test` and `.ci/run` do.
# Formatting, lints, and all tests, with a real Docker and a real kubectl.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need_packages
need_rust
need_docker
warn_long_build debug

if [ -n "${KUBECTL:-}" ]; then
  say "kubectl: $KUBECTL"
elif command -v kubectl >/dev/null; then
  KUBECTL=$(command -v kubectl)
  export KUBECTL
  say "kubectl: $KUBECTL"
else
  die "kubectl is missing, and the end-to-end suites speak through it: put one (1.27 or later) in PATH or name it in KUBECTL"
fi

scripts/verify.sh
say "== the program that the end-to-end suites run"
cargo build -p balsa
say "== tests"
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --workspace
  cargo test --workspace --doc
else
  cargo test --workspace --no-fail-fast
fi
say "== all tests have passed"
