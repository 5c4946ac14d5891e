#!/usr/bin/env bash
# Overfull mesh: two shards flood each other through lanes of four places for a minute: no deadlock, no loss, no growth.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"

bench flood --duration 60s -- --shards 2 --lane-places 4
