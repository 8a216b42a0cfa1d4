//! The command `firn`.
fn main() {}
