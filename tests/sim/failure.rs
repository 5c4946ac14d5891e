//! How a checker says that something is wrong: it panics with a [`Failure`], which `run` catches.
//!
//! The checker's name is what shrinking keeps to: a smaller workload counts only if it fails the same checker.

/// What a checker found.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) checker: &'static str,
    pub(crate) detail: String,
}

/// Ends the run with a failure of the named checker.
macro_rules! fail {
    ($checker:literal, $($text:tt)*) => {
        std::panic::panic_any($crate::failure::Failure { checker: $checker, detail: format!($($text)*) })
    };
}

/// Ends the run with a failure of the named checker unless the condition holds.
macro_rules! check {
    ($condition:expr, $checker:literal, $($text:tt)*) => {
        if !$condition {
            fail!($checker, $($text)*);
        }
    };
}
