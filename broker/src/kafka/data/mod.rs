//! Handlers of the data APIs, one file each.

pub mod fetch_session;
