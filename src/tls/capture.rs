//! What rustls tells only while it works, caught for the handshake that runs on this thread.
//!
//! rustls calls a key log with the traffic secrets, and a resolver with the name that the client asks for; an unbuffered connection gives
//! out neither later. Both are shared by all connections, but are called only from inside of a handshake's own step, on its thread: so a
//! step lends its [`Captured`] to the thread, and takes it back. A key log is the only official way to the traffic secrets, without
//! which the keys after a `KeyUpdate` can't be computed.
//!
//! Invariant: between two steps the thread holds no secret.

use super::keys::Secret;
use rustls::KeyLog;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::cell::RefCell;
use std::sync::Arc;

/// What a handshake has learned so far. The secrets are zeroized when it is dropped.
#[derive(Default)]
pub(super) struct Captured {
    /// The client's first traffic secret.
    pub(super) client: Option<Secret>,
    /// Our first traffic secret.
    pub(super) server: Option<Secret>,
    /// The name that the client asks for, as rustls has checked it.
    pub(super) server_name: Option<Box<str>>,
    /// Whether the resolver had no certificate.
    pub(super) no_certificate: bool,
}

thread_local! {
    static CAPTURED: RefCell<Option<Captured>> = const { RefCell::new(None) };
}

/// Runs a step of a handshake; what rustls tells meanwhile is added to `captured`.
pub(super) fn during<T>(captured: &mut Captured, step: impl FnOnce() -> T) -> T {
    CAPTURED.set(Some(std::mem::take(captured)));
    let result = step();
    *captured = CAPTURED.take().unwrap_or_default();
    result
}

fn note(change: impl FnOnce(&mut Captured)) {
    CAPTURED.with_borrow_mut(|captured| captured.as_mut().map(change));
}

/// The key log: notes both traffic secrets and wants no other.
#[derive(Debug)]
pub(super) struct Secrets;

const CLIENT_LABEL: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER_LABEL: &str = "SERVER_TRAFFIC_SECRET_0";

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let Some(secret) = Secret::new(secret) else { return };
        match label {
            CLIENT_LABEL => note(|captured| captured.client = Some(secret)),
            SERVER_LABEL => note(|captured| captured.server = Some(secret)),
            _ => {}
        }
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, CLIENT_LABEL | SERVER_LABEL)
    }
}

/// The resolver of the settings, and a note of what it was asked.
#[derive(Debug)]
pub(super) struct Resolver(pub(super) Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(Box::from);
        let key = self.0.resolve(hello);
        note(|captured| (captured.server_name, captured.no_certificate) = (name, key.is_none()));
        key
    }
}
