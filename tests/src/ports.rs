//! Free ports on the loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports below those that kernels give to connections, so that none of the many that tests make
/// takes one between here and the server that is to listen there.
const FIRST: u32 = 12_000;
const COUNT: u32 = 18_000;

/// An address nobody listened on a moment ago. Each call gives another one, in turn; processes begin
/// at different places.
pub fn free() -> SocketAddr {
    free_row(1)
}

/// The first of `length` such addresses, whose ports follow each other.
pub fn free_row(length: u16) -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(613);
    for _ in 0..COUNT {
        let next = NEXT.fetch_add(length.into(), Ordering::Relaxed);
        let at = begin.wrapping_add(next) % COUNT;
        let first = u16::try_from(FIRST + at).expect("a port has 16 bits");
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (first..first + length).all(is_free) {
            return SocketAddr::from((Ipv4Addr::LOCALHOST, first));
        }
    }
    panic!("no free port on the loopback");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: BTreeSet<u16> = (0..500).map(|_| free().port()).collect();
        assert_eq!(ports.len(), 500);
    }
}
