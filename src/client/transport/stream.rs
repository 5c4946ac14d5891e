//! The socket under a client: the one place that knows what a scheme means.

use super::failure::Failure;
use super::tls::Tls;
use super::url::Target;
use std::io;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

/// What bytes go through, both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Where and how to connect.
pub(super) struct Endpoint {
    pub(super) target: Target,
    /// Invariant: there exactly if the target's scheme says so.
    pub(super) tls: Option<Tls>,
}

/// An open socket.
pub(super) struct Stream {
    pub(super) reader: ReadHalf<Box<dyn Duplex>>,
    pub(super) writer: WriteHalf<Box<dyn Duplex>>,
    /// What it took may still be on the way to the socket: it must be flushed.
    pub(super) is_buffered: bool,
}

/// Opens a socket. The caller bounds the time.
///
/// # Errors
/// Those of name resolution, of `connect`, and of the handshake.
pub(super) async fn open(endpoint: &Endpoint) -> Result<Stream, Failure> {
    let target = &endpoint.target;
    let stream = connect(&target.host, target.port).await.map_err(|error| Failure::of(&error))?;
    let duplex: Box<dyn Duplex> = match &endpoint.tls {
        Some(tls) => Box::new(tls.connect(stream).await?),
        None => Box::new(stream),
    };
    let (reader, writer) = tokio::io::split(duplex);
    Ok(Stream { reader, writer, is_buffered: endpoint.tls.is_some() })
}

async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    // Small messages must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Stream {
    /// Writes what is taken at once, and says that nothing follows. A socket that is dropped here may be a broken one: whatever fails is
    /// of no more interest.
    pub(super) async fn part(mut self, last: &[u8]) {
        std::future::poll_fn(|context| {
            let mut writer = Pin::new(&mut self.writer);
            if !last.is_empty() {
                let _ = writer.as_mut().poll_write(context, last);
            }
            let _ = writer.poll_shutdown(context);
            std::task::Poll::Ready(())
        })
        .await;
    }
}
