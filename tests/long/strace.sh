#!/usr/bin/env bash
# Under load the kernel is entered rarely: at most 0.1 `io_uring_enter` a message, over echoes of 64 bytes on 100 connections with one
# message under way each. Counted twice: by the server itself, which runs at its own pace then, and by strace from outside, which
# slows it down but can't be fooled: it also shows that there are no other system calls beside.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"
bound=0.1

need strace strace || exit 3
need curl curl ca-certificates || exit 3
cargo build --release --quiet || exit 1
start_server --echo --shards 1 || exit 1

# Load for so long; prints the bench's report.
load() { "$throng" bench echo --url "ws://$data/echo" --connections 100 --bytes 64 --duration "$1" --admin "http://$admin" --json; }
metric() { curl -sf "http://$admin/metrics" | awk -v name="$1" '{ split($1, parts, "{") } parts[1] == name { sum += $2 } END { printf "%.0f", sum }'; }
# The shards publish their numbers at most every 100 ms.
settled() { sleep 0.3; metric "$1"; }

report=$(load 5s) || { say "strace: the load failed: $report"; exit 1; }
counted=$(printf '%s' "$report" | sed -n 's/.*"io_uring_enter_per_message":\([0-9.e-]*\).*/\1/p')

before=$(settled throng_messages_in_total)
strace -f -c -o "$work/strace.txt" -p "$server_pid" 2>"$work/strace.log" &
tracer=$!
# What the server did before it is traced would be missing.
for _ in $(seq 100); do
  grep -q attached "$work/strace.log" && break
  kill -0 "$tracer" 2>/dev/null || { say "strace: it can't trace here: $(tail -n 1 "$work/strace.log")"; exit 3; }
  sleep 0.1
done
report=$(load 5s) || { say "strace: the load failed: $report"; kill -INT "$tracer"; exit 1; }
after=$(settled throng_messages_in_total)
kill -INT "$tracer" && wait "$tracer"
messages=$((after - before))
# Columns: % time, seconds, usecs/call, calls, errors (may be empty), name.
calls=$(awk '$NF == "total" { print $4 }' "$work/strace.txt")
enters=$(awk '$NF == "io_uring_enter" { print $4 }' "$work/strace.txt")
[ "$messages" -gt 0 ] && [ "${enters:-0}" -gt 0 ] || { say "strace: $messages messages, ${enters:-no} enters"; exit 1; }
each=$(awk -v e="$enters" -v m="$messages" 'BEGIN { printf "%.4f", e / m }')
all=$(awk -v e="$calls" -v m="$messages" 'BEGIN { printf "%.4f", e / m }')
say "strace: io_uring_enter a message: $counted by the server's counter, $each by strace ($messages messages, $enters enters; all system calls $all); at most $bound"
awk -v a="$counted" -v b="$each" -v max="$bound" 'BEGIN { exit !(a != "" && a > 0 && a <= max && b <= max) }'
