//! Where the driver is joined to the control plane.

use super::config::Settings;
use super::config::check::Effective;
use super::data_plane::DataPlane;
use super::serve::{Backend, Secured, Started};
use super::tls::Tls;
use crate::driver::{Options, Server, Snapshot, StartError};
use crate::shard::Order;
use crate::time::Millis;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A killed server's listeners live on until its ring is torn down, some hundred ms later. Its lock is free before.
const LISTEN_ATTEMPTS: u32 = 60;
const LISTEN_PAUSE: Duration = Duration::from_millis(50);

/// The event loops of this build.
pub const BACKEND: Backend = Backend { start };

impl DataPlane for Server {
    fn snapshots(&self) -> Vec<Snapshot> {
        Server::snapshots(self)
    }
    fn order(&self, order: Order) {
        Server::order(self, order);
    }
    fn connections(&self) -> usize {
        Server::connections(self)
    }
    fn now(&self) -> Millis {
        self.clock().millis()
    }
}

fn start(settings: &Settings, effective: &Effective) -> Result<Started, String> {
    let tls = Tls::load(settings)?;
    let options = Options {
        listen: settings.listen,
        shards: effective.shards,
        limits: effective.limits.clone(),
        tls: tls.as_ref().map(|tls| tls.listener.clone()),
        echo: settings.echo,
        pin: true,
    };
    let mut attempts = 1;
    let server = loop {
        match Server::start(options.clone()) {
            Ok(server) => break server,
            Err(StartError::Listen { error, .. }) if error.kind() == io::ErrorKind::AddrInUse && attempts < LISTEN_ATTEMPTS => {
                attempts += 1;
                std::thread::sleep(LISTEN_PAUSE);
            }
            Err(error) => return Err(error.to_string()),
        }
    };
    let mut lacks = Vec::new();
    if !server.kernel().incremental_buffers {
        lacks.push("buffers filled piece by piece (Linux 6.12): each receive takes a whole buffer".to_owned());
    }
    let secured = tls.zip(server.tls_addr()).map(|(tls, listen)| Secured {
        listen,
        notes: tls.notes(listen.port()),
        certificates: tls.certificates,
    });
    Ok(Started { listen: server.local_addr(), secured, lacks, plane: Arc::new(server) })
}
