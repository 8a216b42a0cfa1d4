//! The native client of Firn (QUIC). The protocol comes with its own step; this crate holds its place
//! in the layering.
