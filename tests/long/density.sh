#!/usr/bin/env bash
# What a connection costs in user memory from 1,000 to 15,000, each in a room with presence: at most 256 bytes, on one shard and two.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"

for shards in 1 2; do
  bench density --from 1000 --connections 15000 --bytes-max 256 -- --shards "$shards" --connections-max 16000 || exit 1
done
