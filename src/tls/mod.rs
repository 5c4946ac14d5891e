//! TLS for the server's connections: which certificates it shows, and whose it takes.
#![forbid(unsafe_code)]

pub mod certificates;
