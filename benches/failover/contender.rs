//! Three brokers of either kind behind one face.

use std::fs;
use std::path::Path;

use firn_benches::kind::Kind;
use firn_tests::cluster::{BROKERS, Brokers, Cluster, ClusterPlan};
use firn_tests::kafka::{KafkaCluster, KafkaJars};
use firn_tests::minio::{self, Minio};

use crate::TOPIC;

/// A running cluster.
pub(crate) enum Contender {
    /// With the bucket that outlives it.
    Firn {
        cluster: Cluster,
        _minio: Minio,
    },
    Kafka(KafkaCluster),
}

impl Contender {
    pub(crate) fn start(kind: Kind, firn: &Path, folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("a folder for data");
        match kind {
            Kind::Firn => {
                let minio = minio::binary().expect("MinIO");
                let minio = Minio::start(&minio, folder);
                let plan = ClusterPlan::on_minio(&minio, &firn.to_string_lossy(), folder);
                Self::Firn {
                    cluster: plan.start(),
                    _minio: minio,
                }
            }
            Kind::Kafka => {
                let jars = KafkaJars::find().expect("Apache Kafka and Java");
                Self::Kafka(KafkaCluster::start(&jars, folder, BROKERS))
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        BROKERS
    }

    pub(crate) fn brokers(&self) -> Brokers {
        match self {
            Self::Firn { cluster, .. } => cluster.plan().brokers(),
            Self::Kafka(cluster) => cluster.brokers(),
        }
    }

    /// Which of them leads the cluster.
    pub(crate) fn controller(&self) -> usize {
        self.brokers().controller(TOPIC)
    }

    pub(crate) fn kill(&mut self, at: usize) {
        match self {
            Self::Firn { cluster, .. } => cluster.kill(at),
            Self::Kafka(cluster) => cluster.kill(at),
        }
    }

    /// In order.
    pub(crate) fn stop(&mut self, at: usize) {
        match self {
            Self::Firn { cluster, .. } => cluster.stop(at),
            Self::Kafka(cluster) => cluster.stop(at),
        }
    }

    pub(crate) fn revive(&mut self) {
        match self {
            Self::Firn { cluster, .. } => cluster.revive(),
            Self::Kafka(cluster) => cluster.revive(),
        }
    }
}
