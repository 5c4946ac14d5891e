#!/usr/bin/env bash
# 200 Rust clients and a page in Chromium publish through a proxy that cuts, resets and stalls connections for two minutes, on one shard and
# on three, and once more with a server that is killed three times: what was acknowledged comes once and in order, or a gap is told.
# CHAOS_SECONDS, CHAOS_CLIENTS and CHAOS_SEED change it.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"
need node nodejs || exit 3
need chromium chromium || exit 3
cargo test --release --quiet --test long -- chaos </dev/null
