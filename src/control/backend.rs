//! Where the driver is joined to the control plane.

use super::config::Settings;
use super::config::check::Effective;
use super::data_plane::{DataPlane, Snapshot};
use super::serve::{Backend, Started};
use crate::driver::{Clock, Options, Plan, Server};
use crate::limits::{ASSEMBLER_POOL_BYTES_MAX, FRAME_POOL_BYTES_MAX, LANE_BYTES_MAX, Limits, PROCESS_BYTES};
use crate::shard::Order;
use crate::time::Millis;
use crate::uring::Kernel;
use std::sync::Arc;

/// The driver of this build.
pub const BACKEND: Backend = Backend { probe, fixed_bytes, start };

fn probe() -> Result<Vec<String>, String> {
    let kernel = Kernel::probe().map_err(|obstacle| obstacle.to_string())?;
    let mut lacks = Vec::new();
    if !kernel.incremental_buffers {
        lacks.push("incremental receive buffers (Linux 6.12): small messages take a whole buffer each".to_owned());
    }
    if let Some(somaxconn) = kernel.somaxconn.filter(|&length| length < 1_024) {
        lacks.push(format!("a long accept queue: net.core.somaxconn is {somaxconn}, and a storm overflows it"));
    }
    Ok(lacks)
}

/// Rings, lanes, buffers and tables, the pools that never shrink below what they have grown to, and the process itself.
fn fixed_bytes(shards: usize, limits: &Limits) -> usize {
    // Whether the machine can have so many slots is refused elsewhere; here only the sum is wanted.
    let rings = Plan::new(limits, shards, u64::MAX).map_or(0, |plan| plan.fixed_bytes());
    let lanes = 2 * shards * shards.saturating_sub(1) * LANE_BYTES_MAX;
    rings + lanes + shards * (FRAME_POOL_BYTES_MAX + ASSEMBLER_POOL_BYTES_MAX) + PROCESS_BYTES
}

fn start(settings: &Settings, effective: &Effective) -> Result<Started, String> {
    let options = Options {
        listen: settings.listen,
        shards: effective.shards,
        limits: effective.limits.clone(),
        echo: settings.echo,
        pin: true,
    };
    let server = Server::start(options).map_err(|error| error.to_string())?;
    let (address, clock) = (server.local_addr(), server.clock());
    Ok((Arc::new(Shards { server, clock }), address))
}

struct Shards {
    server: Server,
    clock: Clock,
}

impl DataPlane for Shards {
    fn snapshots(&self) -> Vec<Snapshot> {
        self.server.snapshots()
    }
    fn order(&self, order: Order) {
        self.server.order(order);
    }
    fn sockets(&self) -> usize {
        self.server.connections()
    }
    fn shards_running(&self) -> usize {
        self.server.shards_running()
    }
    fn now(&self) -> Millis {
        self.clock.millis()
    }
}
