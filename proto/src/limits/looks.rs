//! Limits of reads by brokers that do not own what they read (KIP-392).

use std::time::Duration;

use super::{LINK_CONNECT_MAX, LINK_PART_BYTES_MAX, READ_RUNS_MAX};

/// Partitions in one question to the owner of them (KIP-392): it goes in one part.
pub const LOOK_PARTITIONS_MAX: usize = 1024;
/// Runs in the answer: together about what a Fetch without records keeps of as many partitions.
pub const LOOK_RUNS_MAX: usize = 2048;
/// Such questions of one other process that an owner may have under way: each Fetch that waits there
/// for records of this process is one.
pub const LOOKS_MAX: usize = 4096;
/// So many of them are left to questions that wait for nothing: a Fetch that cannot wait is answered
/// with what there is, one that cannot ask sends its client away.
pub const LOOKS_NOW_MIN: usize = LOOKS_MAX / 4;
/// A link is given up once so many questions were not answered in time, each asked when that was known
/// of the one before, and no other was answered meanwhile. One alone fails by itself.
pub const LOOKS_SILENT_MAX: u32 = 3;
/// What those may have in bytes together, when they come in.
pub const LOOKS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest time that a question waits for records. Whoever wants to wait longer asks again.
pub const LOOK_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the answer, beyond what the question waits for records: then its clients are sent
/// back to the owner.
pub const LOOK_ANSWER_MAX: Duration = Duration::from_secs(1);
/// An owner that could not be asked is asked again after so long. Until then clients are sent back at
/// once.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A link over which nothing was asked for so long is closed.
pub const LOOK_IDLE_MAX: Duration = Duration::from_secs(60);
/// A client that was sent to the broker of its rack and comes back within this time is served by the
/// owner until it is over: that broker, or the way to it, may be of no use to it.
pub const SENT_AWAY_LASTS: Duration = Duration::from_secs(60);
/// One that asks again within this time was not there yet: its Fetch was on its way when it was sent.
/// That long it may go to and fro at most, if the other broker sends it back at once.
pub const SENT_AGAIN_WITHIN: Duration = Duration::from_millis(100);
/// Partitions of clients that one broker remembers to have sent away. No more are sent until some of
/// these are forgotten: the owner serves them.
pub const SENT_AWAY_MAX: usize = 64 * 1024;

const _: () = assert!(
    LOOKS_MAX >= 1024 && LOOKS_BYTES_MAX >= 64 * LINK_PART_BYTES_MAX,
    "consumers of a rack wait for records side by side"
);
const _: () = assert!(
    LOOKS_NOW_MIN >= 512 && LOOKS_NOW_MIN <= LOOKS_MAX / 2,
    "those who wait must not keep out those who do not, and most of a rack's consumers wait"
);
const _: () = assert!(
    LOOKS_SILENT_MAX >= 2,
    "one late answer must not break a link that others use"
);
const _: () = assert!(
    LINK_CONNECT_MAX.as_millis() <= SENT_AWAY_LASTS.as_millis()
        && LOOK_AGAIN.as_millis() < SENT_AWAY_LASTS.as_millis(),
    "who comes back from a broker that cannot reach the owner must not be sent there again at once"
);
const _: () = assert!(
    SENT_AGAIN_WITHIN.as_millis() <= LOOK_ANSWER_MAX.as_millis() / 10,
    "who comes back since an owner did not answer in time is served at once"
);
const _: () = assert!(
    LOOK_WAIT_MAX.as_millis() + LOOK_ANSWER_MAX.as_millis() < LOOK_IDLE_MAX.as_millis(),
    "a link must not be closed under a question"
);
const _: () = assert!(
    LOOK_RUNS_MAX >= READ_RUNS_MAX && LOOK_RUNS_MAX >= LOOK_PARTITIONS_MAX,
    "every partition of a question may have a run in the answer, and one a whole read"
);
