#!/usr/bin/env bash
# 500 hostile clients of every kind for three minutes, on one, two and three shards: the well-behaved among them notice nothing, and
# everything that the server holds comes back. Two shards also run out of connections, three exchange messages through tiny lanes.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"

# What outlives connections is to be over within the time that everything has to come back.
brief=(--history-age 5s --resume-ttl 5s)
bench hostile --duration 3m --seed "${SEED:-1}" -- --shards 1 "${brief[@]}" || exit 1
bench hostile --duration 3m --seed "$((${SEED:-1} + 1))" -- --shards 2 --connections-max 300 "${brief[@]}" || exit 1
bench hostile --duration 3m --seed "$((${SEED:-1} + 2))" -- --shards 3 --lane-places 8 "${brief[@]}"
