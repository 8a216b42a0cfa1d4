//! Kafka's wire protocol: messages to and from bytes, for every version that Kafka 4.1 speaks.
//!
//! - `api.rs`: which APIs and versions there are; whole requests and responses
//! - `header.rs`: what stands in front of them
//! - `message.rs`: the table form in which messages are defined
//! - `messages/`: the messages, one file per API
//! - `wire/`: primitive types, the bounded reader and the vectored writer
//!
//! Nothing here knows what a message means; that is the handlers' business. A frame is untrusted:
//! it may be refused, but it never makes this module panic, or allocate more than a small multiple
//! of its length.

mod api;
mod header;
mod message;
mod messages;
#[cfg(feature = "samples")]
mod sample;
mod wire;

pub use api::{ApiKey, Request, Response};
pub use header::{RequestHeader, read_response_header};
pub use messages::*;
#[cfg(feature = "samples")]
pub use sample::Sample;
pub use wire::{DecodeError, Field, Form, Frame, Nullable, Reader, Records, Writer};

#[cfg(test)]
mod tests;
