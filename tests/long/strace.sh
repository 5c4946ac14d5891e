#!/usr/bin/env bash
# Under load the kernel is entered rarely: at most 0.1 system calls a message, counted by strace from outside, over an echo load.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"

need strace strace || exit 3
cargo build --release --quiet || exit 1
start_server --echo --shards 1 || exit 1
metric() { curl -sf "http://$admin/metrics" | awk -v name="$1" '{ split($1, parts, "{") } parts[1] == name { sum += $2 } END { printf "%.0f", sum }'; }
need curl curl ca-certificates || exit 3

before=$(metric throng_messages_in_total)
strace -f -c -o "$work/strace.txt" -p "$server_pid" 2>"$work/strace.log" &
tracer=$!
# The load: many connections, each with many messages in flight, as a busy server sees it.
cargo test --release --quiet --test long -- echo-load "$data"
status=$?
after=$(metric throng_messages_in_total)
kill -INT "$tracer" && wait "$tracer"
messages=$((after - before))
calls=$(awk '$NF == "total" { print $3 == "total" ? $2 : $4 }' "$work/strace.txt")
enters=$(awk '$NF == "io_uring_enter" { print $4 }' "$work/strace.txt")
[ "$status" = 0 ] && [ "$messages" -gt 0 ] || { say "strace: the load failed ($messages messages)"; exit 1; }
each=$(awk -v e="${enters:-0}" -v m="$messages" 'BEGIN { printf "%.4f", e / m }')
say "strace: $messages messages, ${enters:-0} io_uring_enter, ${calls:-0} system calls: $each a message (at most 0.1)"
awk -v e="$each" 'BEGIN { exit !(e > 0 && e <= 0.1) }'
