//! What the end of a connection asks of the client: the table of PROTOCOL §7.
//!
//! Knows no session and no clock: it turns a code or a status into what may be tried next.

use super::event::Cause;

/// What to do after a connection has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Trying again would meet the same answer, or nobody wants it.
    pub(crate) stop: bool,
    /// The session cannot go on: the next attempt opens a new one.
    pub(crate) fresh_session: bool,
    /// The next attempt needs another token.
    pub(crate) new_token: bool,
    /// A second such end in a row is final.
    pub(crate) once: bool,
    /// Wait as after many attempts: trying soon again will not mend it.
    pub(crate) at_cap: bool,
    /// A command was larger than the server takes.
    pub(crate) too_large: bool,
}

/// The verdict on an end. What is not in the table goes by its class (40xx stop, others try again), and all else is tried again: this
/// client never gives up by itself.
pub(crate) fn verdict(cause: Cause) -> Verdict {
    let again = Verdict::default();
    match cause {
        Cause::Asked => Verdict { stop: true, ..again },
        Cause::Lost | Cause::Silent => again,
        Cause::Violation(_) => Verdict { at_cap: true, fresh_session: true, ..again },
        Cause::Closed(code) => match code {
            1000 | 1001 | 1005 => Verdict { stop: true, ..again },
            1002 | 1003 | 1007 => Verdict { at_cap: true, ..again },
            // The command that was too large cannot be sent again, and the session waits for its number.
            1009 => Verdict { too_large: true, fresh_session: true, ..again },
            4001 => Verdict { new_token: true, once: true, ..again },
            4204 => Verdict { new_token: true, ..again },
            4000..=4099 => Verdict { stop: true, ..again },
            4202 | 4203 => Verdict { fresh_session: true, ..again },
            _ => again,
        },
        Cause::Refused(status) => match status {
            401 => Verdict { new_token: true, once: true, ..again },
            403 | 426 => Verdict { stop: true, ..again },
            429 | 500..=599 => again,
            _ => Verdict { at_cap: true, ..again },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::{CloseReason, Retry};

    #[test]
    fn every_code_of_the_server_means_here_what_its_table_says() {
        for reason in CloseReason::ALL {
            let Some(code) = reason.code() else { continue };
            let verdict = verdict(Cause::Closed(code));
            // 1000 answers a close of ours, whatever led to it.
            if code == 1000 {
                continue;
            }
            // A bad token is asked for anew once.
            let stops = verdict.stop || verdict.once;
            assert_eq!(stops, reason.retry() == Retry::Stop, "{reason:?} {code}");
        }
    }

    #[test]
    fn what_nobody_knows_is_tried_again_by_its_class() {
        assert!(verdict(Cause::Closed(4042)).stop);
        for code in [1006, 1011, 1012, 3000, 4142, 4242, 4900] {
            assert!(!verdict(Cause::Closed(code)).stop, "{code}");
        }
        assert!(!verdict(Cause::Refused(404)).stop && verdict(Cause::Refused(404)).at_cap);
        assert!(!verdict(Cause::Refused(503)).at_cap && verdict(Cause::Refused(403)).stop);
    }
}
