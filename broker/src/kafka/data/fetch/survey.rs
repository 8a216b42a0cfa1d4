//! What a Fetch could read, before anything is read: where each partition is, whether the client's
//! view of it holds, and how much is visible there.

use std::sync::{Arc, PoisonError};

use firn_proto::cluster::{ClusterImage, TopicImage, TopicKey};
use firn_proto::env::Mono;
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::{LeaderEpoch, PartitionIndex, TopicPartition};
use firn_proto::kafka::leaders::LeaderIdAndEpoch;

use super::answer::PartitionRead;
use super::source::Source;
use crate::kafka::context::Context;
use crate::kafka::data::epochs;
use crate::kafka::data::fetch_session::{Marks, Wanted};
use crate::kafka::data::locate::{self, Misplaced, TopicRef};
use crate::partition::{Bounds, Partition};
use crate::read_replica::{Followed, Question, Views, choice};

/// One partition of a turn.
pub(super) struct Surveyed {
    /// The answer so far: bounds, and what is wrong if something is.
    pub(super) read: PartitionRead,
    /// The partition, unless something is wrong.
    pub(super) readable: Option<Readable>,
    /// What its owner has to be asked before anything is known of it.
    pub(super) unseen: Option<Question>,
}

/// Who reads, and how.
pub(super) struct Reading<'a> {
    /// The client's connection.
    pub(super) connection: u64,
    /// When it asked.
    pub(super) asked: Mono,
    /// The client's rack, if it says.
    pub(super) rack: Option<&'a str>,
    /// Only what belongs to no unfinished transaction.
    pub(super) committed: bool,
    /// How many bytes it takes to answer.
    pub(super) bytes_wanted: usize,
}

/// A partition that can be read.
pub(super) struct Readable {
    /// The partition.
    pub(super) source: Source,
    /// Its topic's name, for metrics.
    pub(super) topic: Arc<str>,
    /// The first offset wanted.
    pub(super) offset: i64,
    /// Nothing at or behind this offset may be shown.
    pub(super) end: i64,
    /// Most bytes wanted.
    pub(super) max_bytes: usize,
    /// About how many bytes there are to read, as far as anyone wants to know.
    pub(super) available: usize,
}

impl Readable {
    /// About how many bytes of `bytes` there are from the offset on, and of the first run or batch of
    /// them.
    pub(super) fn bytes_there(&self, bytes: usize) -> (usize, usize) {
        if self.offset < self.source.bounds().archived_to {
            return (bytes, usize::MAX);
        }
        self.source.bytes_there(self.offset, self.end, bytes)
    }

    /// What the owner is asked for more of it, if that is another process.
    pub(super) fn question(&self) -> Option<Question> {
        match &self.source {
            Source::Owned(_) => None,
            Source::Followed(followed, _) => Some(Question {
                followed: followed.clone(),
                offset: self.offset,
                bytes_max: self.max_bytes,
                available: self.available,
            }),
        }
    }
}

/// Looks at each partition of a turn. `views` is what owners of other racks have said.
pub(super) fn survey(
    ctx: &Context,
    wanted: &[Wanted],
    reading: &Reading<'_>,
    views: &Views,
) -> Vec<Surveyed> {
    let image = ctx.image.borrow().clone();
    let look = Look {
        ctx,
        image: &image,
        reading,
        views,
    };
    wanted.iter().map(|wanted| look.at(wanted)).collect()
}

struct Look<'a> {
    ctx: &'a Context,
    image: &'a ClusterImage,
    reading: &'a Reading<'a>,
    views: &'a Views,
}

impl Look<'_> {
    fn at(&self, wanted: &Wanted) -> Surveyed {
        let named = match &wanted.topic {
            TopicKey::Name(name) => TopicRef::Name(name),
            TopicKey::Id(id) => TopicRef::Id(*id),
        };
        let topic = match locate::topic(self.image, named) {
            Ok(topic) => topic,
            Err(code) => return failed(PartitionRead::failed(code)),
        };
        match locate::partition(self.ctx, topic, wanted.partition) {
            Ok(partition) => self.owned(topic, partition, wanted),
            Err(misplaced) => match self.followed(topic, wanted) {
                Some(followed) => self.followed_at(topic, followed, misplaced, wanted),
                None => failed(elsewhere(misplaced)),
            },
        }
    }

    fn owned(&self, topic: &TopicImage, partition: Arc<Partition>, wanted: &Wanted) -> Surveyed {
        let tp = partition.tp();
        if let Some(refused) = refused(topic, partition.epoch(), wanted) {
            return failed(refused);
        }
        let bucket_has_all = partition.bounds().bucket_has_all();
        let mut surveyed = self.seen(topic, Source::Owned(partition), wanted);
        if surveyed.readable.is_some()
            && bucket_has_all
            && let Some(reader) = self.reader(topic, tp)
        {
            surveyed.read.preferred = Some(reader);
            surveyed.readable = None;
        }
        surveyed
    }

    /// The broker of its rack that the client is sent to.
    fn reader(&self, topic: &TopicImage, tp: TopicPartition) -> Option<i32> {
        let (ctx, rack) = (self.ctx, self.reading.rack?);
        let reader = choice::reader(self.image, topic, tp.partition, ctx.broker, rack)?;
        let mut sent_away = ctx.sent_away.lock().unwrap_or_else(PoisonError::into_inner);
        let is_sent = sent_away.send(self.reading.connection, tp, self.reading.asked);
        is_sent.then_some(reader.0)
    }

    /// The partition as that of another broker, if this one reads it for clients of the rack.
    fn followed(&self, topic: &TopicImage, wanted: &Wanted) -> Option<Followed> {
        let index = PartitionIndex(wanted.partition);
        let partition = topic.partition(index)?;
        let (own, rack) = (self.ctx.broker, self.reading.rack?);
        let owner = choice::read_by(self.image, topic, partition.owner?, own, rack)?;
        Some(Followed {
            tp: TopicPartition {
                topic: topic.id,
                partition: index,
            },
            epoch: partition.epoch,
            owner: Arc::new(owner),
        })
    }

    fn followed_at(
        &self,
        topic: &TopicImage,
        followed: Followed,
        misplaced: Misplaced,
        wanted: &Wanted,
    ) -> Surveyed {
        if let Some(refused) = refused(topic, followed.epoch, wanted) {
            return failed(refused);
        }
        match self.views.of(&followed) {
            Some(Some(view)) => self.seen(topic, Source::Followed(followed, view), wanted),
            // The owner is where the client gets on.
            Some(None) => failed(elsewhere(misplaced)),
            None => Surveyed {
                unseen: Some(Question {
                    followed,
                    offset: wanted.fetch_offset,
                    bytes_max: usize::try_from(wanted.max_bytes).unwrap_or(0),
                    available: 0,
                }),
                ..failed(PartitionRead::failed(ErrorCode::None))
            },
        }
    }

    /// Whether what the client has read lies in the log, and what there is behind it.
    fn seen(&self, topic: &TopicImage, source: Source, wanted: &Wanted) -> Surveyed {
        let bounds = source.bounds();
        let mut read = PartitionRead {
            marks: marks(&bounds),
            ..PartitionRead::failed(ErrorCode::None)
        };
        let known = topic.partition(PartitionIndex(wanted.partition));
        let known = known.map_or(&[][..], |partition| &partition.epochs);
        let diverging = epochs::divergence(
            known,
            wanted.last_fetched_epoch,
            wanted.fetch_offset,
            bounds.high_watermark,
        );
        match diverging {
            Ok(diverging) => read.diverging = diverging,
            Err(code) => read.error = code,
        }
        if wanted.fetch_offset < bounds.log_start || wanted.fetch_offset > bounds.log_end {
            read.error = ErrorCode::OffsetOutOfRange;
            read.diverging = None;
        }
        if read.is_urgent() {
            return failed(read);
        }
        let end = visible_end(&bounds, self.reading.committed);
        let max_bytes = usize::try_from(wanted.max_bytes).unwrap_or(0);
        let available = self.available(&source, wanted.fetch_offset, end, max_bytes);
        let readable = Readable {
            source,
            topic: Arc::clone(&topic.name),
            offset: wanted.fetch_offset,
            end,
            max_bytes,
            available,
        };
        Surveyed {
            read,
            readable: Some(readable),
            unseen: None,
        }
    }

    /// One byte stands for any number of them where nobody wants more. What another process owns has as
    /// many as that says: it waits until these are enough, and must not be asked again if they are not.
    fn available(&self, source: &Source, offset: i64, end: i64, max_bytes: usize) -> usize {
        if offset >= end {
            return 0;
        }
        if let Source::Followed(_, view) = source {
            return view.available();
        }
        let bytes_wanted = self.reading.bytes_wanted;
        if bytes_wanted <= 1 {
            return 1;
        }
        if offset < source.bounds().archived_to {
            // Whoever is that far behind waits for nothing.
            return bytes_wanted.min(max_bytes).max(1);
        }
        let wanted = bytes_wanted.min(max_bytes);
        let (bytes, _) = source.bytes_there(offset, end, wanted);
        bytes.max(1)
    }
}

/// What a client is told whose epoch is not that of the partition.
fn refused(topic: &TopicImage, epoch: LeaderEpoch, wanted: &Wanted) -> Option<PartitionRead> {
    let code = epochs::check_current(epoch, wanted.current_leader_epoch).err()?;
    Some(PartitionRead {
        leader: locate::leader(topic, wanted.partition).map(leader),
        ..PartitionRead::failed(code)
    })
}

/// Where a reader of the given isolation level must stop.
pub(in crate::kafka::data) fn visible_end(bounds: &Bounds, read_committed: bool) -> i64 {
    if read_committed {
        bounds.last_stable_offset
    } else {
        bounds.high_watermark
    }
}

fn failed(read: PartitionRead) -> Surveyed {
    Surveyed {
        read,
        readable: None,
        unseen: None,
    }
}

fn elsewhere(misplaced: Misplaced) -> PartitionRead {
    PartitionRead {
        leader: misplaced.leader.map(leader),
        ..PartitionRead::failed(misplaced.code)
    }
}

fn leader((leader_id, leader_epoch): (i32, i32)) -> LeaderIdAndEpoch {
    LeaderIdAndEpoch {
        leader_id,
        leader_epoch,
    }
}

fn marks(bounds: &Bounds) -> Marks {
    Marks {
        high_watermark: bounds.high_watermark,
        last_stable_offset: bounds.last_stable_offset,
        log_start_offset: bounds.log_start,
    }
}
