#!/usr/bin/env bash
# Builds the program of the commit that tests/previous-build names, for the tests of a cluster of two builds. Once: it is
# kept below the target directory, and the next call finds it there. Says nothing then.
#
# The same target directory, so that only the crates of this repository are compiled again. cargo tells crates apart by
# name, version and place in their workspace, and those of two commits differ in nothing of that: the version is
# marked with the commit. `balsa member list` shows by it, too, which server is of which build.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

commit=$(previous_commit)
program=$(realpath -m "$(previous_program)")
if [ -x "$program" ]; then exit; fi
if ! previous_is_there; then die "$(previous_missing)"; fi
# Patched crates keep their versions. While they are the same in both, it is no matter whose are used.
if [ -n "$(repository diff --name-only "$commit" -- vendor)" ]; then
  die "vendor/ is not what it was at $commit, and both builds would take the same: name a later commit in tests/previous-build"
fi

need_rust
source=$(dirname "$program")/source
rm -rf "$source"
mkdir -p "$source"
repository archive "$commit" | tar -x -C "$source"
sed -i "0,/^version = \"\(.*\)\"\$/s//version = \"\1-g${commit:0:7}\"/" "$source/Cargo.toml"

say "== the program of the build before, $commit"
CARGO_TARGET_DIR=$(realpath -m "$(target_dir)")
export CARGO_TARGET_DIR
cd "$source"
# One test besides: then the features of what both are made of are those of scripts/test.sh.
building debug cargo build --workspace --bin balsa --test floors
cp "$CARGO_TARGET_DIR/debug/balsa" "$program.new"
mv "$program.new" "$program"
cd /
rm -rf "$source"
