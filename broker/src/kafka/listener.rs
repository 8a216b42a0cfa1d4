//! Opens the listeners of the Kafka door and accepts connections, within their limits.
//!
//! The accept loop never waits for a client: each accepted socket goes to a task of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use firn_proto::limits::CONNECTION_LINES_MAX;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::connection::{self, Ended, Handler, Shared};
use super::context::{ConnectionState, OpenListener};
use super::seldom::Seldom;
use crate::config::ListenerSpec;
use crate::error::FirnError;

/// A listener that is bound: clients may connect, and wait in the system's queue until
/// [`Door::serve`] accepts them.
pub struct Bound {
    /// Where it is and what is advertised.
    pub open: Arc<OpenListener>,
    socket: TcpListener,
}

/// Binds a listener.
///
/// # Errors
/// The address is taken or not this machine's.
pub async fn bind(spec: &ListenerSpec) -> Result<Bound, FirnError> {
    let failed = |e: std::io::Error| {
        let hint = match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another process listens there: choose another with --kafka ADDR"
            }
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
            _ => "",
        };
        FirnError::failed(
            format!("cannot listen on {}", spec.bind),
            format!("{e}{hint}"),
        )
    };
    let socket = TcpListener::bind(spec.bind).await.map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    let open = OpenListener {
        name: spec.name.clone(),
        bound,
        advertised: spec.advertised(bound),
    };
    Ok(Bound {
        open: Arc::new(open),
        socket,
    })
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Of all clients.
    pub count_max: usize,
    /// From one address.
    pub count_per_ip_max: usize,
}

/// Everything that serves Kafka clients, whichever listener they come in on.
pub struct Door<S> {
    shared: Arc<Shared<S>>,
    places: Arc<Places>,
    /// The lines about connections that ended badly; the figures count those that are left out.
    lines: Arc<Mutex<Seldom>>,
    next_id: AtomicU64,
}

impl<S: Handler> Door<S> {
    /// A door without listeners.
    pub fn new(shared: Shared<S>, limits: ConnectionLimits) -> Self {
        Self {
            shared: Arc::new(shared),
            places: Arc::new(Places::new(limits)),
            lines: Arc::new(Mutex::new(Seldom::new(
                CONNECTION_LINES_MAX,
                Duration::from_secs(1),
            ))),
            next_id: AtomicU64::new(1),
        }
    }

    /// Accepts clients until the broker stops.
    pub async fn serve(self: Arc<Self>, bound: Bound) {
        let stop = self.shared.stop.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = bound.socket.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => self.admit(&bound.open, socket, peer),
                Err(error) => {
                    // Out of file descriptors, most likely: let some go before trying again.
                    tracing::warn!(listener = bound.open.name, %error, "cannot accept a connection");
                    self.shared.metrics.refuse("accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until every connection has ended. Cancellation safe.
    pub async fn drained(&self) {
        loop {
            let freed = self.places.freed.notified();
            if self.places.taken() == 0 {
                return;
            }
            freed.await;
        }
    }

    fn admit(&self, listener: &Arc<OpenListener>, socket: TcpStream, peer: SocketAddr) {
        let metrics = &self.shared.metrics;
        let place = match self.places.take(peer.ip().to_canonical()) {
            Ok(place) => place,
            Err(limit) => {
                metrics.refuse(limit);
                tracing::debug!(%peer, limit, "connection refused");
                return;
            }
        };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%peer, %error, "connection lost before it was served");
            return;
        }
        metrics.connections_accepted.inc();
        metrics.connections.inc();
        let conn = Arc::new(ConnectionState {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            listener: Arc::clone(listener),
            peer,
            software: OnceLock::new(),
        });
        let (shared, lines) = (Arc::clone(&self.shared), Arc::clone(&self.lines));
        tokio::spawn(async move {
            let (reader, writer) = socket.into_split();
            let ended = connection::serve_halves(&shared, Arc::clone(&conn), reader, writer).await;
            shared.metrics.connections.dec();
            log_end(&shared, &lines, &conn, &ended);
            drop(place);
        });
    }
}

/// One line for each connection that ended in a way somebody should look at, unless there are many.
fn log_end<S>(shared: &Shared<S>, lines: &Mutex<Seldom>, conn: &ConnectionState, ended: &Ended) {
    let (connection, peer) = (conn.id, conn.peer);
    let next_line = || {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = lines.due(shared.clock.mono())?;
        Some((left_out > 0).then_some(left_out))
    };
    match ended {
        Ended::Refused(reason) => {
            shared.metrics.refuse("protocol");
            if let Some(left_out) = next_line() {
                tracing::warn!(connection, %peer, %reason, left_out, "connection closed");
            }
        }
        Ended::SlowRequest | Ended::SlowReader | Ended::Silent => {
            shared.metrics.refuse("slow");
            if let Some(left_out) = next_line() {
                tracing::info!(connection, %peer, reason = %ended, left_out, "connection closed");
            }
        }
        _ => tracing::debug!(connection, %peer, reason = %ended, "connection closed"),
    }
}

/// Who holds how many connections.
struct Places {
    limits: ConnectionLimits,
    taken: Mutex<Taken>,
    /// Told whenever a place becomes free.
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_ip: BTreeMap<IpAddr, usize>,
}

/// One connection's place; free again when dropped.
struct Place {
    places: Arc<Places>,
    ip: IpAddr,
}

impl Places {
    fn new(limits: ConnectionLimits) -> Self {
        Self {
            limits,
            taken: Mutex::default(),
            freed: Notify::new(),
        }
    }

    fn taken(&self) -> usize {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .all
    }

    /// Takes a place for a client at `ip`, or names the limit that forbids it.
    fn take(self: &Arc<Self>, ip: IpAddr) -> Result<Place, &'static str> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.limits.count_max {
            return Err("max.connections");
        }
        let from_ip = taken.by_ip.entry(ip).or_default();
        if *from_ip >= self.limits.count_per_ip_max {
            return Err("max.connections.per.ip");
        }
        *from_ip += 1;
        taken.all += 1;
        Ok(Place {
            places: Arc::clone(self),
            ip,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self
            .places
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(from_ip) = taken.by_ip.get_mut(&self.ip) {
            *from_ip -= 1;
            if *from_ip == 0 {
                taken.by_ip.remove(&self.ip);
            }
        }
        drop(taken);
        self.places.freed.notify_waiters();
    }
}

/// How long to wait after the system refused to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_all_and_by_address() {
        let limits = ConnectionLimits {
            count_max: 3,
            count_per_ip_max: 2,
        };
        let places = Arc::new(Places::new(limits));
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = places.take(a).unwrap();
        let _second = places.take(a).unwrap();
        assert_eq!(places.take(a).err(), Some("max.connections.per.ip"));
        let _third = places.take(b).unwrap();
        assert_eq!(places.take(b).err(), Some("max.connections"));
        drop(first);
        assert!(places.take(a).is_ok());
    }
}
