#!/usr/bin/env bash
# Tries every fuzz target, or those whose name holds a word, for some seconds each: tests/fuzz.sh --seconds 60 wal
# Inputs are drawn at random and made of the kept seeds; an input that fails is shown, and belongs into the corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=60 word=fuzz_
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=${2:?--seconds needs a number}; shift 2 ;;
    -*) echo "usage: tests/fuzz.sh [--seconds N] [WORD]" >&2; exit 2 ;;
    *) word=$1; shift ;;
  esac
done
export BOLERO_RANDOM_TEST_TIME_MS=$((seconds * 1000)) BOLERO_RANDOM_ITERATIONS=18446744073709551615
export CARGO_INCREMENTAL=0
# One at a time, and behind whatever else this host has to do.
nice -n 15 cargo test --workspace --lib --no-fail-fast -- "$word" --test-threads 1 --nocapture
