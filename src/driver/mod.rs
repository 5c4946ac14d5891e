//! Not built yet but for what it counts.

#[allow(dead_code)]
pub mod stats;
