//! The sockets of a node: bound first, so that a taken port is noticed before anything else
//! happens, and opened to clients last.

use std::net::SocketAddr;
use std::sync::Arc;

use firn_proto::cluster::{Listener, SecurityProtocol};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Config, Protocol};
use crate::error::FirnError;
use crate::http::{HttpDoor, Shown};
use crate::kafka::context::OpenListener;
use crate::kafka::listener::{self, Bound};

/// The sockets of a node. Dropping it closes the HTTP door.
pub(super) struct Doors {
    /// Kafka listeners, bound. Clients that connect wait until they are served.
    pub(super) kafka: Vec<Bound>,
    /// Where health and figures are shown.
    pub(super) http: Option<SocketAddr>,
    _close_http: DropGuard,
}

impl Doors {
    /// Binds every address; the HTTP door answers from now on.
    pub(super) async fn open(config: &Config, shown: &Shown) -> Result<Self, FirnError> {
        let close_http = CancellationToken::new();
        let mut http = None;
        if let Some(address) = config.http {
            let door = HttpDoor::bind(address).await?;
            http = Some(door.bound);
            let (shown, stop) = (shown.clone(), close_http.clone());
            tokio::spawn(async move {
                if let Err(error) = door.serve(shown, stop).await {
                    tracing::error!(%error, "the http door has closed");
                }
            });
        }
        let mut kafka = Vec::with_capacity(config.listeners.len());
        for spec in &config.listeners {
            let bound = listener::bind(spec).await?;
            if spec.bind.ip().is_unspecified() && spec.advertise.is_none() {
                tracing::warn!(
                    listener = spec.name,
                    advertised = %bound.open.advertised,
                    "only clients on this machine can use what is advertised; say advertise=HOST:PORT"
                );
            }
            kafka.push(bound);
        }
        Ok(Self {
            kafka,
            http,
            _close_http: close_http.drop_guard(),
        })
    }

    /// The listeners as other brokers and their clients are told of them.
    pub(super) fn advertised(&self, config: &Config) -> Vec<Listener> {
        let specs = config.listeners.iter().zip(&self.kafka);
        specs
            .map(|(spec, bound)| Listener {
                name: spec.name.clone(),
                security: match spec.protocol {
                    Protocol::Plaintext => SecurityProtocol::Plaintext,
                },
                host: bound.open.advertised.host.clone(),
                port: bound.open.advertised.port,
            })
            .collect()
    }

    /// What is open to Kafka clients.
    pub(super) fn listeners(&self) -> Vec<Arc<OpenListener>> {
        self.kafka
            .iter()
            .map(|bound| Arc::clone(&bound.open))
            .collect()
    }
}
