#!/usr/bin/env bash
# What must be true of every commit and needs no running test: changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

need_rust
say "== formatting"
cargo fmt --all --check
say "== lints"
building debug cargo clippy --workspace --all-targets -- -D warnings
say "== floors: who may import whom"
cargo test -p balsa-tests --test floors
if command -v cargo-deny >/dev/null; then
  say "== deny.toml"
  cargo deny check bans licenses sources
fi
