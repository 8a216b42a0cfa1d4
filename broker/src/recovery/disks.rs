//! Which streams of dead processes wait for the disk that may hold more of them than the bucket.
//! Pure.
//!
//! Such a stream holds records that acks=1 acknowledged by the local WAL alone. If a process comes
//! with its disk soon, that one takes its partitions up (RESUME) and nothing is lost; without it
//! they go on elsewhere, as acks=1 allows.

use std::collections::BTreeMap;
use std::time::Duration;

use firn_proto::env::Mono;
use firn_proto::ids::{DiskId, StreamId};

/// How long a process that shows the disk may take to bring back what only that holds.
const RESUME_MAX: Duration = Duration::from_secs(60);

/// Streams that wait.
#[derive(Debug)]
pub struct DiskWaits {
    wait: Duration,
    /// When each was first seen, and when its disk was.
    since: BTreeMap<StreamId, (Mono, Option<Mono>)>,
}

/// Whether a stream is to be taken over now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It is.
    Over,
    /// Not before this, unless things change.
    Until(Mono),
}

impl DiskWaits {
    /// Streams wait so long for a process that shows their disk.
    pub fn new(wait: Duration) -> Self {
        Self {
            wait,
            since: BTreeMap::new(),
        }
    }

    /// Whether a stream still waits at `now`. `disk` is what may hold more of it, `is_shown` whether
    /// another live process has that.
    pub fn ask(
        &mut self,
        stream: StreamId,
        disk: Option<DiskId>,
        is_shown: bool,
        now: Mono,
    ) -> Wait {
        if disk.is_none() {
            return Wait::Over;
        }
        let (seen, shown) = self.since.entry(stream).or_insert((now, None));
        *shown = is_shown.then_some(shown.unwrap_or(now));
        let until = match shown {
            Some(shown) => shown.after(RESUME_MAX),
            None => seen.after(self.wait),
        };
        if until <= now {
            Wait::Over
        } else {
            Wait::Until(until)
        }
    }

    /// Forgets streams that nobody asks for any more.
    pub fn retain(&mut self, is_pending: impl Fn(StreamId) -> bool) {
        self.since.retain(|stream, _| is_pending(*stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Option<DiskId> = Some(DiskId([7; 16]));
    const STREAM: StreamId = StreamId(4);

    fn at(seconds: u64) -> Mono {
        Mono(0).after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_stream_that_no_disk_holds_more_of_is_taken_over_at_once() {
        let mut waits = DiskWaits::new(Duration::from_secs(5));
        assert_eq!(waits.ask(STREAM, None, false, at(0)), Wait::Over);
    }

    #[test]
    fn a_disk_is_waited_for_and_its_process_longer() {
        let mut waits = DiskWaits::new(Duration::from_secs(5));
        assert_eq!(waits.ask(STREAM, DISK, false, at(10)), Wait::Until(at(15)));
        assert_eq!(waits.ask(STREAM, DISK, true, at(12)), Wait::Until(at(72)));
        assert_eq!(waits.ask(STREAM, DISK, true, at(20)), Wait::Until(at(72)));
        assert_eq!(waits.ask(STREAM, DISK, true, at(72)), Wait::Over);
    }

    #[test]
    fn a_process_that_came_with_the_disk_and_died_is_not_waited_for() {
        let mut waits = DiskWaits::new(Duration::from_secs(5));
        waits.ask(STREAM, DISK, true, at(10));
        assert_eq!(waits.ask(STREAM, DISK, false, at(15)), Wait::Over);
        waits.retain(|_| false);
        assert_eq!(waits.ask(STREAM, DISK, false, at(16)), Wait::Until(at(21)));
    }
}
