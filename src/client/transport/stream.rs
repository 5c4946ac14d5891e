//! The socket under a client: the one place that knows what a scheme means. TLS, once it is here, is another [`Duplex`].

use super::url::Target;
use std::io;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::net::TcpStream;

/// What bytes go through, both ways.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An open socket.
pub(super) struct Stream {
    pub(super) reader: ReadHalf<Box<dyn Duplex>>,
    pub(super) writer: WriteHalf<Box<dyn Duplex>>,
}

/// Opens a socket to the target. The caller bounds the time.
///
/// # Errors
/// Those of name resolution and of `connect`.
pub(super) async fn open(target: &Target) -> io::Result<Stream> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    // Small messages must not wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    let (reader, writer) = tokio::io::split(Box::new(stream) as Box<dyn Duplex>);
    Ok(Stream { reader, writer })
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
