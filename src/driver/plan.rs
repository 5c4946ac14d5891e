//! How many slots each shard gets, and what the fixed part of the server's memory comes to.
//!
//! Pure arithmetic over settings and the machine's limits: it is printed at start, and refuses with a remedy what can't be.

use crate::limits::{
    ASSEMBLER_POOL_BYTES_MAX, COMPLETION_ENTRIES, FRAME_POOL_BYTES_MAX, LANE_BYTES_MAX, Limits, PROCESS_BYTES,
    RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, REFUSALS_IN_FLIGHT_MAX, SCRATCH_BYTES, SHARD_CONNECTIONS_MAX, SHARDS_MAX,
    SUBMISSION_ENTRIES,
};
use crate::shard::{MeshMessage, Transmit};
use crate::uring::{BuffersConfig, Completion, Entry, RingConfig};
use std::fmt;

/// Standard deviations of the unevenness of `SO_REUSEPORT`'s hash that a table has room for.
const SLACK_DEVIATIONS: usize = 6;
/// Slots of slack at least, for shards with few connections.
const SLACK_MIN: usize = 32;
/// Bytes that the kernel keeps per slot of a file table, beside the file itself: a pointer and a bit (`io_rsrc_data`).
const KERNEL_SLOT_BYTES: usize = 9;
/// Bytes of a submission queue entry and its place in the array.
const SUBMISSION_BYTES: usize = 64 + 4;
/// Bytes of a completion queue entry.
const COMPLETION_BYTES: usize = 16;

/// What each shard gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Shards of the process.
    pub shards: usize,
    /// Connections over all of them.
    pub connections_max: usize,
    /// Slots of each shard's file table: its share, slack for the uneven hash, and room for sockets that are being refused.
    pub slots: usize,
    /// Places of each lane.
    pub lane_places: usize,
}

/// Why the settings can't be on this machine. Its text carries the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// Not between 1 and [`SHARDS_MAX`].
    Shards(usize),
    /// No connection at all.
    NoConnections,
    /// A shard's table would need more slots than a ring can have.
    Descriptors {
        /// Connections wanted over all shards.
        connections_max: usize,
        /// Shards wanted.
        shards: usize,
        /// Slots that each shard would need.
        slots: usize,
        /// RLIMIT_NOFILE, or the crate's own bound where that is lower.
        limit: u64,
        /// The fewest shards with which it works, if any number does.
        shards_enough: Option<usize>,
        /// The most connections that work with this number of shards.
        connections_possible: usize,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::Shards(shards) => write!(f, "{shards} shards; give a number from 1 to {SHARDS_MAX}"),
            PlanError::NoConnections => write!(f, "connections_max is 0; give at least 1"),
            PlanError::Descriptors { connections_max, shards, slots, limit, shards_enough, connections_possible } => {
                write!(
                    f,
                    "{connections_max} connections on {shards} {} need {slots} slots each, and a ring can have {limit} \
                     (RLIMIT_NOFILE); run `ulimit -n {slots}`",
                    if *shards == 1 { "shard" } else { "shards" }
                )?;
                if let Some(enough) = shards_enough {
                    write!(f, ", or start with `--shards {enough}`")?;
                }
                if *connections_possible > 0 {
                    write!(f, ", or with `--connections-max {connections_possible}`")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for PlanError {}

impl Plan {
    /// Shares `limits.connections_max` out among `shards`, where a ring can have `descriptors` slots.
    ///
    /// # Errors
    /// It can't be, with the remedy.
    pub fn new(limits: &Limits, shards: usize, descriptors: u64) -> Result<Plan, PlanError> {
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(PlanError::Shards(shards));
        }
        let connections_max = limits.connections_max;
        if connections_max == 0 {
            return Err(PlanError::NoConnections);
        }
        let limit = descriptors.min(SHARD_CONNECTIONS_MAX as u64);
        let fits = |connections: usize, shards: usize| slots(connections, shards) as u64 <= limit;
        if !fits(connections_max, shards) {
            return Err(PlanError::Descriptors {
                connections_max,
                shards,
                slots: slots(connections_max, shards),
                limit,
                shards_enough: (shards + 1..=SHARDS_MAX).find(|&shards| fits(connections_max, shards)),
                connections_possible: largest(connections_max, |connections| fits(connections, shards)),
            });
        }
        Ok(Plan { shards, connections_max, slots: slots(connections_max, shards), lane_places: limits.lane_places(shards) })
    }

    /// What each shard's ring is made of.
    pub(super) fn ring(&self, incremental: bool) -> RingConfig {
        RingConfig {
            submissions: SUBMISSION_ENTRIES,
            completions: COMPLETION_ENTRIES,
            slots: self.slots as u32,
            buffers: BuffersConfig { count: RECEIVE_BUFFERS, bytes: RECEIVE_BUFFER_BYTES },
            incremental,
        }
    }

    /// Bytes that the process holds whatever happens, at most: rings, buffers, scratch, lanes with what they may hold, slot tables
    /// and pools of all shards, and the program itself. The core's records are not in it.
    pub fn fixed_bytes(&self) -> usize {
        let queues = SUBMISSION_ENTRIES as usize * SUBMISSION_BYTES + COMPLETION_ENTRIES as usize * COMPLETION_BYTES;
        let batches = COMPLETION_ENTRIES as usize * size_of::<Completion>()
            + SUBMISSION_ENTRIES as usize * (size_of::<Transmit>() + size_of::<Entry>());
        let buffers = usize::from(RECEIVE_BUFFERS) * RECEIVE_BUFFER_BYTES as usize;
        let tables = self.slots * (super::connections::SLOT_BYTES + KERNEL_SLOT_BYTES);
        // A place of a channel is the message and a stamp.
        let lanes_in = 2 * (self.shards - 1) * self.lane_places * (size_of::<MeshMessage>() + size_of::<usize>());
        let payload_in = 2 * (self.shards - 1) * LANE_BYTES_MAX;
        let pools = FRAME_POOL_BYTES_MAX + ASSEMBLER_POOL_BYTES_MAX;
        self.shards * (queues + batches + buffers + SCRATCH_BYTES + tables + lanes_in + payload_in + pools) + PROCESS_BYTES
    }
}

/// Slots of one of `shards` tables for `connections` over all.
///
/// The hash spreads connections like independent throws of a die, so a shard's count deviates from its share by about the share's
/// square root.
fn slots(connections: usize, shards: usize) -> usize {
    let share = connections.div_ceil(shards);
    let slack = if shards == 1 { 0 } else { (SLACK_DEVIATIONS * (share.isqrt() + 1)).max(SLACK_MIN) };
    // No shard can hold more than all.
    (share + slack).min(connections) + REFUSALS_IN_FLIGHT_MAX
}

/// The largest number up to `most` for which `holds`, which is true for all numbers below some bound; 0 if for none.
fn largest(most: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if holds(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections_max: usize) -> Limits {
        Limits { connections_max, ..Limits::default() }
    }

    #[test]
    fn one_shard_has_its_connections_and_the_refusals() {
        assert_eq!(Plan::new(&limits(1_000), 1, 20_000).unwrap().slots, 1_000 + REFUSALS_IN_FLIGHT_MAX);
    }

    #[test]
    fn more_connections_than_descriptors_work_with_several_shards() {
        let plan = Plan::new(&limits(38_000), 3, 20_000).unwrap();
        assert!(plan.slots * 3 > 38_000 + 3 * REFUSALS_IN_FLIGHT_MAX && plan.slots <= 20_000);
    }

    #[test]
    fn every_plan_has_a_slot_for_each_connection_and_slack_where_the_hash_is_uneven() {
        for shards in [2, 3, 7, 51, SHARDS_MAX] {
            for connections in [1, 2, 100, 9_999, 100_000] {
                let plan = Plan::new(&limits(connections), shards, 1 << 20).unwrap();
                assert!(plan.slots >= connections.div_ceil(shards) + REFUSALS_IN_FLIGHT_MAX);
                assert!(plan.slots <= connections + REFUSALS_IN_FLIGHT_MAX);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_remedies_that_work() {
        let Err(PlanError::Descriptors { slots, shards_enough, connections_possible, .. }) = Plan::new(&limits(38_000), 1, 20_000)
        else {
            panic!("38,000 slots of 20,000");
        };
        assert!(Plan::new(&limits(38_000), 1, slots as u64).is_ok());
        assert!(Plan::new(&limits(38_000), shards_enough.unwrap(), 20_000).is_ok());
        assert!(Plan::new(&limits(connections_possible), 1, 20_000).is_ok());
        assert!(Plan::new(&limits(connections_possible + 1), 1, 20_000).is_err());
    }

    #[test]
    fn a_limit_too_low_for_anything_names_no_number_of_connections() {
        let text = Plan::new(&limits(10), 1, 100).unwrap_err().to_string();
        assert!(text.contains("ulimit -n") && !text.contains("--connections-max"), "{text}");
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        assert_eq!(Plan::new(&limits(10), 0, 1_000), Err(PlanError::Shards(0)));
        assert_eq!(Plan::new(&limits(10), SHARDS_MAX + 1, 1_000), Err(PlanError::Shards(SHARDS_MAX + 1)));
        assert_eq!(Plan::new(&limits(0), 1, 1_000), Err(PlanError::NoConnections));
    }

    #[test]
    fn fixed_memory_grows_with_shards_and_slots() {
        let of = |connections, shards| Plan::new(&limits(connections), shards, 1 << 20).unwrap().fixed_bytes();
        assert!(of(1_000, 2) + PROCESS_BYTES > 2 * of(500, 1), "lanes and slack come on top");
        assert!(of(100_000, 1) - of(1_000, 1) == 99_000 * (crate::driver::connections::SLOT_BYTES + KERNEL_SLOT_BYTES));
    }
}
