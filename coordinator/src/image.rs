//! Makes the published picture from the state, sharing every part that did not change.

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_proto::cluster::{BrokerImage, ClusterImage};
use firn_proto::ids::{BrokerId, ClusterId, Fingerprint, TopicId};

use crate::state::{Effects, State};

/// The last picture, and what has changed since.
#[derive(Debug)]
pub(crate) struct ImageBuilder {
    image: ClusterImage,
    /// The fingerprint of this process, which leads.
    own: Option<Fingerprint>,
    topics: BTreeSet<TopicId>,
    brokers: bool,
}

impl ImageBuilder {
    /// The picture of a state, with a version above `above`.
    pub(crate) fn new(
        cluster: ClusterId,
        own: Option<Fingerprint>,
        state: &State,
        above: u64,
    ) -> Self {
        let mut builder = Self {
            own,
            image: ClusterImage {
                cluster,
                version: above,
                ..ClusterImage::default()
            },
            topics: state.topics().iter().map(|(id, _)| id).collect(),
            brokers: true,
        };
        builder.build(state);
        builder
    }

    /// The last picture made.
    pub(crate) fn last(&self) -> Arc<ClusterImage> {
        Arc::new(self.image.clone())
    }

    /// Something has changed.
    pub(crate) fn note(&mut self, effects: &Effects) {
        self.topics.extend(&effects.topics);
        self.brokers |= effects.brokers;
    }

    /// The broker of this process. One that cannot be followed has no other beside it.
    fn controller(&self, state: &State) -> Option<BrokerId> {
        let is_own = |broker: &&Arc<BrokerImage>| {
            let link = broker.link.as_ref();
            self.own.is_none() || link.map(|link| link.fingerprint) == self.own
        };
        state.brokers().values().find(is_own).map(|own| own.broker)
    }

    /// A new picture, if it would look different.
    pub(crate) fn build(&mut self, state: &State) -> Option<Arc<ClusterImage>> {
        if self.topics.is_empty() && !self.brokers {
            return None;
        }
        if std::mem::take(&mut self.brokers) {
            self.image.brokers = Arc::new(state.brokers().clone());
            self.image.controller = self.controller(state);
        }
        if !self.topics.is_empty() {
            let topics = Arc::make_mut(&mut self.image.topics);
            let names = Arc::make_mut(&mut self.image.names);
            for id in std::mem::take(&mut self.topics) {
                if let Some(topic) = state.topics().find(id) {
                    names.insert(Arc::clone(&topic.image.name), id);
                    topics.insert(id, Arc::clone(&topic.image));
                } else if let Some(gone) = topics.remove(&id)
                    && names.get(&gone.name) == Some(&id)
                {
                    names.remove(&gone.name);
                }
            }
        }
        self.image.version += 1;
        Some(self.last())
    }
}
