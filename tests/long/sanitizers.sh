#!/usr/bin/env bash
# AddressSanitizer and memcheck over the unsafe code and what is built on it.
#
# - AddressSanitizer (nightly, whose toolchain ships it): the unit tests of ring and driver, on the double and on the kernel, then the
#   server under its integration tests. With `--cfg watched` the memory that is shared with the kernel and the program's heap come from
#   the allocator that it watches, so that a byte beyond a buffer is seen; what the kernel itself writes is not.
# - memcheck (valgrind): the unit tests on the double, for reads of what was never written.
#
# ThreadSanitizer is not among them: it takes a standard library that was built with it, and knows no fences, on which the doorbells
# rest. `tests/models.rs` is what stands for it.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"
host=$(rustc -vV | sed -n 's/^host: //p')

{ command -v rustup && rustup toolchain list | grep '^nightly'; } >/dev/null 2>&1 || { say "missing: rustup toolchain install nightly"; exit 3; }
need valgrind valgrind || exit 3

# Status of the tests is in $status; the sum of what passed in $count.
status=0 count=0
counted() { # LOG COMMAND...
  local log=$work/$1.log; shift
  "$@" >"$log" 2>&1 </dev/null || { status=1; grep -E 'ERROR: AddressSanitizer|panicked|FAILED|error' "$log" | head -n 20; tail -n 20 "$log"; }
  count=$((count + $(sed -n 's/^test result: [a-zA-Z]*\. \([0-9]*\) passed.*/\1/p' "$log" | awk '{ s += $1 } END { print s + 0 }')))
}

# With an explicit target build scripts and macros are left alone. Debug, so that assertions on pointers are on too.
address() { # LOG ARGUMENT...
  local log=$1; shift
  counted "$log" env RUSTFLAGS="-Zsanitizer=address --cfg watched" CARGO_PROFILE_DEV_DEBUG=line-tables-only \
    ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1 CARGO_TARGET_DIR="$target/address" \
    cargo +nightly test --no-fail-fast --target "$host" "$@"
}
# What is found of planted bugs says nothing more here.
address address-unit --lib -- uring:: driver:: --skip each_planted
unit=$count
address address-server --test echo --test rooms --test presence --test hostile --test drain --test resume
server=$((count - unit))

binary=$(cargo test --lib --no-run --message-format=json 2>"$work/memcheck.log" | sed -n 's/.*"executable":"\([^"]*throng-[^"]*\)".*/\1/p' | tail -n 1)
[ -x "$binary" ] || { tail -n 20 "$work/memcheck.log"; exit 1; }
THRONG_SEEDS=0..10 counted memcheck valgrind --quiet --error-exitcode=9 --undef-value-errors=yes "$binary" \
  uring::double:: driver::double::tests::nothing driver::double::tests::without
say "sanitizers: AddressSanitizer $unit unit tests and $server tests of the server, memcheck $((count - unit - server)) tests; $([ "$status" = 0 ] && echo no || echo some) complaints"
[ "$status" = 0 ] && [ "$unit" -gt 0 ] && [ "$server" -gt 0 ] && [ $((count - unit - server)) -gt 0 ]
