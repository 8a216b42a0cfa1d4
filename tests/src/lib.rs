//! The test harness of Firn.
