//! Produce (0), versions 3 to 13: appends record batches.
//!
//! - v7: zstd. v8: the records at fault (KIP-467). v10: the new leader and where it is (KIP-951).
//!   v13: topics by id (KIP-516).
//!
//! Two steps, so that a connection may have several requests in progress: [`start`] appends, in the
//! order in which requests arrive; [`PendingProduce::finish`] waits for what `acks` asks for. A
//! batch that is not durable when `timeout_ms` is over, which is at least [`PRODUCE_WAIT_MIN`], is
//! answered REQUEST_TIMED_OUT and stays where it is: the producer's retry is recognised and waits for the same batch. No batch of an
//! idempotent producer is refused when a later one of it may be stored.
//!
//! Each partition is a result of its own: a batch that is refused does not hold up its neighbours,
//! unless its partition is on its way from one broker to another (`held.rs`).

pub mod admit;
mod answer;
mod held;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_proto::cluster::{ClusterImage, TopicImage};
use firn_proto::env::Mono;
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{PartitionIndex, TopicId, TopicPartition};
use firn_proto::kafka::leaders::LeaderIdAndEpoch;
use firn_proto::kafka::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse,
    TopicProduceData, TopicProduceResponse,
};
use firn_proto::limits::{PRODUCE_HELD_MAX, PRODUCE_WAIT_MIN};
use firn_proto::record::{BatchHeader, BatchView, HEADER_BYTES};
use firn_storage::wal::{Acks, FairKey, WalPermit};
use tokio::time::timeout;

use self::admit::Refused;
use super::locate::{self, TopicRef};
use super::topic_rules::TopicRules;
use crate::kafka::connection::Refusal;
use crate::kafka::context::{Call, ConnectionState, Context};
use crate::kafka::view;
use crate::partition::AppendReceipt;

/// The first version that names topics by id.
const IDS_FROM: i16 = 13;
/// What is kept of a partition between its append and its answer, about.
const PARTITION_BYTES: usize = 256;
/// Room for a few partitions without a batch, which are answered one by one.
const EMPTY_BYTES_MAX: usize = 4 * 1024;

/// A Produce request whose batches are appended, or refused.
pub struct PendingProduce {
    acks: Option<Acks>,
    began: Mono,
    timeout: Duration,
    topics: Vec<PendingTopic>,
}

struct PendingTopic {
    name: String,
    id: TopicId,
    partitions: Vec<PendingPartition>,
}

struct PendingPartition {
    index: i32,
    outcome: Result<AppendReceipt, PartitionProduceResponse>,
}

/// A batch that may be appended.
struct Admitted {
    batch: BatchView,
    /// Whether it is a slice of its frame, rather than made anew.
    in_frame: bool,
}

/// What all batches of a request share.
struct Producing<'a> {
    ctx: &'a Context,
    who: FairKey,
    version: i16,
    acks: Option<Acks>,
    now_ms: i64,
    began: Mono,
    timeout: Duration,
    /// Length of the frame that the batches are slices of.
    frame_bytes: usize,
}

/// Appends the batches of a request that came in a frame of `frame_bytes` and `began` when that was
/// read. Waits while the WAL has no room.
///
/// Cancel safe in so far as batches that were appended stay so.
pub async fn start(
    ctx: &Context,
    conn: &ConnectionState,
    call: &Call,
    request: ProduceRequest,
    frame_bytes: usize,
    began: Mono,
) -> PendingProduce {
    let acks = match request.acks {
        -1 => Some(Acks::Bucket),
        0 => Some(Acks::None),
        1 => Some(Acks::Local),
        _ => None,
    };
    let producing = Producing {
        ctx,
        who: FairKey(conn.id),
        version: call.version,
        acks,
        now_ms: ctx.clock.wall_ms(),
        began,
        timeout: Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0))
            .max(PRODUCE_WAIT_MIN),
        frame_bytes,
    };
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        topics.push(producing.topic(topic).await);
    }
    PendingProduce {
        acks,
        began: producing.began,
        timeout: producing.timeout,
        topics,
    }
}

/// Whether a frame of `frame_bytes` names more topics and partitions than it can hold batches for.
/// What is kept of each until the answer is written is then far more than what was sent.
pub fn names_too_many(request: &ProduceRequest, frame_bytes: usize) -> bool {
    let topics = request.topic_data.iter();
    let named: usize = topics.map(|topic| topic.partition_data.len().max(1)).sum();
    named.saturating_mul(HEADER_BYTES) > frame_bytes.saturating_add(EMPTY_BYTES_MAX)
}

/// What is kept of a request from its appends until its answer is written, in bytes.
pub fn kept_bytes(request: &ProduceRequest) -> usize {
    let topic = |topic: &TopicProduceData| {
        let partitions = topic.partition_data.len() * PARTITION_BYTES;
        size_of::<PendingTopic>() + topic.name.len() + partitions
    };
    request.topic_data.iter().map(topic).sum()
}

/// A topic as the request named it.
#[derive(Clone, Copy)]
struct TopicName<'a> {
    name: &'a str,
    id: TopicId,
}

impl TopicName<'_> {
    fn find<'i>(&self, image: &'i ClusterImage) -> Option<&'i Arc<TopicImage>> {
        match self.id {
            TopicId::ZERO => image.topic_named(self.name),
            id => image.topic(id),
        }
    }
}

/// The other broker that leads a partition, if one does.
fn leader_of(ctx: &Context, topic: &TopicImage, index: i32) -> Option<LeaderIdAndEpoch> {
    let leader = locate::other_leader(ctx, topic, index);
    leader.map(|(leader_id, leader_epoch)| LeaderIdAndEpoch {
        leader_id,
        leader_epoch,
    })
}

impl Producing<'_> {
    async fn topic(&self, data: TopicProduceData) -> PendingTopic {
        let image = self.ctx.image.borrow().clone();
        let named = if self.version >= IDS_FROM {
            TopicRef::Id(data.topic_id)
        } else {
            TopicRef::Name(&data.name)
        };
        let found = locate::topic(&image, named);
        let mut partitions = Vec::with_capacity(data.partition_data.len());
        for PartitionProduceData { index, records } in data.partition_data {
            let outcome = match found {
                Ok(topic) => self.partition(topic, index, records).await,
                Err(code) => Err(answer::refused(index, Refused::plain(code))),
            };
            partitions.push(PendingPartition { index, outcome });
        }
        PendingTopic {
            name: data.name,
            id: data.topic_id,
            partitions,
        }
    }

    async fn partition(
        &self,
        topic: &Arc<TopicImage>,
        index: i32,
        records: Option<Bytes>,
    ) -> Result<AppendReceipt, PartitionProduceResponse> {
        let appended = self.append(topic, index, records).await;
        appended.map_err(|refused| answer::refused(index, refused))
    }

    /// Checks the batch of one partition and appends it. A refusal is noted, so that what the
    /// producer has sent behind it is not stored in its place.
    async fn append(
        &self,
        topic: &TopicImage,
        index: i32,
        records: Option<Bytes>,
    ) -> Result<AppendReceipt, Refused> {
        // A copy: the batch itself must be held by nobody else, to be stamped in place.
        let header = records
            .as_ref()
            .and_then(|records| BatchHeader::parse(records).ok());
        let appended = self.try_append(topic, index, records).await;
        if let (Err(_), Some(header)) = (&appended, header) {
            let tp = TopicPartition {
                topic: topic.id,
                partition: PartitionIndex(index),
            };
            self.ctx.partitions.on_refused(tp, &header);
        }
        appended
    }

    async fn try_append(
        &self,
        topic: &TopicImage,
        index: i32,
        records: Option<Bytes>,
    ) -> Result<AppendReceipt, Refused> {
        let acks = self
            .acks
            .ok_or_else(|| Refused::plain(ErrorCode::InvalidRequiredAcks))?;
        let waited = self.ctx.clock.mono().since(self.began);
        let patience = PRODUCE_HELD_MAX.saturating_sub(waited);
        let partition = held::partition(self.ctx, topic, index, patience)
            .await
            .map_err(|misplaced| Refused::plain(misplaced.code))?;
        let rules = TopicRules::new(&topic.configs, self.ctx.config.topics.message_max_bytes);
        let admitted = self.admit(records, rules).await?;
        let permit = self.permit(admitted.batch.bytes().len()).await?;
        // Only now: while the WAL has no room, the frame is there, and a copy would be uncounted.
        let batch = match admitted.in_frame {
            true => admitted.batch.detached(self.frame_bytes),
            false => admitted.batch,
        };
        let (count, bytes) = (batch.header().record_count, batch.bytes().len());
        let receipt = partition.append(batch, rules.batch.timestamp_type, acks, permit)?;
        let metrics = self.ctx.metrics.topic(&topic.name);
        metrics.records_in.inc_by(u64::try_from(count).unwrap_or(0));
        metrics.bytes_in.inc_by(bytes as u64);
        Ok(receipt)
    }

    /// Room in the WAL for a batch of `bytes`, and for the rest of the frame if it keeps that alive.
    async fn permit(&self, bytes: usize) -> Result<WalPermit, Refused> {
        let held = match bytes.saturating_mul(2) < self.frame_bytes {
            true => bytes,
            false => bytes.max(self.frame_bytes),
        };
        let room = self.ctx.wal.reserve(held, self.who);
        let permit = if self.acks == Some(Acks::None) {
            room.await
        } else {
            // Nobody waits for the answer any longer than this, and what has not been appended
            // then must not pile up in front of what is sent again.
            let waited = self.ctx.clock.mono().since(self.began);
            let left = self.timeout.saturating_sub(waited);
            timeout(left, room).await.map_err(|_| {
                let late = "the wal had no room in time; nothing was appended, so send it again";
                Refused::because(ErrorCode::RequestTimedOut, late)
            })?
        };
        permit.map_err(|error| Refused::because(ErrorCode::NotLeaderOrFollower, error.to_string()))
    }

    /// Checks a batch; off the threads that serve connections where its records must be read.
    async fn admit(&self, records: Option<Bytes>, rules: TopicRules) -> Result<Admitted, Refused> {
        let batch = admit::admit(records, &rules, self.version, self.now_ms)?;
        if !admit::must_look_inside(&batch, &rules) {
            return Ok(Admitted {
                batch,
                in_frame: true,
            });
        }
        let look = move |batch: &BatchView, bytes_max| admit::look_inside(batch, &rules, bytes_max);
        let is_too_large = |refused: &Refused| refused.code == ErrorCode::MessageTooLarge;
        let decodings = self.ctx.reader.decodings();
        match decodings.look(&batch, look, is_too_large).await {
            Ok(looked) => {
                let made = looked?;
                let in_frame = made.is_none();
                let batch = made.unwrap_or(batch);
                Ok(Admitted { batch, in_frame })
            }
            Err(_) => Err(Refused::plain(ErrorCode::UnknownServerError)),
        }
    }
}

impl PendingProduce {
    /// Waits until every batch is where `acks` wants it, and gives the response; none for acks=0.
    ///
    /// # Errors
    /// With acks=0 a batch that was refused closes the connection: there is no other way to say so.
    pub async fn finish(
        self,
        ctx: &Context,
        conn: &ConnectionState,
    ) -> Result<Option<ProduceResponse>, Refusal> {
        if self.acks == Some(Acks::None) {
            return self.without_answer().map(|()| None);
        }
        let held_until = ctx.clock.mono().after(PRODUCE_HELD_MAX);
        let mut responses = Vec::with_capacity(self.topics.len());
        for topic in self.topics {
            let named = TopicName {
                name: &topic.name,
                id: topic.id,
            };
            let mut partition_responses = Vec::with_capacity(topic.partitions.len());
            for partition in topic.partitions {
                let index = partition.index;
                let left = self
                    .timeout
                    .saturating_sub(ctx.clock.mono().since(self.began));
                let mut response = partition.finish(left).await;
                if response.error_code == ErrorCode::NotLeaderOrFollower {
                    let patience = held_until.since(ctx.clock.mono());
                    let next = held::next_leader(ctx, named, index, patience).await;
                    response.current_leader = next.unwrap_or_default();
                }
                partition_responses.push(response);
            }
            responses.push(TopicProduceResponse {
                name: topic.name,
                topic_id: topic.id,
                partition_responses,
            });
        }
        let took = ctx.clock.mono().since(self.began);
        ctx.metrics.produce_ack_seconds.observe(took.as_secs_f64());
        let mut response = ProduceResponse {
            responses,
            ..ProduceResponse::default()
        };
        if answer::names_leaders(&response) {
            let image = ctx.image.borrow().clone();
            let named = answer::leaders(&response).collect();
            response.node_endpoints =
                view::endpoints_of(&named, view::endpoints(ctx, conn, &image));
        }
        Ok(Some(response))
    }

    fn without_answer(self) -> Result<(), Refusal> {
        let partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        let refused = partitions.filter_map(|partition| partition.outcome.as_ref().err());
        match refused.into_iter().next() {
            None => Ok(()),
            Some(refused) => Err(Refusal(format!(
                "produce with acks=0 to partition {} was refused: {}",
                refused.index, refused.error_code
            ))),
        }
    }
}

impl PendingPartition {
    /// Without the leader, of one that went to another broker.
    async fn finish(self, left: Duration) -> PartitionProduceResponse {
        let receipt = match self.outcome {
            Ok(receipt) => receipt,
            Err(refused) => return refused,
        };
        match timeout(left, receipt.wait()).await {
            Ok(Ok(appended)) => answer::appended(self.index, appended),
            // The partition went to another broker while the batch was on its way.
            Ok(Err(error)) => answer::refused(self.index, error.into()),
            Err(_) => {
                let late = "not durable in time; the batch is kept, so send it again";
                let refused = Refused::because(ErrorCode::RequestTimedOut, late);
                answer::refused(self.index, refused)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(topics: usize, name: &str, partitions: usize) -> ProduceRequest {
        let partition = PartitionProduceData::default();
        let topic = TopicProduceData {
            name: name.to_owned(),
            partition_data: vec![partition; partitions],
            ..TopicProduceData::default()
        };
        ProduceRequest {
            topic_data: vec![topic; topics],
            ..ProduceRequest::default()
        }
    }

    #[test]
    fn a_frame_names_no_more_than_it_holds_batches_for() {
        for (topics, partitions) in [(10_000, 0), (10_000, 1), (1, 10_000)] {
            let many = request(topics, "t", partitions);
            assert!(names_too_many(&many, 100_000), "{topics} × {partitions}");
            assert!(!names_too_many(&many, 10_000 * (HEADER_BYTES + 5)));
        }
        assert!(!names_too_many(&request(3, "t", 0), 100));
    }

    #[test]
    fn topics_and_their_names_count_as_much_as_their_partitions() {
        let name = "n".repeat(200);
        assert!(kept_bytes(&request(10, &name, 0)) >= 10 * 200);
        let more = kept_bytes(&request(10, &name, 3)) - kept_bytes(&request(10, &name, 1));
        assert_eq!(more, 10 * 2 * PARTITION_BYTES);
    }
}
