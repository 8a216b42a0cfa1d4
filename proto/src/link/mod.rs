//! The words of the broker link: what the processes of one cluster say to each other, frame by
//! frame. `proto/PROTOCOL.md` specifies the bytes.
//!
//! - `frame.rs`: headers, kinds, and the reader that takes frames from a stream of bytes
//! - `hello.rs`: how a link begins, and why it does not
//! - `call.rs`: requests and replies, cut into parts and put together again
//! - `look.rs`: what brokers ask owners of partitions
//! - `message.rs`: what each kind of frame says
//!
//! Pure: bytes in, words out. Nothing is allocated for a length that a peer only claims.

mod call;
mod frame;
mod hello;
mod look;
mod message;
#[cfg(test)]
mod tests;

pub use call::{
    Assembly, AssemblyFault, CallPart, decode_reply, decode_request, encode_reply, encode_request,
};
pub use frame::{Frame, FrameFault, FrameReader, HEADER_BYTES, Kind, MAGIC, PROTOCOL_VERSION};
pub use hello::{Hello, Refusal, RefusalReason, Welcome};
pub use look::{
    Look, Looks, Sight, SightRun, Sights, decode_looks, decode_sights, encode_looks, encode_sights,
};
pub use message::{Heard, Message, MessageFault};

/// What both sides name in the handshake of the transport (ALPN), so that no other protocol is
/// mistaken for this one.
pub const ALPN: &[u8] = b"firn-link/1";
