//! Why a connection ends: one table for the close code, what the client may do next, and the metric label.
//!
//! Every end of a connection, whoever decided it, is one [`CloseReason`]. Nothing else in the crate writes a close code.
//! Sources: RFC 6455 §7.4 for 1000–1014; PROTOCOL §7 for 4000–4999.

/// What the client may do after this close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It ended by its own will, or it must stop: trying again would meet the same answer.
    Stop,
    /// Try again with jittered back-off, not before the advice that came with the close.
    BackOff,
    /// Reconnect with jitter.
    Reconnect,
}

macro_rules! close_reasons {
    ($($(#[$doc:meta])* $name:ident = ($code:expr, $retry:ident, $abnormal:expr, $label:expr),)*) => {
        /// Why a connection ended. The discriminant indexes the `closes` counters of a shard.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum CloseReason { $($(#[$doc])* $name,)* }
        impl CloseReason {
            /// Every reason, in discriminant order.
            pub const ALL: &'static [CloseReason] = &[$(CloseReason::$name,)*];
            /// The close code on the wire; `None` where no close frame is sent (before the upgrade, or the peer is gone).
            pub const fn code(self) -> Option<u16> { match self { $(CloseReason::$name => $code,)* } }
            /// What the client may do next.
            pub const fn retry(self) -> Retry { match self { $(CloseReason::$name => Retry::$retry,)* } }
            /// True if the session did not end by anybody's will: its presence stays for the grace.
            pub const fn is_abnormal(self) -> bool { match self { $(CloseReason::$name => $abnormal,)* } }
            /// Value of the `reason` label of the metrics.
            pub const fn label(self) -> &'static str { match self { $(CloseReason::$name => $label,)* } }
        }
    };
}

close_reasons! {
    /// The client sent a close frame with 1000, 1001 or no code (1005): session and presence end at once.
    Clean = (Some(1000), Stop, false, "clean"),
    /// The client sent a close frame with another code that RFC 6455 lets it send.
    PeerCode = (Some(1000), Stop, true, "peer_code"),
    /// The client closed with 4900: it no longer trusts this socket, its session stays.
    Abandoned = (Some(1000), Reconnect, true, "abandoned"),
    /// The client closed with 4901: the page was hidden; presence leaves, the session stays.
    Hidden = (Some(1000), Reconnect, false, "hidden"),
    /// End of stream without a close frame.
    Eof = (None, Reconnect, true, "eof"),
    /// The peer reset the connection, or the kernel gave up on it.
    Reset = (None, Reconnect, true, "reset"),
    /// A frame that RFC 6455 forbids.
    Protocol = (Some(1002), BackOff, true, "protocol"),
    /// A message type that this endpoint never takes.
    Unsupported = (Some(1003), BackOff, true, "unsupported"),
    /// A text message or close reason that is not UTF-8.
    InvalidUtf8 = (Some(1007), BackOff, true, "invalid_utf8"),
    /// A message above `message_bytes_max`.
    TooLarge = (Some(1009), BackOff, true, "too_large"),
    /// No complete upgrade request, or no `connect`, within the handshake deadline. Not 4004, which tells a client never to come again:
    /// its `connect` may have been held up on the way.
    HandshakeTimeout = (Some(4201), BackOff, true, "handshake_timeout"),
    /// The upgrade request was answered with an HTTP error; the refusal metrics say which.
    BadRequest = (None, Stop, true, "bad_request"),
    /// A plain HTTP question (health, readiness) was answered.
    HttpAnswered = (None, Stop, false, "http_answered"),
    /// Refused before the upgrade because no connection is free: 503.
    Refused = (None, BackOff, true, "refused"),
    /// The first frame was not a valid `connect`, or the client broke the protocol's opening.
    BadProtocol = (Some(4004), Stop, true, "bad_protocol"),
    /// The credentials were not accepted.
    BadToken = (Some(4001), Stop, true, "bad_token"),
    /// The user may not do this.
    Forbidden = (Some(4003), Stop, true, "forbidden"),
    /// No room for this connection any more.
    OverCapacity = (Some(4100), BackOff, true, "over_capacity"),
    /// It went on sending above its rate.
    RateLimited = (Some(4101), BackOff, true, "rate_limited"),
    /// Its send queue was full.
    SlowConsumer = (Some(4102), BackOff, true, "slow_consumer"),
    /// Memory ran short and this was the slowest consumer.
    MemoryPressure = (Some(4103), BackOff, true, "memory_pressure"),
    /// Its user or address holds too many connections.
    TooMany = (Some(4104), BackOff, true, "too_many"),
    /// The server is shutting down.
    Drain = (Some(4200), Reconnect, false, "drain"),
    /// A ping was not answered in time and the socket was silent.
    NoPong = (Some(4201), Reconnect, true, "no_pong"),
    /// The session went on over another connection.
    TakenOver = (Some(4202), Reconnect, false, "taken_over"),
    /// The same gap in `seq` could not be closed three times.
    StateInsufficient = (Some(4203), Reconnect, true, "state_insufficient"),
    /// The token ran out.
    TokenExpired = (Some(4204), Reconnect, true, "token_expired"),
}

impl CloseReason {
    /// Whether the client may come back for its session: not after a clean end, nor where it is told to stop or to begin anew.
    pub const fn keeps_session(self) -> bool {
        let begins_anew = matches!(self, CloseReason::Drain | CloseReason::StateInsufficient);
        let may_come_back = matches!(self, CloseReason::PeerCode) || !matches!(self.retry(), Retry::Stop);
        may_come_back && !begins_anew
    }

    /// Number of reasons: the length of a counter array.
    pub const COUNT: usize = CloseReason::ALL.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_discriminant_is_the_place_in_all() {
        for (index, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }

    /// A client goes by the code alone: a deadline that shared its code with a refusal made clients behind a slow network stop for ever.
    #[test]
    fn a_code_that_says_stop_is_never_given_for_what_may_be_tried_again() {
        let stops = |retry: Retry| retry == Retry::Stop;
        for reason in CloseReason::ALL.iter().filter(|reason| reason.code().is_some_and(|code| code != 1000)) {
            for other in CloseReason::ALL.iter().filter(|other| other.code() == reason.code()) {
                assert_eq!(stops(reason.retry()), stops(other.retry()), "{reason:?} and {other:?} share {:?}", reason.code());
            }
        }
    }

    #[test]
    fn labels_are_unique() {
        for (index, reason) in CloseReason::ALL.iter().enumerate() {
            assert!(CloseReason::ALL[..index].iter().all(|other| other.label() != reason.label()));
        }
    }
}
