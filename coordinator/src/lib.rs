//! Who owns what: the cluster state machine, its journal driver, and the group state machines.
//!
//! Architecture invariant: no socket, no Parquet, no bucket.
