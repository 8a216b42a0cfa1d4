//! Reads by brokers that do not own what they read (KIP-392): a consumer that says which rack it is in
//! is sent by the owner to a broker of that rack, which serves it from the bucket.
//!
//! The owner alone knows what may be read. A *reader*, the broker of the consumer's rack, remembers
//! nothing about partitions: for each Fetch it asks the owner over the broker link how far they go and
//! in which runs of which WAL objects their records lie, and waits there for new ones if there are too
//! few. What it then serves ends where the owner said that the bucket has everything; the bytes come
//! out of the bucket, through the reader's own caches. What is in segments it finds in the segment map.
//!
//! - `choice.rs`: which broker of a rack reads a partition (pure)
//! - `sent.rs`: which clients were sent away, and are not sent again when they come back (pure)
//! - `owner.rs`: what an owner tells a reader
//! - `reader.rs`: what a reader asks owners
//!
//! Architecture invariant: nothing here reads the bucket, and nothing is remembered of a partition
//! beyond one Fetch, so that nothing has to be thrown away when its owner changes.

pub mod choice;
mod owner;
mod reader;
mod sent;

pub use owner::OwnedPartitions;
pub use reader::{Followed, Question, Readers, View, Views};
pub use sent::SentAway;
