#!/usr/bin/env bash
# The unsafe code of src/uring in miri, on the double of the kernel: what is read and written through pointers that the ring shares is
# checked for bounds, lifetime, initialisation and aliasing. It needs nightly's component miri, and the source of the standard library.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"

command -v rustup >/dev/null 2>&1 || { say "missing: rustup, which has the nightly toolchain"; exit 3; }
rustup toolchain list 2>/dev/null | grep -q '^nightly' || { say "missing: rustup toolchain install nightly"; exit 3; }
if ! cargo +nightly miri --version >"$work/miri.log" 2>&1; then
  say "missing: rustup +nightly component add miri rust-src"
  grep -m 1 -i error "$work/miri.log"
  exit 3
fi

# The double opens the null device in place of a listener.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance"
export CARGO_TARGET_DIR=$target/miri
cargo +nightly miri setup >"$work/miri.log" 2>&1 || { say "missing: rustup +nightly component add rust-src"; tail -n 3 "$work/miri.log"; exit 3; }
cargo +nightly miri test --lib -- uring::double:: uring::op:: 2>&1 | tee "$work/miri.log"; status=${PIPESTATUS[0]}
passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$work/miri.log" | head -n 1)
say "miri: ${passed:-0} tests of the unsafe code on the double of the kernel"
[ "$status" = 0 ] && [ "${passed:-0}" -gt 0 ]
