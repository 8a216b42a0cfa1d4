//! Fetch (1).

pub mod answer;
