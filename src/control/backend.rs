//! Where the driver is joined to the control plane.

use super::serve::Backend;
use crate::limits::{LANE_BYTES_MAX, RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, SCRATCH_BYTES};

/// The server of this build. The driver is not part of it yet: settings, `--print-config` and every refusal work, starting is refused.
pub const BACKEND: Backend = Backend {
    probe: || Ok(Vec::new()),
    fixed_bytes: |shards, _| {
        let buffers = usize::from(RECEIVE_BUFFERS) * RECEIVE_BUFFER_BYTES as usize;
        shards * (buffers + SCRATCH_BYTES) + shards * (shards - 1) * LANE_BYTES_MAX
    },
    start: |_, _| Err("this build has no event loops yet".to_owned()),
};
