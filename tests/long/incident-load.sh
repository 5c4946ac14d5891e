#!/usr/bin/env bash
# 12,000 connections of 1,200 users in 24,000 memberships, every fifth a slow reader, under broadcasts for 60 s: RSS of at most
# 64 MB. What may be used beyond the fixed part is bounded so that the slow readers' queues stay below that.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"

bench incident --connections 12000 --users 1200 --slow-percent 20 --duration 60s --resident-max 61 -- \
  --shards 2 --connections-max 12500 --memory-max 60M
