//! Limits of the way to a leader, and of what it rests on.

use std::time::Duration;

/// Longest wait for who made the newest claim: two LISTs and a GET, each of which may take as long as
/// a look.
pub const CLAIM_LOOK_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a link to the leader.
pub const FOLLOW_WAIT_MAX: Duration = Duration::from_secs(2);
/// Longest wait for what all other processes have heard, each of which is waited for less long.
pub const ASK_WAIT_MAX: Duration = Duration::from_secs(10);
/// How soon a process without a leader tries again, at first and at last. Somewhat earlier each time,
/// lest several do so at once.
pub const ELECTION_RETRY_MIN: Duration = Duration::from_millis(200);
/// See [`ELECTION_RETRY_MIN`].
pub const ELECTION_RETRY_MAX: Duration = Duration::from_millis(500);
/// And at last if others hear a leader that this process cannot link to: three requests to the bucket
/// each time find out nothing new.
pub const ELECTION_RETRY_LED_MAX: Duration = Duration::from_secs(5);
/// How often it looks meanwhile whether the process that it waits for is gone.
pub const ELECTION_GONE_LOOK: Duration = Duration::from_millis(100);
/// After so long without a leader half of the processes may elect one: of two, the other may have
/// been taken off the network with its machine.
pub const ELECTION_TIE_WAIT: Duration = Duration::from_secs(10);
/// After so long without a leader, and as long as a leader waits for a silent broker, a process whose
/// card lies in the bucket elects one with however few: a leader would have deleted the card.
pub const ELECTION_LONE_WAIT: Duration = Duration::from_secs(180);
/// How soon after a take-over a leader looks for cards in the bucket that no broker has, and looks
/// again: it deletes those that it finds twice and whose processes are gone, or answer neither time.
pub const CARD_SWEEP_SOON: Duration = Duration::from_secs(20);
/// Then it looks once in so many times as long. On S3 1,440 LISTs a day, which cost 0.007 dollars.
pub const CARD_SWEEPS_APART: u32 = 3;
/// A leader whose loop has not come round for so long is not heard, and its word that it leads counts
/// no more.
pub const LEADER_STALL_MAX: Duration = Duration::from_secs(3);
/// A leader's loop takes messages for so long at most before it comes round: one that has much to do
/// is not stuck.
pub const LEADER_TURN_MAX: Duration = Duration::from_millis(100);
/// A process that claimed an epoch is waited for while it reads the journal, but no longer than this
/// for each thing that it reads: how many they are depends on the journal, and only one that the
/// bucket does not serve stands still.
pub const TAKE_OVER_STEP_MAX: Duration = Duration::from_secs(10);
/// With each claim that came to nothing in one election it is twice as long, so many times at most.
pub const TAKE_OVER_DOUBLED_MAX: u32 = 5;
/// Claims before the own that are looked into, in order to serve without waiting for a read lease.
pub const PREDECESSORS_MAX: usize = 8;
