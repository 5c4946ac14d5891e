#!/usr/bin/env bash
# Whole turns of the loop on the double of the kernel, from as many seeds as SECONDS_MAX (60) allow, beginning with FROM (at random).
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"
from=${FROM:-$((RANDOM * 32768 * 1000 + RANDOM * 1000))} batch=2000 seeds=0

cargo test --release --lib --no-run --quiet || exit 1
begin=$SECONDS
until [ $((SECONDS - begin)) -ge "${SECONDS_MAX:-60}" ]; do
  first=$((from + seeds))
  export THRONG_SEEDS=$first..$((first + batch))
  if ! cargo test --release --quiet --lib -- --nocapture driver::double::tests::nothing >"$work/ring.log" 2>&1 </dev/null; then
    grep -E 'panicked|seed' -A 3 "$work/ring.log" | head -n 20
    say "ring: a seed of $THRONG_SEEDS fails"
    exit 1
  fi
  seeds=$((seeds + batch))
done
sed -n 's/^[0-9]* seeds: /the last batch: /p' "$work/ring.log"
say "ring: $seeds seeds from $from in $((SECONDS - begin)) s, nothing lost, repeated or left"
