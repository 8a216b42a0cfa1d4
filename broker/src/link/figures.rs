//! Figures of links: what goes over them, whether the other side is heard, and who refuses whom. By
//! the address of the other process; those beyond a number that are met are counted together.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use firn_proto::cluster::LinkAddress;
use firn_proto::env::{Clock, Mono};
use firn_proto::limits::{BEAT_INTERVAL, LINK_PEERS_SHOWN_MAX};
use firn_proto::link::RefusalReason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The figures of all links of this process.
pub struct LinkFigures {
    clock: Arc<dyn Clock>,
    peers: Mutex<BTreeMap<String, Arc<PeerFigures>>>,
    /// Of those that have none of their own, and of those whose address is not known yet.
    others: Arc<PeerFigures>,
    refusals: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

/// Those of the links to one other process.
#[derive(Debug, Default)]
pub(super) struct PeerFigures {
    links: AtomicUsize,
    frames_in: AtomicU64,
    bytes_in: AtomicU64,
    frames_out: AtomicU64,
    bytes_out: AtomicU64,
    queued: AtomicUsize,
    beats_missed: AtomicU64,
    round_trip_micros: AtomicU64,
}

impl PeerFigures {
    pub(super) fn on_read(&self, bytes: usize) {
        self.frames_in.fetch_add(1, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn on_written(&self, bytes: usize) {
        self.frames_out.fetch_add(1, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So many requests or replies wait to be sent.
    pub(super) fn set_queued(&self, queued: usize) {
        self.queued.store(queued, Ordering::Relaxed);
    }
}

/// A link between this process and another that has been taken; counted until it is dropped.
pub(super) struct Linked {
    figures: Arc<LinkFigures>,
    peer: Arc<PeerFigures>,
    /// When the last beat came.
    beaten: Mutex<Mono>,
}

impl Linked {
    pub(super) fn peer(&self) -> Arc<PeerFigures> {
        Arc::clone(&self.peer)
    }

    /// A beat came. Those that should have come since the one before are missed.
    pub(super) fn on_beat(&self) {
        let now = self.figures.clock.mono();
        let mut beaten = self.beaten.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.since(std::mem::replace(&mut *beaten, now));
        // Half an interval more or less is no missed beat.
        let due = (passed + BEAT_INTERVAL / 2).as_micros() / BEAT_INTERVAL.as_micros();
        let missed = u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(1);
        self.peer.beats_missed.fetch_add(missed, Ordering::Relaxed);
    }

    /// A beat came that answers the one which was sent then.
    pub(super) fn on_answered(&self, sent: Mono) {
        let round_trip = self.figures.clock.mono().since(sent).as_micros();
        let round_trip = u64::try_from(round_trip).unwrap_or(u64::MAX);
        let last = &self.peer.round_trip_micros;
        last.store(round_trip, Ordering::Relaxed);
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        if self.peer.links.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.peer.set_queued(0);
        }
    }
}

impl fmt::Debug for LinkFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkFigures").finish_non_exhaustive()
    }
}

impl LinkFigures {
    /// Of a process without links.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            peers: Mutex::default(),
            others: Arc::default(),
            refusals: Mutex::default(),
        }
    }

    /// Those of links whose other side is not known.
    pub(super) fn others(&self) -> Arc<PeerFigures> {
        Arc::clone(&self.others)
    }

    /// The time.
    pub(super) fn now(&self) -> Mono {
        self.clock.mono()
    }

    /// Counts a link to the process that takes links there.
    pub(super) fn link(self: &Arc<Self>, peer: &LinkAddress) -> Linked {
        let peer = self.of_peer(format!("{}:{}", peer.host, peer.port));
        peer.links.fetch_add(1, Ordering::Relaxed);
        Linked {
            figures: Arc::clone(self),
            peer,
            beaten: Mutex::new(self.clock.mono()),
        }
    }

    /// One that has no links any more makes room for another.
    fn of_peer(&self, peer: String) -> Arc<PeerFigures> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= LINK_PEERS_SHOWN_MAX && !peers.contains_key(&peer) {
            let idle = |figures: &Arc<PeerFigures>| figures.links.load(Ordering::Relaxed) == 0;
            let gone = peers.iter().find(|(_, figures)| idle(figures));
            let Some(gone) = gone.map(|(gone, _)| gone.clone()) else {
                return self.others();
            };
            peers.remove(&gone);
        }
        Arc::clone(peers.entry(peer).or_default())
    }

    /// This process has refused a link, or ended it, for that reason.
    pub(super) fn on_refusing(&self, reason: RefusalReason) {
        self.count_refusal("this", reason);
    }

    /// Another one has.
    pub(super) fn on_refused(&self, reason: RefusalReason) {
        self.count_refusal("other", reason);
    }

    fn count_refusal(&self, by: &'static str, reason: RefusalReason) {
        let refusals = self.refusals.lock();
        let mut refusals = refusals.unwrap_or_else(PoisonError::into_inner);
        *refusals.entry((by, reason.label())).or_default() += 1;
    }

    /// All that have figures of their own, and the rest.
    fn shown(&self) -> Vec<(String, Arc<PeerFigures>)> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let own = peers
            .iter()
            .map(|(peer, of)| (peer.clone(), Arc::clone(of)));
        own.chain([("(other)".to_owned(), self.others())]).collect()
    }
}

/// Reads the figures of links.
#[derive(Debug)]
pub struct LinkCollector(pub Arc<LinkFigures>);

impl Collector for LinkCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let shown = self.0.shown();
        let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let mut gauges = |name, help, value: &dyn Fn(&PeerFigures) -> u64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (peer, figures) in &shown {
                let value = i64::try_from(value(figures)).unwrap_or(i64::MAX);
                let labels = [("peer", peer.as_str())];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
            Ok::<(), fmt::Error>(())
        };
        gauges(
            "link_connections",
            "links with another broker that are open, whichever side opened them",
            &|peer| count(peer.links.load(Ordering::Relaxed)),
        )?;
        gauges(
            "link_queued",
            "requests or replies that wait to be sent over links",
            &|peer| count(peer.queued.load(Ordering::Relaxed)),
        )?;
        gauges(
            "link_beat_microseconds",
            "from the last beat to the leader that it answered until its answer",
            &|peer| peer.round_trip_micros.load(Ordering::Relaxed),
        )?;
        let mut counters = |name, help, values: &[(&'static str, Value)]| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (peer, figures) in &shown {
                for (direction, value) in values {
                    let value = value(figures).load(Ordering::Relaxed);
                    let labels = [("peer", peer.as_str()), ("direction", *direction)];
                    ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
            Ok::<(), fmt::Error>(())
        };
        let frames: [(_, Value); 2] = [("in", |p| &p.frames_in), ("out", |p| &p.frames_out)];
        let bytes: [(_, Value); 2] = [("in", |p| &p.bytes_in), ("out", |p| &p.bytes_out)];
        let missed: [(_, Value); 1] = [("in", |p| &p.beats_missed)];
        counters("link_frames", "frames of links", &frames)?;
        counters("link_bytes", "bytes of frames of links", &bytes)?;
        counters(
            "link_beats_missed",
            "beats that did not come, or late",
            &missed,
        )?;
        self.refusals(&mut encoder)
    }
}

/// A counter of a peer.
type Value = fn(&PeerFigures) -> &AtomicU64;

impl LinkCollector {
    fn refusals(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let name = "link_refusals";
        let help = "links that were refused, or ended with a reason, by this process or the other";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        let refusals = self.0.refusals.lock();
        let refusals = refusals.unwrap_or_else(PoisonError::into_inner).clone();
        for ((by, reason), value) in refusals {
            let labels = [("by", by), ("reason", reason)];
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use firn_proto::ids::Fingerprint;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::link::testing::TestClock;

    fn at(port: usize) -> LinkAddress {
        LinkAddress {
            host: "h".to_owned(),
            port: u16::try_from(port).unwrap(),
            fingerprint: Fingerprint([1; 32]),
        }
    }

    fn printed(figures: &Arc<LinkFigures>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(LinkCollector(Arc::clone(figures))));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn links_are_counted_by_the_address_of_the_other_side() {
        let clock = Arc::new(TestClock::default());
        let figures = Arc::new(LinkFigures::new(Arc::clone(&clock) as _));
        let link = figures.link(&at(9092));
        link.peer().on_read(100);
        link.peer().on_written(7);
        link.peer().set_queued(3);
        for millis in [200, 290, 110, 900] {
            clock.advance(Duration::from_millis(millis));
            link.on_beat();
        }
        link.on_answered(Mono(clock.mono().0 - 1234));
        figures.on_refused(RefusalReason::Version);
        let text = printed(&figures);
        for line in [
            "link_connections{peer=\"h:9092\"} 1",
            "link_queued{peer=\"h:9092\"} 3",
            "link_beat_microseconds{peer=\"h:9092\"} 1234",
            "link_frames_total{peer=\"h:9092\",direction=\"in\"} 1",
            "link_bytes_total{peer=\"h:9092\",direction=\"in\"} 100",
            "link_bytes_total{peer=\"h:9092\",direction=\"out\"} 7",
            // Of the 900 ms.
            "link_beats_missed_total{peer=\"h:9092\",direction=\"in\"} 4",
            "link_refusals_total{by=\"other\",reason=\"version\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        drop(link);
        let text = printed(&figures);
        assert!(text.contains("link_connections{peer=\"h:9092\"} 0"));
        assert!(text.contains("link_queued{peer=\"h:9092\"} 0"));
    }

    #[test]
    fn only_so_many_have_figures_of_their_own_and_those_without_links_go() {
        let figures = Arc::new(LinkFigures::new(Arc::new(TestClock::default())));
        let mut links: Vec<_> = (0..2 * LINK_PEERS_SHOWN_MAX)
            .map(|port| figures.link(&at(port)))
            .collect();
        assert_eq!(figures.shown().len(), LINK_PEERS_SHOWN_MAX + 1);
        let others = figures.others.links.load(Ordering::Relaxed);
        assert_eq!(others, LINK_PEERS_SHOWN_MAX);
        drop(links.remove(0));
        let _new = figures.link(&at(60_000));
        let shown = figures.shown();
        assert_eq!(shown.len(), LINK_PEERS_SHOWN_MAX + 1);
        let has = |port: &str| shown.iter().any(|(peer, _)| peer == port);
        assert!(has("h:60000") && !has("h:0"));
    }
}
