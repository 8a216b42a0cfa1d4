//! Free ports on the loopback.

use std::net::{SocketAddr, TcpListener};

/// An address nobody listened on a moment ago. The kernel hands such ports out in turn, so two
/// callers do not get the same one.
pub fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on the loopback");
    listener
        .local_addr()
        .expect("a bound listener has an address")
}
