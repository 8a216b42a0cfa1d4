//! What a Fetch could read, before anything is read: where each partition is, whether the client's
//! view of it holds, and how much is visible there.

use std::sync::Arc;

use firn_proto::cluster::{ClusterImage, TopicImage, TopicKey};
use firn_proto::error_code::ErrorCode;
use firn_proto::ids::PartitionIndex;
use firn_proto::kafka::leaders::LeaderIdAndEpoch;

use super::answer::PartitionRead;
use crate::kafka::context::Context;
use crate::kafka::data::epochs;
use crate::kafka::data::fetch_session::{Marks, Wanted};
use crate::kafka::data::locate::{self, Misplaced, TopicRef};
use crate::partition::{Bounds, Partition};

/// One partition of a turn.
pub(super) struct Surveyed {
    /// The answer so far: bounds, and what is wrong if something is.
    pub(super) read: PartitionRead,
    /// The partition, unless something is wrong.
    pub(super) readable: Option<Readable>,
}

/// A partition that can be read.
pub(super) struct Readable {
    /// The partition.
    pub(super) partition: Arc<Partition>,
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
        if self.offset < self.partition.bounds().archived_to {
            return (bytes, usize::MAX);
        }
        self.partition.bytes_there(self.offset, self.end, bytes)
    }
}

/// Looks at each partition of a turn. `bytes_wanted` is how many bytes it takes to answer.
pub(super) fn survey(
    ctx: &Context,
    wanted: &[Wanted],
    read_committed: bool,
    bytes_wanted: usize,
) -> Vec<Surveyed> {
    let image = ctx.image.borrow().clone();
    wanted
        .iter()
        .map(|wanted| {
            let look = Look {
                ctx,
                image: &image,
                read_committed,
                bytes_wanted,
            };
            look.at(wanted)
        })
        .collect()
}

struct Look<'a> {
    ctx: &'a Context,
    image: &'a ClusterImage,
    read_committed: bool,
    bytes_wanted: usize,
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
            Err(misplaced) => failed(elsewhere(misplaced)),
        }
    }

    fn owned(&self, topic: &TopicImage, partition: Arc<Partition>, wanted: &Wanted) -> Surveyed {
        let bounds = partition.bounds();
        if let Err(code) = epochs::check_current(bounds.epoch, wanted.current_leader_epoch) {
            let mut read = PartitionRead::failed(code);
            read.leader = locate::leader(topic, wanted.partition).map(leader);
            return failed(read);
        }
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
        let end = visible_end(&bounds, self.read_committed);
        let max_bytes = usize::try_from(wanted.max_bytes).unwrap_or(0);
        let available = self.available(&partition, wanted.fetch_offset, end, max_bytes);
        let readable = Readable {
            partition,
            topic: Arc::clone(&topic.name),
            offset: wanted.fetch_offset,
            end,
            max_bytes,
            available,
        };
        Surveyed {
            read,
            readable: Some(readable),
        }
    }

    /// One byte stands for any number of them where nobody wants more.
    fn available(&self, partition: &Partition, offset: i64, end: i64, max_bytes: usize) -> usize {
        if offset >= end {
            return 0;
        }
        if self.bytes_wanted <= 1 {
            return 1;
        }
        if offset < partition.bounds().archived_to {
            // Whoever is that far behind waits for nothing.
            return self.bytes_wanted.min(max_bytes).max(1);
        }
        let wanted = self.bytes_wanted.min(max_bytes);
        let (bytes, _) = partition.bytes_there(offset, end, wanted);
        bytes.max(1)
    }
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
