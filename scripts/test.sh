#!/usr/bin/env bash
# Everything that can be tested on one machine: what `make test` and `.ci/run` do.
# Formatting, lints, and all tests, with a real Docker and, where there is one, a real kubectl.
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
  say "kubectl: none here; a Rust client runs the same story (set KUBECTL to run it with kubectl)"
fi

scripts/verify.sh
say "== tests"
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --workspace
  cargo test --workspace --doc
else
  cargo test --workspace --no-fail-fast
fi
say "== all tests have passed"
