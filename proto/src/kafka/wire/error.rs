//! Why bytes are no message.

use thiserror::Error;

/// Why a frame could not be decoded. The connection that sent it is closed: after such a frame
/// nothing says where the next field, let alone the next frame, begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The frame ends inside a field.
    #[error("frame ends early: {needed} bytes needed at byte {at}, {left} left")]
    Truncated {
        /// Position in the frame.
        at: usize,
        /// Bytes the field takes.
        needed: usize,
        /// Bytes the frame still has.
        left: usize,
    },
    /// An array claims more elements than the rest of the frame can hold.
    #[error("array at byte {at} claims {count} elements, which the {left} bytes left cannot hold")]
    Count {
        /// Position in the frame.
        at: usize,
        /// Elements claimed.
        count: usize,
        /// Bytes the frame still has.
        left: usize,
    },
    /// A length below −1.
    #[error("length {length} at byte {at} is negative")]
    NegativeLength {
        /// Position in the frame.
        at: usize,
        /// The length.
        length: i32,
    },
    /// A variable-length number of more than 32 bits.
    #[error("number at byte {at} has more than 32 bits")]
    Varint {
        /// Position in the frame.
        at: usize,
    },
    /// Null where this version of the message has a value.
    #[error("null at byte {at}, where this version needs a value")]
    Null {
        /// Position in the frame.
        at: usize,
    },
    /// Text that is not UTF-8.
    #[error("text at byte {at} is not utf-8")]
    Utf8 {
        /// Position in the frame.
        at: usize,
    },
    /// Too many tagged fields, or too large a one.
    #[error("tagged fields at byte {at} go beyond the limits on their number and size")]
    Tagged {
        /// Position in the frame.
        at: usize,
    },
    /// A tagged field that is not as long as it says.
    #[error("tagged field that ends at byte {at} is not as long as it says")]
    TaggedLength {
        /// Position in the frame.
        at: usize,
    },
    /// In memory the message would be far larger than the frame.
    #[error("frame of {frame} bytes would take more than {budget} bytes of memory")]
    Expansion {
        /// Length of the frame in bytes.
        frame: usize,
        /// What it was allowed in bytes.
        budget: usize,
    },
    /// The API does not exist here.
    #[error("api key {0} is not served")]
    UnknownApi(i16),
    /// The API exists, in other versions.
    #[error("version {version} of api key {key} is not served")]
    UnknownVersion {
        /// The API.
        key: i16,
        /// The version asked for.
        version: i16,
    },
}
