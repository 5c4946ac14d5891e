//! Not built yet but for its clock and what it counts.

#[allow(dead_code)]
pub mod clock;
#[allow(dead_code)]
pub mod stats;
