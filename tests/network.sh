#!/usr/bin/env bash
# Runs the cluster tests that need root (hosts as network namespaces), with sudo where the caller is not root.
set -euo pipefail
cd "$(dirname "$0")/.."

sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo --preserve-env=CARGO)
# Built as the whole workspace is, or its dependencies would be built a second time with other features.
cargo build --workspace --bins
mesh=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/mesh
runner=$(cargo test --workspace --test cluster --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"name":"cluster".*"executable":"\([^"]*\)".*/\1/p' | tail -1)
[ -x "$runner" ] || { echo "the cluster tests do not build" >&2; exit 1; }
"${sudo[@]}" env MESH_BIN="$mesh" "$runner" --ignored "$@"
