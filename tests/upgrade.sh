#!/bin/sh
# A mesh of an older build is upgraded host by host under write load: tests/upgrade.sh REVISION
# builds that revision in a worktree of its own and runs the test of tests/cluster/upgrade.rs with it.
set -eu
revision=${1:?which revision is the older one, such as v0.1.0 or HEAD~20}
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
where=$root/target/upgrade
git worktree remove --force "$where/tree" 2>/dev/null || true
git worktree add --quiet --detach "$where/tree" "$revision"
trap 'git worktree remove --force "$where/tree"' EXIT
(cd "$where/tree" && CARGO_TARGET_DIR="$where/target" cargo build --workspace --bin mesh)
older=$where/target/debug/mesh
echo "older: $("$older" --version)"
MESH_OLD=$older cargo nextest run --workspace --no-capture -E 'test(every_host_gets_another_build)'
