//! Tests of TLS without a socket: rustls as the client.
