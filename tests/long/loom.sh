#!/usr/bin/env bash
# The models of tests/models.rs with more preemptions than `cargo test` has time for: PREEMPTIONS, or 6.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"

export THRONG_PREEMPTIONS=${PREEMPTIONS:-6}
cargo test --release --test models -- --nocapture 2>&1 | tee "$work/loom.log" | grep -E '^test |orders|panicked'
status=${PIPESTATUS[0]}
passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$work/loom.log")
say "loom: ${passed:-0} models with at most $THRONG_PREEMPTIONS preemptions"
[ "$status" = 0 ] && [ "${passed:-0}" -gt 0 ]
