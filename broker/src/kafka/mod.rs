//! The Kafka door: every existing Kafka client, unchanged, over TCP. Frames in, answers out, one
//! file per API.
//!
//! - `listener`: binds, accepts, limits the number of connections
//! - `connection`: one client; frames in, answers in order out
//! - `frame`, `reply`, `memory`: its parts: cutting frames, chunks on their way out, bytes in use
//! - `dispatch`: from a frame to its handler and back
//! - `answer_size`: which requests would be answered with far more than they say
//! - `context`: what handlers may use; they hold no state of their own
//! - `seldom`: log lines that clients may cause without end
//! - `data/`: produce, fetch and what goes with them
//! - `admin/`: metadata, topics, configs
//! - `group/`: consumer groups

pub mod admin;
mod answer_size;
pub mod connection;
pub mod context;
pub mod data;
pub mod dispatch;
pub mod frame;
pub mod group;
pub mod listener;
pub mod memory;
pub mod reply;
pub mod seldom;
pub mod view;
