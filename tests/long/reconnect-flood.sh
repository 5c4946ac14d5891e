#!/usr/bin/env bash
# 2,000 clients lose their server for 20 s: the peak of their attempts is at most 1.3 times the ideal, and everybody is back 35 s after it.
# With UPDATE=1 the plot in the README is drawn anew.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"
cargo test --release --quiet --test long -- reconnect-flood </dev/null
