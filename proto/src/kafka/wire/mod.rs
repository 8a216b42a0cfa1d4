//! Kafka's primitive types, read from and written to frames.
//!
//! - `reader.rs`: a cursor that bounds what a frame may cost
//! - `writer.rs`: a frame in the making, with large slices uncopied
//! - `field.rs`: each type of field
//! - `records.rs`: record batches as slices

mod error;
mod field;
mod reader;
mod records;
mod writer;

pub use error::DecodeError;
pub use field::{Field, Form, Nullable};
pub use reader::Reader;
pub use records::Records;
pub use writer::{Frame, Writer};
