//! Measurements of Firn.
