#!/usr/bin/env bash
# The cost of an echo and of a delivery against a strong peer, npm's `bun`: server CPU of throng at most 1.0 times that of Bun.
#
# Both servers run at the same time on one core, one of them idle, and the load generator on another; each scenario is measured in
# pairs, of which every other begins with Bun, and the median of the pairs' ratios counts: what else the machine does changes from
# pair to pair, and less within one. Both deliver the same bytes: tests/peers/bun.js says how. Time is all that the process spends
# in user and kernel mode, on all its threads. PAIRS (5) and SECONDS_EACH (3) may be set.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"
pairs=${PAIRS:-5} seconds=${SECONDS_EACH:-3}
server_core=0 load_core=1
bun=$work/bun/node_modules/.bin/bun
bun_pid=

need taskset util-linux || exit 3
[ "$(nproc)" -ge 2 ] || { say "missing: two cores, one for the servers and one for the load"; exit 3; }
if [ ! -x "$bun" ]; then
  [ "${NO_INSTALL:-}" != 1 ] || { say "missing: the npm package bun; not installed, because --no-install was given"; exit 3; }
  need npm npm || exit 3
  npm install --silent --no-audit --no-fund --prefix "$work/bun" 'bun@1' >"$work/npm.log" 2>&1 ||
    { say "missing: the npm package bun could not be installed: $(tail -n 1 "$work/npm.log")"; exit 3; }
fi
"$bun" --version >"$work/bun.version" 2>&1 || { say "missing: bun does not run here: $(tail -n 1 "$work/bun.version")"; exit 3; }
cargo build --release --quiet || exit 1

stop_bun() { [ -z "$bun_pid" ] || { kill -KILL "$bun_pid" && wait "$bun_pid"; bun_pid=; } 2>/dev/null; }
trap 'stop_bun; stop_server' EXIT

start_server --echo --shards 1 || exit 1
taskset -a -p -c "$server_core" "$server_pid" >/dev/null || exit 1
# What an earlier run has left there would be taken for this one's.
: >"$work/bun.log"
# The file itself, not npm's link to it: what is measured must be the process that serves.
taskset -c "$server_core" "$(readlink -f "$bun")" tests/peers/bun.js >"$work/bun.log" 2>&1 </dev/null &
bun_pid=$!
peer=
for _ in $(seq 100); do
  peer=$(sed -n 's/^listening //p' "$work/bun.log")
  [ -z "$peer" ] && kill -0 "$bun_pid" 2>/dev/null || break
  sleep 0.1
done
[ -n "$peer" ] || { say "bun does not listen:"; cat "$work/bun.log"; exit 1; }
[ "$(readlink "/proc/$bun_pid/exe")" != "$(command -v taskset)" ] || { say "bun did not start"; exit 1; }

# CPU of the server for each message or delivery, in ns, of one run of a scenario. Fails if anything was lost.
cost() { # FIGURE PID ARGUMENT...
  local figure=$1 pid=$2 json; shift 2
  json=$("$throng" bench "$@" --pid "$pid" --pin "$load_core" --duration "${seconds}s" --json) || { say "$json" >&2; return 1; }
  printf '%s' "$json" | sed -n "s/.*\"$figure\":\([0-9.]*\).*/\1/p"
}
median() { sort -g | awk '{ value[NR] = $1 } END { m = int((NR + 1) / 2); printf "%.3f", NR % 2 ? value[m] : (value[m] + value[m + 1]) / 2 }'; }

status=0 summary=
compare() { # NAME FIGURE SCENARIO PATH-OF-THRONG PATH-OF-BUN FLAGS-FOR-BUN ARGUMENT...
  local name=$1 figure=$2 scenario=$3 ours=$4 theirs=$5 raw=$6; shift 6
  local throng_costs=() bun_costs=() ratios=() a b ratio pair who
  for pair in $(seq "$pairs"); do
    for who in $([ $((pair % 2)) = 1 ] && echo throng bun || echo bun throng); do
      case $who in
        throng) a=$(cost "$figure" "$server_pid" "$scenario" --url "ws://$data$ours" "$@") || exit 1 ;;
        bun) b=$(cost "$figure" "$bun_pid" "$scenario" --url "ws://$peer$theirs" ${raw:+"$raw"} "$@") || exit 1 ;;
      esac
    done
    [ -n "$a" ] && [ -n "$b" ] || { say "$name: no figure"; exit 1; }
    throng_costs+=("$a") bun_costs+=("$b") ratios+=("$(awk -v a="$a" -v b="$b" 'BEGIN { printf "%.3f", a / b }')")
  done
  ratio=$(printf '%s\n' "${ratios[@]}" | median)
  a=$(printf '%s\n' "${throng_costs[@]}" | median) b=$(printf '%s\n' "${bun_costs[@]}" | median)
  say "$name: throng $a ns, bun $b ns (medians); ratios of the pairs ${ratios[*]}; median $ratio"
  summary+="; $name $ratio"
  awk -v r="$ratio" 'BEGIN { exit !(r <= 1.0) }' || status=1
}

compare echo server_cpu_ns_per_message echo /echo /echo "" --connections 100 --bytes 64
compare fanout-1 server_cpu_ns_per_delivery fanout /ws /room --peer-raw --connections 1000 --in-flight 1
compare fanout-8 server_cpu_ns_per_delivery fanout /ws /room --peer-raw --connections 1000 --in-flight 8
say "peers: throng's CPU to that of bun $(cat "$work/bun.version"), median of $pairs pairs, at most 1.0${summary}"
exit "$status"
