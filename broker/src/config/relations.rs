//! Which limits must fit which, in one table. Pure.

/// `low`, taken `times`, must fit `high`.
pub(super) struct Relation {
    /// The key of what must fit.
    pub(super) low: &'static str,
    times: u64,
    /// Whether there must be room left.
    is_strict: bool,
    /// The key of what it must fit.
    pub(super) high: &'static str,
    /// How `high` must stand to `low`, in words.
    pub(super) words: &'static str,
    /// What goes wrong otherwise.
    pub(super) why: &'static str,
}

/// All of them.
pub(super) const ALL: [Relation; 6] = [
    Relation {
        low: "message.max.bytes",
        times: 1,
        is_strict: true,
        high: "socket.request.max.bytes",
        words: "more than",
        why: "a legal batch must fit a request",
    },
    Relation {
        low: "socket.request.max.bytes",
        times: 2,
        is_strict: false,
        high: "queued.max.produce.bytes",
        words: "at least twice",
        why: "the largest request must fit beside short ones",
    },
    Relation {
        low: "queued.max.produce.bytes",
        times: 1,
        is_strict: false,
        high: "wal.memory.bytes",
        words: "at least",
        why: "what is taken from clients must fit the wal, which shares it out fairly",
    },
    Relation {
        low: "fetch.max.bytes",
        times: 3,
        is_strict: false,
        high: "queued.max.fetch.bytes",
        words: "at least three times",
        why: "the largest answer must fit beside short ones and requests that wait",
    },
    Relation {
        low: "group.consumer.heartbeat.interval.ms",
        times: 2,
        is_strict: false,
        high: "group.consumer.session.timeout.ms",
        words: "at least twice",
        why: "a member whose heartbeat was lost once must not be out",
    },
    Relation {
        low: "group.min.session.timeout.ms",
        times: 1,
        is_strict: false,
        high: "group.max.session.timeout.ms",
        words: "at least",
        why: "a session timeout must be able to lie between them",
    },
];

impl Relation {
    /// What to set if `low` does not fit `high`.
    pub(super) fn remedy(&self, low: u64, high: u64) -> Option<(&Self, String)> {
        let room = u64::from(self.is_strict);
        let least = low.saturating_mul(self.times).saturating_add(room);
        let most = high.saturating_sub(room) / self.times;
        (high < least).then(|| {
            let remedy = format!(
                "set {} to {most} or less, or {} to {least} or more",
                self.low, self.high
            );
            (self, remedy)
        })
    }
}
