//! What the HTTP door says of the cluster, as JSON, and the orders it takes for it.
//!
//! * `GET /cluster`: [`ClusterStatus`].
//! * `POST /cluster/drain?broker=N`, `POST /cluster/undrain?broker=N`: a broker is to own nothing, or
//!   may own partitions again. Answered with the status once that is durable.

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use firn_coordinator::Coordinator;
use firn_proto::cluster::{ClusterImage, CoordinatorError, PartitionImage, Request};
use firn_proto::ids::BrokerId;
use serde::{Deserialize, Serialize};

use super::{JSON, Shown, unavailable};
use crate::recovery::{Waiting, by_disk};

/// The cluster as this broker knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its id.
    pub cluster: String,
    /// The live brokers, by id.
    pub brokers: Vec<BrokerStatus>,
    /// How many topics there are.
    pub topics: usize,
    /// How many partitions they have.
    pub partitions: usize,
    /// How many of those nobody owns at the moment.
    pub without_owner: usize,
    /// Disks that partitions without an owner wait for.
    pub waits_for: Vec<DiskStatus>,
}

/// A disk that partitions wait for: only it may hold all that was acknowledged of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its id.
    pub disk: String,
    /// The broker that had it.
    pub broker: i32,
    /// How many partitions wait for it.
    pub partitions: usize,
}

/// One broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// Its id.
    pub broker: i32,
    /// This start of it.
    pub incarnation: u64,
    /// Where clients reach it.
    pub listeners: Vec<String>,
    /// Its rack.
    pub rack: Option<String>,
    /// Whether it leads the cluster.
    pub leads: bool,
    /// Whether it is to own nothing.
    pub draining: bool,
    /// How many partitions it owns.
    pub partitions: usize,
    /// How many of those it is to hand over.
    pub leaving: usize,
}

pub(super) async fn status(State(shown): State<Shown>) -> Response {
    match shown.cluster.get() {
        Some(coordinator) => tell(&shown, coordinator).await,
        None => unavailable("the broker does not serve yet"),
    }
}

async fn tell(shown: &Shown, coordinator: &Coordinator) -> Response {
    let waiting = match shown.waiters.get() {
        Some(waiters) => waiters.list().await,
        None => Ok(Vec::new()),
    };
    match waiting {
        Ok(waiting) => json(&ClusterStatus::of(&coordinator.image().borrow(), &waiting)),
        Err(error) => unavailable(&error.to_string()),
    }
}

pub(super) async fn drain(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    set_draining(&shown, query.as_deref(), true).await
}

pub(super) async fn undrain(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    set_draining(&shown, query.as_deref(), false).await
}

async fn set_draining(shown: &Shown, query: Option<&str>, drain: bool) -> Response {
    let broker = query.and_then(|query| query.strip_prefix("broker="));
    let Some(broker) = broker.and_then(|id| id.parse().ok()).map(BrokerId) else {
        return (StatusCode::BAD_REQUEST, "say which: ?broker=N\n").into_response();
    };
    let Some(coordinator) = shown.cluster.get() else {
        return unavailable("the broker does not serve yet");
    };
    match coordinator
        .call(Request::DrainBroker { broker, drain })
        .await
    {
        Ok(_) => tell(shown, coordinator).await,
        Err(CoordinatorError::Refused(reason)) => {
            (StatusCode::NOT_FOUND, format!("{reason}\n")).into_response()
        }
        Err(error) => unavailable(&error.to_string()),
    }
}

fn json(status: &ClusterStatus) -> Response {
    match serde_json::to_string(status) {
        Ok(text) => ([(header::CONTENT_TYPE, JSON)], format!("{text}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl ClusterStatus {
    fn of(image: &ClusterImage, waiting: &[Waiting]) -> Self {
        let partitions: Vec<&PartitionImage> = image
            .topics
            .values()
            .flat_map(|topic| &topic.partitions)
            .collect();
        let owned = |partition: &PartitionImage, broker| {
            partition.owner.is_some_and(|owner| owner.broker == broker)
        };
        let brokers = image.brokers.values().map(|broker| {
            let own = || partitions.iter().filter(|p| owned(p, broker.broker));
            let listeners = broker.listeners.iter();
            BrokerStatus {
                broker: broker.broker.0,
                incarnation: broker.incarnation.0,
                listeners: listeners
                    .map(|at| format!("{}:{}", at.host, at.port))
                    .collect(),
                rack: broker.rack.clone(),
                leads: image.controller == Some(broker.broker),
                draining: broker.draining,
                partitions: own().count(),
                leaving: own().filter(|p| p.moving_to.is_some()).count(),
            }
        });
        let disks = by_disk(waiting).into_iter();
        let waits_for = disks.map(|((broker, disk), partitions)| DiskStatus {
            disk: disk.to_string(),
            broker: broker.0,
            partitions,
        });
        Self {
            waits_for: waits_for.collect(),
            cluster: image.cluster.to_string(),
            brokers: brokers.collect(),
            topics: image.topics.len(),
            without_owner: partitions.iter().filter(|p| p.owner.is_none()).count(),
            partitions: partitions.len(),
        }
    }
}
