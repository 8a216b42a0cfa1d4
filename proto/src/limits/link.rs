//! Limits of the broker link.

use std::time::Duration;

use super::GROUPS_BYTES_MAX;

/// A picture of the cluster, or a piece of the journal, goes over the broker link in parts of at most
/// this many bytes, so that beats pass between them.
pub const LINK_PART_BYTES_MAX: usize = 128 * 1024;
/// Longest body of a frame of the link that holds such a part, in bytes: with what is around it.
pub const LINK_FRAME_BYTES_MAX: usize = LINK_PART_BYTES_MAX + 256;
/// Longest body of one that says who opens a link, who takes it, or why not, in bytes.
pub const LINK_HELLO_BYTES_MAX: usize = 16 * 1024;
/// Longest body of every other one, in bytes.
pub const LINK_WORD_BYTES_MAX: usize = 64;
/// Longest request to the coordinator over the link, and longest reply, in bytes.
pub const LINK_MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of a link that may be under way without an answer: at 1 ms to and fro a gigabyte a second,
/// and a beat is no further behind.
pub const LINK_WINDOW_BYTES: u32 = 1024 * 1024;
/// Links that may be opened by others at a time and are not taken yet.
pub const LINK_HANDSHAKES_MAX: usize = 64;
/// Longest wait for another process to take a link that this one opens.
pub const LINK_CONNECT_MAX: Duration = Duration::from_secs(2);
/// Longest wait for the next step of whoever opens one.
pub const LINK_ACCEPT_MAX: Duration = Duration::from_secs(3);
/// A link on which nothing arrives for so long is cut by the transport. Beats find out long before.
pub const LINK_IDLE_MAX: Duration = Duration::from_secs(10);
/// How often the transport makes sure that something arrives.
pub const LINK_KEEP_ALIVE: Duration = Duration::from_secs(2);
/// The side of a link that is told nothing for so long cuts it: beats come several times a second.
pub const LINK_SILENCE_MAX: Duration = Duration::from_secs(10);
/// So does the one whose frame is not taken for so long.
pub const LINK_STALL_MAX: Duration = Duration::from_secs(10);
/// Calls of one follower that the leader may have under way: those of members that wait for a
/// rebalance stay for minutes.
pub const LINK_CALLS_MAX: usize = 65_536;
/// What those requests may have in bytes together, when they come in.
pub const LINK_CALLS_BYTES_MAX: usize = GROUPS_BYTES_MAX;
/// Requests or replies that wait to be sent over one link, short refusals among them. A link whose
/// other side reads too few of them for what it asks is cut.
pub const LINK_QUEUE_MAX: usize = 2 * LINK_CALLS_MAX;
/// Those in bytes, without the refusals.
pub const LINK_QUEUE_BYTES_MAX: usize = 2 * LINK_MESSAGE_BYTES_MAX;
/// Of the journal, so many bytes go to a standby before it has said what came: fewer than a link
/// holds, so that a beat behind them is in time over one that is slow or long.
pub const STANDBY_AHEAD_BYTES_MAX: usize = 2 * LINK_PART_BYTES_MAX;
/// Links that others have open to one process.
pub const LINKS_MAX: usize = 1024;
/// Other processes whose links have figures of their own.
pub const LINK_PEERS_SHOWN_MAX: usize = 100;
/// Links that one host may be opening at a time.
pub const LINK_HANDSHAKES_PER_HOST_MAX: usize = LINK_HANDSHAKES_MAX / 2;
/// Those that find no place, and are told so, at a time.
pub const LINK_TURNED_AWAY_MAX: usize = 16;
/// Links that one other process may have open: one to its leader, and others that it closes soon.
pub const LINKS_PER_PEER_MAX: usize = 8;
/// Cards of other processes that are remembered, and processes that are asked for the leader.
pub const LINK_CARDS_MAX: usize = 1024;
/// How long a card is remembered. It never changes, but its process may be forgotten.
pub const LINK_CARD_LASTS: Duration = Duration::from_secs(60);
/// How long it is remembered that there is none.
pub const LINK_CARD_ABSENT_LASTS: Duration = Duration::from_secs(1);
/// How often the bucket is asked for cards of processes that open links.
pub const LINK_LOOKUPS_PER_SECOND: u32 = 50;
/// Longest wait for what another process says of the leader, or the bucket of other processes.
pub const LINK_ASK_MAX: Duration = Duration::from_secs(1);
/// Processes that are asked at a time.
pub const LINK_ASKED_AT_ONCE: usize = 64;
/// Longest wait for an answer of a process that may be dead.
pub const LINK_PROBE_MAX: Duration = Duration::from_millis(300);
/// The longest thing that is put together from such parts, in bytes: a slot of the journal, or the
/// picture of a cluster of a million partitions.
pub const LINK_PARTS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What such a picture may take in memory, in bytes.
pub const IMAGE_MEMORY_BYTES_MAX: usize = 1024 * 1024 * 1024;
