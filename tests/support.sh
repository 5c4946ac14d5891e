# Shared by the shell checks, which source it: a server on free ports, installs, and the count of what passed.

# shellcheck shell=bash
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 1
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
target=${CARGO_TARGET_DIR:-$root/target}
throng=$target/release/throng
work=$target/checks
mkdir -p "$work"
server_pid=

say() { printf '%s\n' "$*"; }

# Starts the server with further flags; sets server_pid, data and admin (host:port). Fails with its output if it doesn't listen.
start_server() {
  stop_server
  local log=$work/server.log
  "$throng" serve --listen 127.0.0.1:0 --admin 127.0.0.1:0 "$@" >"$log" 2>&1 </dev/null &
  server_pid=$!
  for _ in $(seq 300); do
    data=$(sed -n 's|^ *listening *ws://\([0-9.:]*\).*|\1|p' "$log" | head -n 1)
    admin=$(sed -n 's|^ *admin *http://\([0-9.:]*\).*|\1|p' "$log" | head -n 1)
    [ -n "$data" ] && [ -n "$admin" ] && return 0
    kill -0 "$server_pid" 2>/dev/null || break
    sleep 0.1
  done
  say "the server does not listen:"; cat "$log"
  return 1
}

# Ends the server that start_server started, by its process id.
stop_server() {
  [ -n "$server_pid" ] || return 0
  kill -KILL "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
}
trap stop_server EXIT

# bench SCENARIO FLAG... -- SERVE-FLAG...: builds, starts a server, and runs a scenario of `throng bench` against it. Says both commands.
bench() {
  local load=() serve=() status
  while [ $# -gt 0 ] && [ "$1" != -- ]; do load+=("$1"); shift; done
  [ $# = 0 ] || shift
  serve=("$@")
  cargo build --release --quiet || return 1
  start_server "${serve[@]}" || return 1
  say "throng serve ${serve[*]}"
  say "throng bench ${load[*]}"
  "$throng" bench "${load[@]}" --url "ws://$data/ws" --admin "http://$admin" --pid "$server_pid"; status=$?
  stop_server
  return "$status"
}

# need COMMAND DEBIAN-PACKAGE...: true if the command is there, or could be installed. Otherwise says what is missing.
need() {
  local command=$1; shift
  command -v "$command" >/dev/null 2>&1 && return 0
  if [ "${NO_INSTALL:-}" = 1 ]; then
    say "missing: $command (Debian: $*); not installed, because --no-install was given"
  elif [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "missing: $command; as root on Debian: apt-get install $*"
  else
    say "installing $*"
    if { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } >"$work/apt.log" 2>&1 </dev/null; then
      command -v "$command" >/dev/null 2>&1 && return 0
    fi
    say "missing: $command; apt-get install $* failed:"; tail -n 3 "$work/apt.log"
  fi
  return 1
}
