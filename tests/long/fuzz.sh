#!/usr/bin/env bash
# Every fuzz target for FUZZ_SECONDS (600) with AddressSanitizer, FUZZ_JOBS (2) side by side, beginning with the committed corpus: none fails.
#
# FUZZ_TARGETS names only some of them. What a run finds stays in the build folder, in checks/fuzz/TARGET; the committed corpus is not
# touched, unless FUZZ_KEEP=1 says that the smallest set of inputs which reaches the same code is to take its place. An input that fails
# is run alone with `cargo +nightly fuzz run TARGET FILE`; once its cause is mended it goes to fuzz/regressions/TARGET.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"
seconds=${FUZZ_SECONDS:-600}
side_by_side=${FUZZ_JOBS:-2}
folder=$work/fuzz

need g++ g++ || exit 3
cargo fuzz --version >/dev/null 2>&1 || { say "missing: cargo-fuzz (cargo install cargo-fuzz)"; exit 3; }
cargo +nightly --version >/dev/null 2>&1 || { say "missing: a nightly toolchain, for the sanitizer (rustup toolchain install nightly)"; exit 3; }
mapfile -t targets < <(cargo +nightly fuzz list)
[ ${#targets[@]} -gt 0 ] || { say "no targets"; exit 1; }
read -r -a chosen <<<"${FUZZ_TARGETS:-${targets[*]}}"
for name in "${chosen[@]}"; do
  [[ " ${targets[*]} " == *" $name "* ]] || { say "unknown target $name; known: ${targets[*]}"; exit 2; }
done

mkdir -p "$folder"
export CARGO_TARGET_DIR=$target/fuzz
cargo +nightly fuzz build >"$folder/build.log" 2>&1 || { tail -n 20 "$folder/build.log"; exit 1; }
binaries=$CARGO_TARGET_DIR/$(rustc +nightly -vV | sed -n 's/^host: //p')/release

# What a target needs of libFuzzer: the longest input that is of use to it, and the words of what it reads.
flags_of() {
  case $1 in
    upgrade) printf '%s\n' -max_len=9500 "-dict=$root/fuzz/dict/http.dict" ;;
    codec | shard) printf '%s\n' -max_len=2048 "-dict=$root/fuzz/dict/json.dict" ;;
    *) printf '%s\n' -max_len=2048 ;;
  esac
}

# Runs one target, and says its line. A log without a count of runs is a target that did not come so far.
run_target() {
  local name=$1 log=$folder/$1.log flags status runs corpus=$folder/$1/corpus
  mapfile -t flags < <(flags_of "$name")
  mkdir -p "$corpus" "$folder/$name/found"
  "$binaries/$name" "${flags[@]}" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -print_final_stats=1 \
    -artifact_prefix="$folder/$name/found/" "$corpus" "$root/fuzz/corpus/$name" >"$log" 2>&1 </dev/null
  status=$?
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log" | tail -n 1)
  if [ "$status" = 0 ] && [ "${runs:-0}" -gt 0 ]; then
    say "$name: $runs runs in $seconds s, $(sed -n 's/.*DONE *\(cov: [0-9]* ft: [0-9]* corp: [0-9]*\).*/\1/p' "$log" | tail -n 1)"
    return 0
  fi
  say "$name: FAILED after ${runs:-0} runs; the input is in $folder/$name/found, the log in $log"
  grep -E -m 3 -A 3 'panicked at|ERROR: ' "$log"
  return 1
}

# Puts the smallest set of inputs that reaches the same code, however often, into the committed corpus.
keep() {
  local name=$1 flags fresh=$folder/$1/kept
  mapfile -t flags < <(flags_of "$name")
  rm -rf "$fresh" && mkdir -p "$fresh"
  "$binaries/$name" "${flags[@]}" -merge=1 -use_counters=0 "$fresh" "$root/fuzz/corpus/$name" "$folder/$name/corpus" >"$folder/$name.merge.log" 2>&1 || return 1
  rm -rf "$root/fuzz/corpus/$name" && mv "$fresh" "$root/fuzz/corpus/$name"
  say "$name: $(find "$root/fuzz/corpus/$name" -type f | wc -l) inputs kept"
}

# `wait -n` tells of one that ended, not of which: each leaves a file if it was clean.
rm -f "$folder"/*.clean
running=0
for name in "${chosen[@]}"; do
  if [ "$running" = "$side_by_side" ]; then wait -n; running=$((running - 1)); fi
  { run_target "$name" && : >"$folder/$name.clean"; } &
  running=$((running + 1))
done
wait
clean=$(find "$folder" -maxdepth 1 -name '*.clean' | wc -l)
status=0
[ "$clean" = "${#chosen[@]}" ] || status=1
if [ "$status" = 0 ] && [ "${FUZZ_KEEP:-}" = 1 ]; then
  for name in "${chosen[@]}"; do keep "$name" || status=1; done
fi
say "fuzz: $clean of ${#chosen[@]} targets clean after $seconds s each"
exit "$status"
