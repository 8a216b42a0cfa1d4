//! Newtypes for the ids of the system, so that one cannot be taken for another.
//!
//! Offsets and timestamps stay plain `i64`, as in Kafka's own vocabulary: they are positions and
//! milliseconds that are added and compared, not names.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bincode::{Decode, Encode};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$int> for $name {
            fn from(value: $int) -> Self {
                Self(value)
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The id of nothing: sixteen zero bytes, as Kafka writes an absent UUID.
            pub const ZERO: Self = Self([0; 16]);

            /// A random (version 4, variant 1) UUID from 128 bits of randomness.
            pub fn from_random(random: u128) -> Self {
                let mut bytes = random.to_be_bytes();
                bytes[6] = (bytes[6] & 0x0f) | 0x40;
                bytes[8] = (bytes[8] & 0x3f) | 0x80;
                Self(bytes)
            }

            /// Reads the 22 characters that [`fmt::Display`] writes.
            pub fn parse(text: &str) -> Option<Self> {
                let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
                Some(Self(bytes.try_into().ok()?))
            }
        }

        /// URL-safe base64 without padding, 22 characters: Kafka's way to print a UUID.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

uuid_id! {
    /// One cluster, for its whole life: made at the first start on an empty bucket.
    ClusterId
}
uuid_id! {
    /// One topic. A topic that is deleted and made again under its name has another id.
    TopicId
}
uuid_id! {
    /// One local WAL directory, so that a restarted broker can show that it kept its disk.
    DiskId
}
/// Tells one process from another on the broker link: the SHA-256 of its certificate, as DER.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Reads the 64 characters that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 64 || !text.bytes().all(is_digit) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// 64 lower-case hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

number_id! {
    /// A partition of a topic, counted from 0.
    PartitionIndex(i32)
}
number_id! {
    /// A broker as Kafka clients name it. Stays the same over restarts.
    BrokerId(i32)
}
number_id! {
    /// One start of one broker process; never used again.
    Incarnation(u64)
}
number_id! {
    /// One fenced stream; never used again.
    StreamId(u64)
}
number_id! {
    /// One position of a stream.
    Slot(u64)
}
number_id! {
    /// One term of the coordinator.
    CoordinatorEpoch(u64)
}
number_id! {
    /// One term of ownership of a partition: Kafka's leader epoch.
    LeaderEpoch(i32)
}
number_id! {
    /// A producer with state: Kafka's producer id.
    ProducerId(i64)
}
number_id! {
    /// One session of a producer: Kafka's producer epoch.
    ProducerEpoch(i16)
}

impl Slot {
    /// The slot after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A partition by the id of its topic, which is how all durable state is keyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition in it.
    pub partition: PartitionIndex,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A slot of a named stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct SlotPosition {
    /// The stream.
    pub stream: StreamId,
    /// The slot in it.
    pub slot: Slot,
}

impl fmt::Display for SlotPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{:016x}", self.stream.0, self.slot.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_printed_as_hexadecimal_digits() {
        let mut bytes = [0; 32];
        bytes[0] = 0xa0;
        bytes[31] = 0x0b;
        let text = Fingerprint(bytes).to_string();
        assert_eq!(text, format!("a0{}0b", "00".repeat(30)));
    }

    #[test]
    fn a_uuid_reads_back_what_it_prints() {
        let id = TopicId::from_random(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(TopicId::parse(&id.to_string()), Some(id));
        assert_eq!(TopicId::parse("short"), None);
    }

    #[test]
    fn a_fingerprint_reads_back_what_it_prints_and_nothing_else() {
        let mut bytes = [0xab; 32];
        bytes[0] = 0x01;
        let print = Fingerprint(bytes);
        let text = print.to_string();
        assert!(text.starts_with("01ab") && text.len() == 64, "{text}");
        assert_eq!(Fingerprint::parse(&text), Some(print));
        let refused = [
            &text[1..],
            &text.to_uppercase(),
            &text.replace("01", "+1"),
            &text.replace("01", "é"),
        ];
        for wrong in refused {
            assert_eq!(Fingerprint::parse(wrong), None, "{wrong}");
        }
    }
}
