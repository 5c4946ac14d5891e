#!/usr/bin/env bash
# A live reader of only 64 KiB/s in a busy room is served for five minutes and is not taken for dead.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"

bench slow-reader --duration 5m --read-rate 65536 -- --shards 2
