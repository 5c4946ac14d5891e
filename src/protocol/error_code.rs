//! Everything that an `error` frame can mean: one table for the word on the wire, its default message, and whether the same command
//! may be sent again under the same `seq`.
//!
//! A code that is not retryable *consumes* its command's `seq`. Only the connection's own shard gives retryable codes, before a
//! command is dispatched; a room's home refuses finally, so whatever a home may say has a final code here.

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = ($wire:literal, $retryable:literal, $message:literal),)*) => {
        /// What an `error` frame says. Codes may be added; clients ignore those they do not know.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }
        impl ErrorCode {
            /// Every code, in discriminant order.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];
            /// The word on the wire.
            pub const fn wire(self) -> &'static str { match self { $(ErrorCode::$name => $wire,)* } }
            /// A sentence for the client's developer, where nothing more precise is known.
            pub const fn message(self) -> &'static str { match self { $(ErrorCode::$name => $message,)* } }
            /// True if the command was not consumed and may be sent again.
            pub const fn retryable(self) -> bool { match self { $(ErrorCode::$name => $retryable,)* } }
        }
    };
}

error_codes! {
    /// Not one JSON object, a key twice, a key too long, or nested too deeply.
    BadJson = ("bad_json", false, "the message is not one JSON object"),
    /// More unknown fields than can be checked for duplicates.
    TooManyFields = ("too_many_fields", false, "the message has too many unknown fields"),
    /// A field of the wrong type or out of its range.
    BadField = ("bad_field", false, "a field has the wrong type or is out of range"),
    /// A field that this type needs is not there.
    MissingField = ("missing_field", false, "a required field is missing"),
    /// `seq` is not an integer from 1 to 2^53 - 1.
    BadSeq = ("bad_seq", false, "seq must be an integer from 1 to 9007199254740991"),
    /// A `type` that this server does not know.
    UnknownType = ("unknown_type", false, "the type is not known"),
    /// A room id that is empty, too long, or has control characters or lone surrogates.
    BadRoomId = ("bad_room_id", false, "roomId must be 1 to 256 bytes of UTF-8 without control characters"),
    /// A user id that is empty, too long, or has control characters or lone surrogates.
    BadUserId = ("bad_user_id", false, "user must be 1 to 128 bytes of UTF-8 without control characters"),
    /// Something came before `connect`.
    NotConnected = ("not_connected", false, "the first message must be connect"),
    /// A second `connect`.
    AlreadyConnected = ("already_connected", false, "this connection is connected already"),
    /// A command for a room that this session has not joined.
    NotJoined = ("not_joined", false, "join the room first"),
    /// The session is in as many rooms as it may be.
    TooManyRooms = ("too_many_rooms", false, "this connection is in as many rooms as it may be"),
    /// The room has as many members as it may have.
    RoomFull = ("room_full", false, "the room has as many members as it may have"),
    /// The room's home has no memory for this: final, because a home never refuses otherwise.
    RoomUnavailable = ("room_unavailable", false, "the room cannot take this now"),
    /// A presence state above its bound.
    StateTooLarge = ("state_too_large", false, "the presence state is too large"),
    /// A binary message on a room endpoint.
    BinaryUnsupported = ("binary_unsupported", false, "messages must be text"),
    /// A command that must be sequenced came without `seq`.
    SeqRequired = ("seq_required", false, "this type needs a seq"),
    /// A plain client's `seq` came again.
    SeqDuplicate = ("seq_duplicate", false, "this seq was used before"),
    /// A plain client's missing numbers were given up.
    SeqSkipped = ("seq_skipped", false, "missing numbers were given up; later commands were executed"),
    /// A type that the protocol knows and this version does not serve.
    Unsupported = ("unsupported", false, "this server does not serve this type"),
    /// More commands than the connection may send.
    RateLimited = ("rate_limited", true, "too many commands; slow down"),
    /// Memory runs short.
    MemoryPressure = ("memory_pressure", true, "the server is short of memory"),
    /// The server is shutting down.
    Draining = ("draining", true, "the server is shutting down"),
    /// A `cursor` that no page of this room gave.
    BadCursor = ("bad_cursor", false, "the cursor is not one that this room gave"),
    /// The room is too large for a list of its members.
    PresenceListOff = ("presence_list_off", false, "the room is too large for a list of its members"),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_words_are_unique_and_plain() {
        for (index, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(*code as usize, index);
            assert!(code.wire().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
            assert!(!code.message().contains(['"', '\\']) && !code.message().is_empty());
            assert!(ErrorCode::ALL[..index].iter().all(|other| other.wire() != code.wire()));
        }
    }
}
