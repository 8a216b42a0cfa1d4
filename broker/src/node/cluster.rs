//! This process among the others of its cluster: its certificate and card, its side of the broker
//! link, and its seat.
//!
//! May not touch: who leads (`firn_coordinator`), what goes over links (`link/`).

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use firn_coordinator::{
    Coordinator, CoordinatorConfig, CoordinatorTask, Environment, ProcessCard, ProcessProof,
};
use firn_proto::cluster::LinkAddress;
use firn_proto::ids::{ClusterId, Fingerprint};
use firn_proto::limits::LINK_ACCEPT_MAX;
use firn_storage::bucket::Bucket;
use firn_storage::journal::BucketJournal;
use firn_storage::stream::StreamEnv;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cards::Cards;
use super::doors::Doors;
use super::parts::{self, coordinator_ended};
use super::takeover;
use crate::config::Config;
use crate::error::FirnError;
use crate::link::{
    Introduction, LinkDoor, LinkFigures, LinkOwners, LinkPeers, Owned, Owners, Owning,
    ProcessCertificate, QuicTransport, Registry, Transport, encode_card,
};

/// What a process is in its cluster.
pub(super) struct Cluster {
    card: Arc<ProcessCard>,
    registry: Arc<Registry>,
    transport: Arc<dyn Transport>,
    owners: Arc<dyn Owners>,
    owned: Owned,
    close_door: CancellationToken,
    _close_door: DropGuard,
    door: Mutex<JoinHandle<()>>,
    /// Looks after the cards of others for as long as the process may lead, also while it starts or
    /// stops: others count on that.
    _cards: JoinSet<()>,
}

/// The card of this process in the bucket.
pub(super) struct OwnCard {
    registry: Arc<Registry>,
    process: Fingerprint,
}

impl OwnCard {
    /// Deletes it, for the process ends. Bounded in time.
    pub(super) async fn forget(&self) {
        let own = [self.process];
        let forgotten = timeout(LINK_ACCEPT_MAX, self.registry.forget(&own)).await;
        match forgotten {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the card of this process stays in the bucket");
            }
            Err(_) => tracing::warn!("the card of this process stays in the bucket, which is slow"),
        }
    }
}

/// The coordinator of this process, wherever that is.
pub(super) struct Seated {
    pub(super) cluster: Cluster,
    pub(super) coordinator: Coordinator,
    pub(super) task: CoordinatorTask,
}

impl Cluster {
    /// Opens the broker link, registers this process in the bucket, and takes its seat: it follows
    /// the leader of the cluster, or leads.
    pub(super) async fn join(
        config: &Config,
        doors: &Doors,
        bucket: &Bucket,
        (id, process): (ClusterId, ProcessProof),
        env: &StreamEnv,
        own: &OnceLock<OwnCard>,
        figures: Arc<LinkFigures>,
    ) -> Result<Seated, FirnError> {
        let (transport, card) = open_link(config, doors, process)?;
        let card = Arc::new(card);
        let (clock, entropy) = (Arc::clone(&env.clock), Arc::clone(&env.entropy));
        let registry = Registry::new(bucket.clone(), id, Arc::clone(&clock), Arc::clone(&entropy));
        let registry = Arc::new(registry);
        own.get_or_init(|| OwnCard {
            registry: Arc::clone(&registry),
            process: card.link.fingerprint,
        });
        registry.register(&card).await?;
        let me = Introduction {
            cluster: id,
            card: Arc::clone(&card),
        };
        let peers = LinkPeers::new(
            Arc::clone(&transport),
            Arc::clone(&registry),
            me.clone(),
            Arc::clone(&figures),
        );
        let (coordinator, seat) = Coordinator::vacant(Environment {
            clock: Arc::clone(&clock),
            entropy,
        });
        let owners = LinkOwners::new(
            Arc::clone(&transport),
            me.clone(),
            Arc::clone(&clock),
            Arc::clone(&figures),
        );
        let owned = Owned::default();
        let leading = Arc::new(coordinator.clone());
        let door = LinkDoor::new(
            Arc::clone(&transport),
            Arc::clone(&registry),
            leading,
            me,
            clock,
            figures,
        )
        .with_owned(Arc::clone(&owned));
        let close = CancellationToken::new();
        let door = tokio::spawn(Arc::new(door).serve(close.clone()));
        let mut cards = JoinSet::new();
        let others = Cards {
            registry: Arc::clone(&registry),
            peers: peers.clone(),
            own: Arc::clone(&card),
            coordinator: coordinator.clone(),
        };
        cards.spawn(others.run());
        let cluster = Self {
            card,
            registry,
            transport,
            owners: Arc::new(owners),
            owned,
            close_door: close.clone(),
            _close_door: close.drop_guard(),
            door: Mutex::new(door),
            _cards: cards,
        };
        let opener = Arc::new(BucketJournal::new(bucket.clone(), env.clone()));
        let settings = cluster.settings(config, bucket)?;
        let task = seat.take(opener, settings, Arc::new(peers)).await;
        Ok(Seated {
            cluster,
            coordinator,
            task: task.map_err(|reason| coordinator_ended(&reason))?,
        })
    }

    fn settings(&self, config: &Config, bucket: &Bucket) -> Result<CoordinatorConfig, FirnError> {
        let identity = encode_card(&self.card);
        let identity =
            identity.map_err(|e| FirnError::failed("cannot say who this process is", e))?;
        Ok(CoordinatorConfig {
            identity: Bytes::from(identity),
            broker_session: config.broker_session,
            never_leads: !config.roles.coordinator,
            start_timeout: config.bucket.start_timeout,
            ..parts::coordinator_config(config, bucket)
        })
    }

    /// Other processes, to be asked what may be read of their partitions.
    pub(super) fn owners(&self) -> Arc<dyn Owners> {
        Arc::clone(&self.owners)
    }

    /// From now on other processes are told what may be read of the partitions of this one.
    pub(super) fn show(&self, owned: impl Owning) {
        // there is one start
        drop(self.owned.set(Arc::new(owned)));
    }

    /// Where other brokers reach this one.
    pub(super) fn link(&self) -> LinkAddress {
        self.card.link.clone()
    }

    /// Leaves the others, at an orderly stop: the coordinator of this process is closed.
    pub(super) async fn leave(&self) {
        let process = self.card.link.fingerprint;
        let registry = Arc::clone(&self.registry);
        OwnCard { registry, process }.forget().await;
        // Those whose links end are told why.
        self.close_door.cancel();
        let door = &mut *self.door.lock().await;
        if timeout(LINK_ACCEPT_MAX, door).await.is_err() {
            tracing::debug!("some links end without a word");
        }
        self.transport.close().await;
    }
}

/// The socket of the link, and what this process says of itself.
fn open_link(
    config: &Config,
    doors: &Doors,
    process: ProcessProof,
) -> Result<(Arc<dyn Transport>, ProcessCard), FirnError> {
    let first = doors.listeners().into_iter().next();
    let first = first.ok_or_else(|| FirnError::failed("no link", "there is no Kafka listener"))?;
    let bind = config.link.unwrap_or(first.bound);
    let transport = match QuicTransport::bind(ProcessCertificate::generate()?, bind) {
        // The number of the Kafka port was the system's choice, which knows nothing of UDP.
        Err(_) if config.link.is_none() && is_any_port(config) => {
            let any = SocketAddr::new(bind.ip(), 0);
            QuicTransport::bind(ProcessCertificate::generate()?, any)?
        }
        bound => bound?,
    };
    let listeners = doors.advertised(config);
    let told = config.link_advertise.as_ref();
    let mut link = transport.address(told.unwrap_or(&first.advertised))?;
    if let Some(port) = told.map(|told| told.port).filter(|port| *port != 0) {
        link.port = port;
    }
    let card = ProcessCard {
        broker: config.broker_id,
        link,
        shown: takeover::shown_as(config.broker_id, &listeners),
        listeners,
        process,
    };
    Ok((Arc::new(transport), card))
}

fn is_any_port(config: &Config) -> bool {
    let first = config.listeners.first();
    first.is_some_and(|listener| listener.bind.port() == 0)
}
