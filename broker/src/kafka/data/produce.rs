//! Produce (0): which batches are taken, and what is answered.

pub mod admit;
pub mod answer;
