#!/usr/bin/env bash
# 38,000 connections in one process whose RLIMIT_NOFILE is 20,000: all answer a message, the one after the last gets its 503.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"

[ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -ge 20000 ] || { say "missing: a hard RLIMIT_NOFILE of 20,000"; exit 3; }
ulimit -n 20000 || exit 1
bench many --connections 38000 -- --shards 3 --connections-max 38000
