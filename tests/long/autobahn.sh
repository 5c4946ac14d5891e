#!/usr/bin/env bash
# Autobahn|Testsuite, the server cases of groups 1-7, 9 and 10, against /echo: 301 cases, none failed, at most 2 non-strict.
# Needs the runner of shared/tools/autobahn (beside or above this repository, or $AUTOBAHN_TOOLS) and Python 2.7 (or $PY27).
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"
cases=301 non_strict_max=2

tools=
for folder in "${AUTOBAHN_TOOLS:-}" "$root/../shared/tools/autobahn" "$root/../../shared/tools/autobahn"; do
  [ -n "$folder" ] && [ -f "$folder/autobahn_run.py" ] && { tools=$(cd "$folder" && pwd); break; }
done
[ -n "$tools" ] || { say "missing: shared/tools/autobahn/autobahn_run.py (or name its folder in AUTOBAHN_TOOLS)"; exit 3; }
environment=$work/autobahn-py27
if [ ! -x "$environment/bin/wstest" ]; then
  python=${PY27:-$(ls "$HOME"/.pyenv/versions/2.7*/bin/python 2>/dev/null | tail -n 1)}
  python=${python:-$(command -v python2.7)}
  [ -x "$python" ] || { say "missing: Python 2.7, which Autobahn|Testsuite needs (name it in PY27)"; exit 3; }
  [ "${NO_INSTALL:-}" != 1 ] || { say "missing: the environment of Autobahn|Testsuite; not installed, because --no-install was given"; exit 3; }
  rm -rf "$environment"
  PY27=$python bash "$tools/setup_autobahn.sh" "$environment" >"$work/autobahn-setup.log" 2>&1 ||
    { say "missing: Autobahn|Testsuite could not be installed:"; tail -n 3 "$work/autobahn-setup.log"; exit 3; }
fi
cargo build --release --quiet || exit 1
start_server --echo --message-bytes-max 16777216 || exit 1
log=$work/autobahn.log
python3 "$tools/autobahn_run.py" "ws://$data/echo" --agent throng --env "$environment" --out "$work/autobahn" --pmd off \
  --cases '1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.*,10.*' 2>&1 | tee "$log"
status=${PIPESTATUS[0]}
passed=$(sed -n 's/^\([0-9]*\) passed.*/\1/p' "$log" | tail -n 1)
non_strict=$(grep -c '^ *non-strict' "$log")
kill -0 "$server_pid" 2>/dev/null || { say "the server ended: "; tail -n 5 "$work/server.log"; status=1; }
say "autobahn: ${passed:-0} of $cases passed, $non_strict non-strict (at most $non_strict_max)"
[ "$status" = 0 ] && [ "${passed:-0}" = "$cases" ] && [ "$non_strict" -le "$non_strict_max" ]
