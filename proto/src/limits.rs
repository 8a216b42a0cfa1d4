//! Every limit of the product, with the relations between them checked at compile time.
//!
//! A limit that a user may set has its default here and its name in the configuration; a limit
//! that only protects the process stands here alone.

/// Largest request frame a Kafka client may send, without the 4 bytes of its length
/// (`socket.request.max.bytes`).
pub const REQUEST_BYTES_MAX: usize = 100 * 1024 * 1024;
/// What decoding a request may allocate, in bytes per byte of its frame: a list of names of ten
/// characters takes four.
pub const DECODE_EXPANSION_MAX: usize = 8;
/// What decoding any request may allocate beyond that, in bytes.
pub const DECODE_BYTES_FLOOR: usize = 64 * 1024;
/// Tagged fields a structure on the wire may have; Kafka's have up to four.
pub const TAGGED_FIELDS_MAX: usize = 64;
/// Largest tagged field that is skipped because nobody here knows it.
pub const TAGGED_FIELD_BYTES_MAX: usize = 64 * 1024;
/// Default of `max.message.bytes`: the largest record batch a topic takes, as stored.
pub const MESSAGE_BYTES_DEFAULT: usize = 1_048_588;
/// Largest `max.message.bytes` that a topic may be given.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A WAL object of this size is put at once. A batch that is larger gets an object of its own.
pub const SLOT_BYTES_TARGET: usize = 8 * 1024 * 1024;
/// Slots of one stream that may be in flight at a time.
pub const SLOTS_IN_FLIGHT_MAX: usize = 8;
/// How far ahead of the first free slot a sealer puts its wall against a writer that outruns it.
pub const WALL_DISTANCE: u64 = 64;
/// A checkpoint is due after this many slots without one, so that a fold reads hundreds of slots.
pub const CHECKPOINT_SLOTS: u64 = 256;

/// Fetch sessions of one broker (`max.incremental.fetch.session.cache.slots`).
pub const FETCH_SESSIONS_MAX: usize = 1000;
/// Partitions in all fetch sessions of one broker together.
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 200_000;

const _: () = assert!(MESSAGE_BYTES_DEFAULT <= MESSAGE_BYTES_MAX);
const _: () = assert!(
    MESSAGE_BYTES_MAX < REQUEST_BYTES_MAX,
    "a legal batch must fit a request"
);
const _: () = assert!(
    WALL_DISTANCE > SLOTS_IN_FLIGHT_MAX as u64,
    "a wall must stand beyond everything a writer has in flight"
);
