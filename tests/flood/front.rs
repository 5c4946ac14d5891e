//! What listens in the server's place all the time: it counts every connection that is opened, at the moment at which it is taken, and
//! hands it to the server while there is one. While there is none it takes the connection and resets it.
//!
//! So attempts are counted at the listening side in the same way before, during and after an outage.

use crate::support::Deadline;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Handle;

/// Connections that may wait to be taken: more than come at once.
const BACKLOG: u32 = 4_096;
/// Longer than any run.
const EVER: Duration = Duration::from_secs(86_400);

/// The time of a run, in ms from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Deadline);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Deadline::after(EVER))
    }

    pub(crate) fn now_ms(self) -> u64 {
        (EVER - self.0.left().expect("a run is shorter than a day")).as_millis() as u64
    }
}

/// See the module. It ends with its runtime.
pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    is_up: AtomicBool,
    opened: Mutex<Vec<u64>>,
    clock: Clock,
}

impl Front {
    /// A front before `server`, which is there.
    /// Its connections are carried by `carriers`, which runs elsewhere, so that nothing delays what is counted here.
    pub(crate) fn start(server: SocketAddr, clock: Clock, carriers: Handle) -> io::Result<Arc<Front>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let front = Arc::new(Front { address, is_up: AtomicBool::new(true), opened: Mutex::default(), clock });
        let accepting = Arc::clone(&front);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepting.lock().push(clock.now_ms());
                let client = client.into_std();
                let carrying = Arc::clone(&accepting);
                carriers.spawn(async move {
                    let Ok(client) = client.and_then(TcpStream::from_std) else { return };
                    carrying.carry(client, server).await;
                });
            }
        });
        Ok(front)
    }

    /// Whether there is a server from now on.
    pub(crate) fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
    }

    /// When connections were opened, in ms.
    pub(crate) fn opened(&self) -> Vec<u64> {
        self.lock().clone()
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry(self: Arc<Front>, mut client: TcpStream, server: SocketAddr) {
        let upstream = if self.is_up.load(Ordering::Relaxed) { TcpStream::connect(server).await.ok() } else { None };
        match upstream {
            Some(mut upstream) => {
                let _ = copy_bidirectional(&mut client, &mut upstream).await;
            }
            None => {
                // A refusal of a socket that is taken already.
                let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
            }
        }
    }
}
