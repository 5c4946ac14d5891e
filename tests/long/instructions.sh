#!/usr/bin/env bash
# Instructions of the hot operations, counted by callgrind: each at most 3 % above what benches/instructions.txt says for this kind of
# machine. With UPDATE=1 that file is written anew. Counts do not depend on the machine's load, only on compiler and CPU features.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"
baseline=benches/instructions.txt

need valgrind valgrind || exit 3
binary=$(cargo bench --bench instructions --no-run --message-format=json 2>"$work/bench.log" |
  sed -n 's/.*"executable":"\([^"]*instructions-[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$binary" ] || { tail -n 20 "$work/bench.log"; exit 1; }

# Instructions below the function that the bench marks, less those of an empty run, divided by its repetitions.
instructions() { # OPERATION REPETITIONS
  valgrind --tool=callgrind --callgrind-out-file="$work/callgrind.out" --toggle-collect='*measured*' "$binary" "$1" "$2" >"$work/callgrind.log" 2>&1 ||
    { tail -n 5 "$work/callgrind.log" >&2; return 1; }
  sed -n 's/^summary: *\([0-9]*\).*/\1/p' "$work/callgrind.out"
}

status=0 count=0 worst=
results=$work/instructions.txt
: >"$results"
for operation in $("$binary" --list-operations); do
  few=$(instructions "$operation" 100) || exit 1
  many=$(instructions "$operation" 1100) || exit 1
  each=$(awk -v a="$few" -v b="$many" 'BEGIN { printf "%.1f", (b - a) / 1000 }')
  say "$operation $each" | tee -a "$results"
  count=$((count + 1))
  before=$(awk -v name="$operation" '$1 == name { print $2 }' "$baseline" 2>/dev/null)
  [ "${UPDATE:-}" != 1 ] || continue
  if [ -z "$before" ]; then
    say "  not in $baseline: run with UPDATE=1"; status=1; worst=$operation
  elif awk -v a="$each" -v b="$before" 'BEGIN { exit !(a > b * 1.03 + 1) }'; then
    say "  was $before"; status=1; worst=$operation
  fi
done
[ "${UPDATE:-}" != 1 ] || { { say "# Instructions of one operation: tests/run --long instructions, written with UPDATE=1."; cat "$results"; } >"$baseline"; }
say "instructions: $count operations, ${worst:-none} above its mark"
[ "$count" -gt 0 ] && exit $status
