#!/usr/bin/env bash
# SIM_SEEDS (100000) seeds of the simulation from SIM_FROM (0) on, with all assertions and checked arithmetic, on all cores.
#
# SIM_SEEDS=0 runs until it is ended. A failure says its seed, the commit and the smallest workload that fails.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../support.sh"

cargo build --profile sim --no-default-features --example sim --quiet || exit 1
"$target/sim/examples/sim" --seeds "${SIM_SEEDS:-100000}" --from "${SIM_FROM:-0}" >"$work/simulation.log" 2>&1; status=$?
cat "$work/simulation.log"
say "simulation: $(sed -n '/seeds from/p' "$work/simulation.log"), $(sed -n 's/ *seeds a CPU-minute *//p' "$work/simulation.log") a CPU-minute"
exit "$status"
