//! The HTTP door: `/livez`, `/readyz`, `/metrics`, `/archive`, `/cluster`. Plain HTTP/1.1 for machines that look
//! after this one; it changes no record. A connection carries one request, so that none has to be
//! kept, nor ended while its next answer is on its way.
//!
//! * `/livez`: the process runs. Never depends on the bucket, so that an outage of the bucket does
//!   not make an orchestrator restart brokers that hold unwritten batches.
//! * `/readyz`: partitions are served; 503 with the reason otherwise.
//! * `/metrics`: OpenMetrics text.
//! * `/archive`, `/archive/flush`: how far the archive is, and archiving now; see `archive.rs`.
//! * `/cluster`, `/cluster/drain`, `/cluster/undrain`: the brokers, and orders for them; see `cluster.rs`.
//! * `/cluster/waiting`, `/cluster/force-move`: partitions that wait for a disk; see `waiting.rs`.

mod archive;
mod cluster;
mod health;
mod listener;
mod waiting;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use firn_coordinator::Coordinator;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use archive::FlushAnswer;
pub use cluster::{BrokerStatus, ClusterStatus, DiskStatus};
pub use health::Health;
use listener::Limited;
pub use waiting::{ForcedAnswer, ForcedStatus, GoesOnStatus, WaitingAnswer, WaitingStatus};

use crate::archive::Archive;
use crate::error::FirnError;
use crate::metrics::Metrics;
use crate::recovery::DiskWaiters;

/// What the HTTP door shows.
#[derive(Clone)]
pub struct Shown {
    /// Whether partitions are served.
    pub health: Arc<Health>,
    /// Every figure.
    pub metrics: Arc<Metrics>,
    /// The archive, once there is one.
    pub archive: Arc<OnceLock<Archive>>,
    /// The way to the coordinator, once there is one.
    pub cluster: Arc<OnceLock<Coordinator>>,
    /// Partitions that wait for a disk, once they can be seen.
    pub waiters: Arc<OnceLock<DiskWaiters>>,
}

/// An HTTP door that is bound.
pub struct HttpDoor {
    socket: TcpListener,
    /// Where it is.
    pub bound: SocketAddr,
}

impl HttpDoor {
    /// Binds the door.
    ///
    /// # Errors
    /// The address is taken or not this machine's.
    pub async fn bind(address: SocketAddr) -> Result<Self, FirnError> {
        let failed = |e: std::io::Error| {
            let reason = format!("{e}; choose another address with --http ADDR, or --http none");
            FirnError::failed(format!("cannot listen on {address}"), reason)
        };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let bound = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, bound })
    }

    /// Answers until `stop` is cancelled.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn serve(self, shown: Shown, stop: CancellationToken) -> std::io::Result<()> {
        axum::serve(Limited::new(self.socket), routes(shown))
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
    }
}

fn routes(shown: Shown) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/archive", get(archive::status))
        .route("/archive/flush", post(archive::flush))
        .route("/cluster", get(cluster::status))
        .route("/cluster/drain", post(cluster::drain))
        .route("/cluster/undrain", post(cluster::undrain))
        .route("/cluster/waiting", get(waiting::waiting))
        .route("/cluster/force-move", post(waiting::force))
        .with_state(shown)
        .layer(map_response(last_of_its_connection))
}

/// Says that the connection ends with this answer, and so ends it.
async fn last_of_its_connection(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn livez() -> &'static str {
    "alive\n"
}

async fn readyz(State(shown): State<Shown>) -> Response {
    match shown.health.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(shown): State<Shown>) -> Response {
    match shown.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn unavailable(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

const JSON: &str = "application/json";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_and_figures_are_shown() {
        let shown = Shown {
            health: Arc::new(Health::new()),
            metrics: Arc::new(Metrics::new()),
            archive: Arc::default(),
            cluster: Arc::default(),
            waiters: Arc::default(),
        };
        let door = HttpDoor::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let (address, stop) = (door.bound, CancellationToken::new());
        let served = tokio::spawn(door.serve(shown.clone(), stop.clone()));

        let alive = ask(address, "/livez").await;
        assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
        assert!(alive.contains("connection: close\r\n"), "{alive}");
        shown.health.starting("reading the journal");
        let starting = ask(address, "/readyz").await;
        assert!(starting.starts_with("HTTP/1.1 503"), "{starting}");
        assert!(
            starting.ends_with("starting: reading the journal\n"),
            "{starting}"
        );
        shown.health.serving();
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/metrics").await.contains("firn_ready"));
        let archive = ask(address, "/archive").await;
        assert!(archive.starts_with("HTTP/1.1 503"), "{archive}");
        assert!(
            ask(address, "/archive/flush")
                .await
                .starts_with("HTTP/1.1 405")
        );
        assert!(ask(address, "/nothing").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        served.await.unwrap().unwrap();
    }
}
