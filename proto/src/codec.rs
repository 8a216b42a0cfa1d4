//! The one place where the workspace meets bincode: durable commands, snapshots, control frames.
//!
//! Little-endian, variable-length integers, no trailing bytes. A decode allocates at most `LIMIT`
//! bytes for what the input claims to hold, so that a hostile length cannot. What is durable is
//! pinned by golden bytes in the crates that own it.

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use bincode::{Decode, Encode};
use thiserror::Error;

/// Why bytes could not be written or read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The bytes are not what the type needs, or claim to hold more than the limit.
    #[error("cannot decode {what}: {reason}")]
    Decode {
        /// The type.
        what: &'static str,
        /// What bincode says.
        reason: String,
    },
    /// The value cannot be written.
    #[error("cannot encode {what}: {reason}")]
    Encode {
        /// The type.
        what: &'static str,
        /// What bincode says.
        reason: String,
    },
    /// Bytes are left over behind the value.
    #[error("{left} bytes are left over behind {what}")]
    Trailing {
        /// The type.
        what: &'static str,
        /// How many.
        left: usize,
    },
}

/// Appends `value` to `out`.
pub fn encode_into<T: Encode>(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
    bincode::encode_into_std_write(value, out, configuration::<{ usize::MAX }>())
        .map(drop)
        .map_err(|e| CodecError::Encode {
            what: short_name::<T>(),
            reason: e.to_string(),
        })
}

/// Writes `value`.
pub fn encode<T: Encode>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    encode_into(value, &mut out)?;
    Ok(out)
}

/// Reads one value that fills `bytes` and claims to hold at most `LIMIT` bytes.
pub fn decode<const LIMIT: usize, T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let what = short_name::<T>();
    let (value, read) = bincode::decode_from_slice(bytes, configuration::<LIMIT>()).map_err(
        |e: bincode::error::DecodeError| CodecError::Decode {
            what,
            reason: e.to_string(),
        },
    )?;
    if read < bytes.len() {
        return Err(CodecError::Trailing {
            what,
            left: bytes.len() - read,
        });
    }
    Ok(value)
}

fn configuration<const LIMIT: usize>() -> Configuration<LittleEndian, Varint, Limit<LIMIT>> {
    config::standard().with_limit::<LIMIT>()
}

fn short_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    name.rsplit("::").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_reads_back() {
        let value = (7u64, "seven".to_owned(), vec![1u8, 2]);
        let bytes = encode(&value).unwrap();
        assert_eq!(decode::<64, (u64, String, Vec<u8>)>(&bytes), Ok(value));
    }

    #[test]
    fn the_bytes_are_pinned() {
        let bytes = encode(&(1u8, 250u64, 251u64, -1i64, Some("a"))).unwrap();
        assert_eq!(bytes, [1, 250, 251, 251, 0, 1, 1, 1, b'a']);
    }

    #[test]
    fn a_hostile_length_is_an_error() {
        let bytes = encode(&u64::MAX).unwrap();
        assert!(decode::<1024, Vec<u64>>(&bytes).is_err());
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        let error = decode::<64, u8>(&[1, 2]).unwrap_err();
        assert_eq!(
            error,
            CodecError::Trailing {
                what: "u8",
                left: 1
            }
        );
    }
}
