//! Every limit of the product, with the relations between them checked at compile time.
//!
//! What a user may set has its default beside its key in the configuration, and here what it must
//! at least or at most be; a limit that only protects the process stands here alone.

mod election;
mod link;
mod looks;

use std::time::Duration;

pub use election::*;
pub use link::*;
pub use looks::*;

/// Largest request frame a Kafka client may send, without the 4 bytes of its length
/// (`socket.request.max.bytes`).
pub const REQUEST_BYTES_MAX: usize = 100 * 1024 * 1024;
/// What decoding a request may allocate, in bytes per byte of its frame: a list of names of ten
/// characters takes four.
pub const DECODE_EXPANSION_MAX: usize = 8;
/// What decoding any request may allocate beyond that, in bytes.
pub const DECODE_BYTES_FLOOR: usize = 64 * 1024;
/// What decoding a request may allocate at most, in bytes, however long its frame is: only Produce
/// has long frames, and its records are not copied.
pub const DECODE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Largest frame of a request other than Produce: the assignments of a whole group and the names
/// around them.
pub const OTHER_REQUEST_BYTES_MAX: usize = 20 * 1024 * 1024;
/// A request other than Produce whose frame, with its length, is no larger is a small one: memory
/// is set aside for those, so that none of them waits for a large one.
pub const SMALL_REQUEST_BYTES: usize = 8 * 1024;
/// The part of the memory of requests other than Produce that is set aside for small ones.
pub const SMALL_REQUESTS_PART: usize = 8;
/// The part of it that is set aside for what waits for the journal: commits, and what looks at or
/// changes groups and topics.
pub const JOURNAL_REQUESTS_PART: usize = 8;
/// One of those whose frame is longer, tens of thousands of partitions, has none of that part.
pub const JOURNAL_REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of requests that one connection may read ahead while an earlier one has no answer. Produce
/// is not among them: it is started when it is read.
pub const READ_AHEAD_REQUEST_BYTES: usize = 1024;
/// What a group request keeps while it waits for a rebalance or for the journal, in bytes, besides
/// the ids it answers with.
pub const PARKED_REQUEST_BYTES: usize = 512;
/// Least memory of all requests other than Produce (`queued.max.request.bytes`).
pub const REQUESTS_BYTES_MIN: usize = 96 * 1024 * 1024;
/// Tagged fields a structure on the wire may have; Kafka's have up to four.
pub const TAGGED_FIELDS_MAX: usize = 64;
/// Largest tagged field that is skipped because nobody here knows it.
pub const TAGGED_FIELD_BYTES_MAX: usize = 64 * 1024;
/// What is kept of all Produce requests together, besides their batches, until they are answered:
/// those of a hundred thousand producers that send one batch each.
pub const PENDING_PRODUCE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Requests of one Kafka connection that may wait for their answers; no more are read until some
/// have been written.
pub const PENDING_REPLIES_MAX: usize = 128;
/// Lines a second about connections that ended badly: a hostile peer must not decide how much is
/// logged.
pub const CONNECTION_LINES_MAX: u32 = 20;
/// Default of `max.message.bytes`: the largest record batch a topic takes, as stored.
pub const MESSAGE_BYTES_DEFAULT: usize = 1_048_588;
/// Largest `max.message.bytes` that a topic may be given.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes that the records of one batch may have once decompressed, wherever they are decompressed.
/// Kafka's clients compress what fits their `batch.size`, so that real batches stay far below.
pub const BATCH_PLAIN_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Memory of all batches that are being decompressed, in bytes.
pub const DECODING_BYTES_MAX: usize = BATCH_PLAIN_BYTES_MAX;
/// What a batch is expected to decompress into at most, in bytes per byte stored; one that needs
/// more is decompressed alone.
pub const DECODING_EXPANSION: usize = 8;
/// What any batch may be expected to decompress into, in bytes.
pub const DECODING_BYTES_FLOOR: usize = 256 * 1024;
/// Least bytes of a record: its length, attributes, two deltas, two lengths and a count.
pub const RECORD_BYTES_MIN: usize = 7;

/// Producers with state that one partition remembers. One more pushes out the one that has not
/// written for longest, whose next batch is then taken whatever its sequence number (KIP-360); it
/// is refused for now if that one wrote within [`PRODUCER_RETRY_WINDOW`].
pub const PRODUCERS_PER_PARTITION_MAX: usize = 5000;
/// What a producer that a partition remembers takes, in bytes, rounded up.
pub const PRODUCER_BYTES: usize = 256;
/// How long a client may take to send a batch again: Kafka's `delivery.timeout.ms`, two minutes,
/// and then some. Within it no producer is forgotten for want of room, nor what was refused.
pub const PRODUCER_RETRY_WINDOW: Duration = Duration::from_secs(180);
/// Least of the bytes for the producers of all partitions (`producer.memory.bytes`).
pub const PRODUCER_MEMORY_BYTES_MIN: usize = 4 * 1024 * 1024;
/// Batches that a partition remembers of each producer, Kafka's
/// `max.in.flight.requests.per.connection` for idempotent producers.
pub const PRODUCER_BATCHES_KEPT: usize = 5;
/// Repeats of one batch in flight that wait for it: a client repeats a batch when it has given up
/// its last request, so that few of them are waited for.
pub const BATCH_REPEATS_MAX: usize = 32;
/// Refused batches that one broker remembers of idempotent producers of which it knows nothing.
pub const REFUSALS_UNKNOWN_MAX: usize = 10_000;
/// And of those that it knows, but may have forgotten when they send the batch again.
pub const REFUSALS_KNOWN_MAX: usize = 10_000;

/// A WAL object of this size is put at once. A batch that is larger gets an object of its own.
pub const SLOT_BYTES_TARGET: usize = 8 * 1024 * 1024;
/// On a local disk a busy buffer waits for this many bytes: half a millisecond of CPU for the
/// fsyncs of a slot is then small beside what its bytes cost.
pub const WAL_GATHER_BYTES: usize = 1024 * 1024;
/// But no longer than this.
pub const WAL_GATHER_TIME: Duration = Duration::from_millis(10);
/// It is busy when this many bytes come in a second.
pub const WAL_GATHER_BYTES_PER_SECOND_LEAST: usize = 25 * 1024 * 1024;
/// Slots of one stream that may be in flight at a time.
pub const SLOTS_IN_FLIGHT_MAX: usize = 8;
/// Appends to the journal that may wait for a slot; the coordinator batches before that.
pub const JOURNAL_APPENDS_MAX: usize = 64;
/// How far ahead of the first free slot a sealer puts its wall against a writer that outruns it.
pub const WALL_DISTANCE: u64 = 64;
/// Runs of a partition in a page of its table: about 6 KB that are written to the bucket once. Less
/// than that is written again with every state row of the partition.
pub const RUNS_PER_PAGE: u32 = 512;
/// A checkpoint is due after this many slots without one, so that a fold reads hundreds of slots.
pub const CHECKPOINT_SLOTS: u64 = 256;
/// A checkpoint waits until this many times its own bytes were put since the last, so that state
/// rows stay a small part of what is written,
pub const CHECKPOINT_BYTES_RATIO: u64 = 4;
/// but no longer than this many slots: a fold reads their indexes with 32 ranged GETs at a time,
/// which at S3's 30 to 100 ms each takes half a second to two, and costs 0.0002 dollars.
pub const CHECKPOINT_SLOTS_MAX: u64 = 512;
/// A state row is written again after this many checkpoints at the latest, changed or not: a start
/// reads one object for each checkpoint that holds the last row of a partition.
pub const CHECKPOINT_AGE_MAX: usize = 64;
/// Partitions whose rows every checkpoint holds in turn, changed or not, at least.
pub const CHECKPOINT_IN_TURN: usize = 256;

/// Objects are cached in aligned blocks of this size, in bytes.
pub const CACHE_BLOCK_BYTES: usize = 256 * 1024;
/// Largest range that one GET takes for a consumer, in bytes.
pub const COLD_GET_BYTES_MAX: usize = 4 * 1024 * 1024;
/// GETs for consumers in flight at a time, so that cold reads hold bounded memory.
pub const COLD_GETS_MAX: usize = 8;
/// Memory of reads that take runs from objects, until their answers are made, in bytes.
pub const COLD_READ_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Look-ups of offsets by time that read records side by side.
pub const SEARCHES_MAX: usize = 4;
/// Runs that one read takes from objects.
pub const READ_RUNS_MAX: usize = 64;
/// Bytes behind what a sequential reader asked for that are fetched ahead of it.
pub const READ_AHEAD_BYTES: usize = 1024 * 1024;
/// Places at which sequential readers stopped inside a run that are remembered.
pub const READ_CURSORS_MAX: usize = 16 * 1024;

/// Memory of GETs that take a whole row group of a segment each, in bytes: seven of the usual size,
/// or one that is larger.
pub const RANGE_GETS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Row groups that were fetched ahead of sequential readers and not asked for yet, in bytes.
pub const RANGES_AHEAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Memory that long reads of a local bucket have filled, that nobody looks at any more and that is
/// kept for the next ones, in bytes: a row group each of some partitions that are read side by side.
pub const FILE_BUFFERS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest read into such memory, in bytes.
pub const FILE_BUFFER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Lengths of it are multiples of this, in bytes, so that reads of about the same length share it,
pub const FILE_BUFFER_GRAIN_BYTES: usize = 64 * 1024;
/// and from this length on
pub const FILE_BUFFER_LONG_BYTES: usize = 2 * 1024 * 1024;
/// multiples of this.
pub const FILE_BUFFER_LONG_GRAIN_BYTES: usize = 256 * 1024;
/// A read takes memory that is longer than it needs by this part of that at most: whoever keeps the
/// bytes counts those alone.
pub const FILE_BUFFER_SLACK_PART: usize = 4;
/// Memory of row groups that are open: being read, or kept for the next fetch of a sequential
/// reader, in bytes.
pub const OPEN_ROW_GROUPS_BYTES_MAX: usize = 128 * 1024 * 1024;
/// How many may be open.
pub const OPEN_ROW_GROUPS_MAX: usize = 64;
/// What an open row group takes besides its own bytes, in bytes: a page of each column, a batch, and
/// the batches that were made last. One that takes more is kept only while there is memory for it.
pub const OPEN_ROW_GROUP_WORK_BYTES: usize = 6 * 1024 * 1024;
/// Batches that were made last of an open row group and are kept for readers that follow close
/// behind, in bytes.
pub const REBUILT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What the row groups that are being decoded hold, uncompressed, in bytes: no more threads do it
/// side by side than leave the others to producers and to consumers at the tail.
pub const ROW_GROUP_DECODING_BYTES_MAX: usize =
    ROW_GROUP_DECODERS_MAX * 3 * ROW_GROUP_PLAIN_BYTES_TARGET / 2;
/// How many are decoded side by side at most.
pub const ROW_GROUP_DECODERS_MAX: usize = 2;
/// Partitions of which a broker remembers a stretch of the segment map, [`FOUND_RUNS_MAX`] runs at
/// most, of about a kilobyte each.
pub const MAP_PARTITIONS_KNOWN_MAX: usize = 1024;
/// Map pages whose runs leave the map in one command, so that it stays far below the longest.
pub const RELEASED_PAGES_MAX: usize = 16;
/// Requests that move log starts at a time: what is begun is done, though its client may have gone.
pub const LOG_START_REQUESTS_MAX: usize = 64;
/// Partitions whose log starts move in one command.
pub const LOG_STARTS_MOVED_MAX: usize = 1000;
/// Retention looks at the runs of so many bytes of a partition's WAL at a time.
pub const RETENTION_LOOK_BYTES: usize = 64 * 1024 * 1024;

/// A row group of a segment is closed when its columns or its batch table have about this many
/// bytes: what one ranged GET of a cold reader takes.
pub const ROW_GROUP_BYTES_TARGET: usize = 8 * 1024 * 1024;
/// Or when its batches have this many, uncompressed,
pub const ROW_GROUP_PLAIN_BYTES_TARGET: usize = 32 * 1024 * 1024;
/// or this many records.
pub const ROW_GROUP_RECORDS_TARGET: usize = 256 * 1024;
/// Most records that a row group has: the last of its batches may be of any size.
pub const ROW_GROUP_RECORDS_MAX: usize =
    ROW_GROUP_RECORDS_TARGET + BATCH_PLAIN_BYTES_MAX / RECORD_BYTES_MIN;
/// Row groups of one segment: each takes about a kilobyte of the footer.
pub const SEGMENT_ROW_GROUPS_MAX: usize = 4096;
/// A page of a column in a segment is closed when it has this many bytes, uncompressed.
pub const SEGMENT_PAGE_BYTES_TARGET: usize = 128 * 1024;
/// The values of a row group are stored as they are if zstd leaves more of their first page than
/// this, in percent: then compressing and decompressing them costs CPU for little.
pub const SEGMENT_SHRUNK_PERCENT_MAX: usize = 90;
/// A first page that is shorter says nothing, and is compressed.
pub const SEGMENT_SAMPLE_BYTES_MIN: usize = 16 * 1024;
/// A column has no dictionary any more when it would be larger than this.
pub const SEGMENT_DICTIONARY_BYTES: usize = 256 * 1024;
/// Largest page of a segment that is read, uncompressed: it may hold one value of any length.
pub const SEGMENT_PAGE_BYTES_MAX: usize = BATCH_PLAIN_BYTES_MAX + 4 * 1024 * 1024;
/// Largest batch table that is read, uncompressed: if all records of a batch must be kept verbatim,
/// each with its place and timestamp, it takes less than three times their bytes.
pub const BATCH_TABLE_BYTES_MAX: usize = ROW_GROUP_BYTES_TARGET + 3 * BATCH_PLAIN_BYTES_MAX;

/// Runs of a partition in a page of the segment map, which is read with one GET: with a row group
/// each about 20 KB.
pub const MAP_PAGE_RUNS: u32 = 512;
/// Largest page of the segment map: its runs have thousands of row groups each.
pub const MAP_PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What decoding a page may allocate, in bytes.
pub const MAP_PAGE_DECODED_BYTES_MAX: usize = 8 * MAP_PAGE_BYTES_MAX;
/// The oldest runs of a partition go into a page when more than this many are in the coordinator's
/// memory, where each takes about 200 bytes.
pub const MAP_RUNS_IN_MEMORY: u32 = 768;
/// Runs that one answer about the segment map holds.
pub const FOUND_RUNS_MAX: usize = 64;
/// Runs, row groups, log starts and things deleted that one request about the archive names.
pub const ARCHIVE_REQUEST_ITEMS_MAX: usize = 100_000;
/// What each of them takes in memory, in bytes, rounded up.
pub const ARCHIVE_REQUEST_ITEM_BYTES: usize = 256;
/// Entries of the delete queue, or streams, that one answer lists: as many as S3 deletes with one
/// request.
pub const GARBAGE_LISTED_MAX: usize = 1000;
/// Ended incarnations that one answer lists: each may have many files.
pub const ENDED_WRITERS_LISTED_MAX: usize = 16;

/// The archiver ends a segment that has about this many bytes: enough for few objects, little
/// enough to be held in memory until it lies in the bucket, where one PUT takes it.
pub const ARCHIVE_SEGMENT_BYTES_TARGET: usize = 128 * 1024 * 1024;
/// Bytes of batches that one step of the archiver reads; a larger batch comes alone.
pub const ARCHIVE_READ_BYTES: usize = COLD_GET_BYTES_MAX;
/// Bytes of batches that were read and not encoded yet; a larger batch waits until it is alone.
pub const ARCHIVE_FED_BYTES_MAX: usize = 2 * ARCHIVE_READ_BYTES;
/// GETs of WAL objects by the archiver in flight at a time, beside those for consumers.
pub const ARCHIVE_GETS_MAX: usize = 4;
/// Row groups that lie side by side are read back in one GET of up to so many bytes.
pub const ARCHIVE_READ_BACK_BYTES: usize = ROW_GROUP_BYTES_TARGET;
/// Attempts to put a segment before it is given up for now: with their pauses they take about 20
/// seconds on a store that refuses at once.
pub const ARCHIVE_PUTS_MAX: u32 = 8;
/// How often a stretch of a segment is read back that is not what was written: what was damaged on
/// the way is whole the second time.
pub const ARCHIVE_READ_BACKS_MAX: u32 = 2;

/// A topic is archived when so many bytes of its records are in no segment, however soon.
pub const ARCHIVE_DUE_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of records that may go into one segment: what is compressed again may become smaller.
pub const ARCHIVE_INPUT_BYTES_MAX: usize = 8 * ARCHIVE_SEGMENT_BYTES_TARGET;
/// Runs of WAL slots that may go into one segment: their places are held in memory.
pub const ARCHIVE_INPUT_RUNS_MAX: usize = 100_000;
/// Requests to archive now that wait for the archiver.
pub const ARCHIVE_FLUSHES_MAX: usize = 64;
/// Segments in a row that the coordinator may refuse, since the partitions had moved on meanwhile,
/// before their topic waits.
pub const ARCHIVE_REFUSALS_MAX: u32 = 3;
/// Shortest pause of a topic that could not be archived, or of all while the bucket refuses; each
/// further one is twice as long,
pub const ARCHIVE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// up to this.
pub const ARCHIVE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often the archiver looks whether something is due.
pub const ARCHIVE_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long `firn archive status` waits for what the journal holds.
pub const ARCHIVE_STATUS_MAX: Duration = Duration::from_secs(3);
/// How long a stop waits until a segment that is being written is abandoned: else the next start
/// collects it.
pub const ARCHIVE_STOP_MAX: Duration = Duration::from_secs(5);

/// Size of a segment of the local WAL, reserved on the disk before it is used.
pub const LOCAL_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Segments of the local WAL that are kept in quarantine; beyond them the oldest goes, unless the
/// present start has put it there: it may be what the operator was told of a moment ago.
pub const LOCAL_QUARANTINE_SEGMENTS_MAX: usize = 16;
/// Least of the bytes that may be in the WAL and not durable (`wal.memory.bytes`): producers wait
/// when they are reached.
pub const WAL_MEMORY_BYTES_MIN: usize = 2 * MESSAGE_BYTES_MAX;
/// Batches below this are copied out of the socket buffer they came in, which they would pin.
pub const TINY_BATCH_BYTES: usize = 4096;
/// Default of `wal.puts.per.second` on `s3://`.
pub const WAL_PUTS_PER_SECOND_DEFAULT: u32 = 10;

/// Least time that a Produce waits until its batches are durable, whatever the client asks for
/// (`timeout_ms`): a broker whose disk is at hand needs none, a bucket is asked over a network.
pub const PRODUCE_WAIT_MIN: Duration = Duration::from_secs(1);
/// How long the answer to a Produce, or the batch, waits for a partition that is on its way from one
/// broker to another.
pub const PRODUCE_HELD_MAX: Duration = Duration::from_secs(1);
/// Batches that wait for partitions that come.
pub const PRODUCES_HELD_MAX: usize = 128;
/// Longest wait of a Fetch for records, whatever the client asks for (`fetch.max.wait.ms`).
pub const FETCH_WAIT_MAX: Duration = Duration::from_secs(60);
/// What a Fetch that waits keeps of each partition it asks for, in bytes.
pub const FETCH_PARTITION_BYTES: usize = 512;
/// The part of the memory of Fetch that is for requests until they have their answers.
pub const FETCH_ASKING_PART: usize = 8;
/// The part of it that is for those of them that wait for records.
pub const FETCH_PARKED_PART: usize = 8;
/// A Fetch that finds no memory to be parked is answered without records after this long: it comes
/// again, but not in a tight loop.
pub const FETCH_CROWDED_WAIT: Duration = Duration::from_millis(100);
/// So is one that finds that nothing may be read from this process, after this long: the picture of
/// the cluster names no other leader, and some clients ask again at once.
pub const FETCH_REFUSED_WAIT: Duration = Duration::from_millis(500);
/// Fetch sessions of one broker (`max.incremental.fetch.session.cache.slots`).
pub const FETCH_SESSIONS_MAX: usize = 1000;
/// What all fetch sessions of one broker may take together, in bytes.
pub const FETCH_SESSIONS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a fetch session takes for one partition besides the name of its topic, in bytes.
pub const FETCH_SESSION_ENTRY_BYTES: usize = 192;

/// Longest command in the journal, in bytes.
pub const JOURNAL_COMMAND_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A journal slot of this size is put without waiting for more.
pub const JOURNAL_SLOT_BYTES_TARGET: usize = 1024 * 1024;
/// The journal since the last snapshot may always grow to this size before the next one, in bytes.
pub const JOURNAL_SNAPSHOT_BYTES_MIN: usize = 1024 * 1024;
/// And to so many slots: whoever takes over reads each of them with a request of its own, a few
/// rounds of them until nobody leads.
pub const JOURNAL_SNAPSHOT_SLOTS_MIN: u64 = 256;
/// A snapshot that is large is put less often: reading a slot takes about as long as reading so many
/// bytes of it.
pub const JOURNAL_SNAPSHOT_BYTES_PER_SLOT: u64 = 64 * 1024;
/// Slots of the journal that are read at a time.
pub const JOURNAL_READS_MAX: usize = 64;
/// Streams of earlier epochs that are read at a time.
pub const JOURNAL_STREAMS_READ_MAX: usize = 8;
/// The state of a cluster goes to standbys if its snapshot is no longer than this, in bytes. They read
/// a longer one from the bucket when they take over.
pub const STANDBY_STATE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a standby has been sent of the state and of slots since, in bytes, before it asks for the state
/// anew: what that takes in memory can be told from its snapshot alone.
pub const STANDBY_BYTES_MAX: usize = 2 * STANDBY_STATE_BYTES_MAX;
/// Slots of the journal that a leader keeps for standbys, in bytes: one that is further behind gets
/// the state again.
pub const STANDBY_LOG_BYTES_MAX: usize = 8 * 1024 * 1024;
/// But no sooner than this after the last time.
pub const STANDBY_STATE_PAUSE: Duration = Duration::from_secs(10);
/// Largest snapshot of the cluster's state that is read back, in bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 2 * 1024 * 1024 * 1024;
/// It is read in pieces of so many, so that whoever takes over can say that it gets on.
pub const SNAPSHOT_PIECE_BYTES: u64 = 16 * 1024 * 1024;
/// How often a leader looks for a claim to a later epoch. On S3 1,440 GETs an hour, which cost
/// 0.0006 dollars; an idle cluster may make one request a second.
pub const FENCE_LOOK_INTERVAL: Duration = Duration::from_millis(2500);
/// How soon it looks again after one that the bucket did not answer, so that reads end late and go on
/// early.
pub const FENCE_LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How soon it looks again if somebody waits for it.
pub const FENCE_LOOK_PAUSE: Duration = Duration::from_millis(500);
/// A look that takes longer has no answer. The read lease counts from its sending and may be over by
/// then: a look that is late and finds nobody shows all the same that its leader was alone when it was
/// sent, to whoever had asked by then, and that the bucket answers.
pub const FENCE_LOOK_MAX: Duration = Duration::from_millis(2400);
/// Nothing is read from a process that has not heard for so long that its leader is the only one,
/// counted from when that sent the look: it has stood still or is cut off, and another may lead by
/// now. A leader that has not heard it for so long makes room for another. Sessions of brokers and of
/// group members are longer: whoever is heard here last is alive there.
pub const FENCE_LOOK_LASTS: Duration = Duration::from_secs(5);
/// The read lease: for so long after the sending of a look that found no later epoch a leader answers
/// from memory, and for so long its successor does not answer at all.
pub const COORDINATOR_READ_LEASE: Duration = Duration::from_millis(1500);
/// What a process says of itself in the bucket, in bytes.
pub const PROCESS_CARD_BYTES_MAX: usize = 64 * 1024;
/// How often processes tell each other that they live.
pub const BEAT_INTERVAL: Duration = Duration::from_millis(200);
/// A process that is silent for so long is looked after.
pub const BEAT_SILENCE: Duration = Duration::from_millis(600);
/// Least time after which a silent broker is taken for dead that nobody could prove to be
/// (`broker.session.timeout.ms`), and the default.
pub const BROKER_SESSION_TIMEOUT_MIN: Duration = Duration::from_secs(6);
/// Beats that are kept until the leader's loop sees to them, of as many brokers.
pub const BEATS_KEPT_MAX: usize = 10_000;
/// How long a call waits for the next leader while there is none.
pub const LEADER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Calls that one process forwards to the leader at a time. Members that join a group wait in one
/// each.
pub const FORWARDED_CALLS_MAX: usize = 50_000;
/// Partitions that are on their way to other owners at a time.
pub const MOVES_MAX: usize = 100;
/// How often the leader looks whether partitions should move.
pub const BALANCE_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait of a reader for a look.
pub const FENCE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the journal of a request about topics, whatever the client asks for (`timeout_ms`).
pub const ADMIN_WAIT_MAX: Duration = Duration::from_secs(60);
/// What it waits beyond what the client asks for: a bucket is asked over a network.
pub const ADMIN_WAIT_SLACK: Duration = Duration::from_secs(1);
/// Longest wait for the journal of a producer that wants an id.
pub const PRODUCER_ID_WAIT_MAX: Duration = Duration::from_secs(5);
/// Requests that wait for the coordinator's loop.
pub const COORDINATOR_QUEUE_MAX: usize = 1024;
/// Requests whose answers wait for the journal, for a rebalance, or for an owner.
pub const COORDINATOR_PARKED_MAX: usize = 200_000;
/// Answers and commands that wait for the journal, in bytes; beyond them what would wait as well is
/// refused until it has moved.
pub const COORDINATOR_HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// From so many of them on reads of groups and their offsets are refused: a few bytes ask for much,
/// and who asks over and over must not keep members from joining and committing.
pub const COORDINATOR_HELD_READ_BYTES_MAX: usize = COORDINATOR_HELD_BYTES_MAX / 2;

/// Partitions of one topic.
pub const TOPIC_PARTITIONS_MAX: i32 = 100_000;
/// Partitions of the cluster.
pub const CLUSTER_PARTITIONS_MAX: usize = 1_000_000;
/// Longest wait of a Metadata for topics that it makes: it also tells of those that are there.
pub const CREATE_ON_DEMAND_WAIT_MAX: Duration = Duration::from_secs(3);
/// Topics that one CreateTopics may name: the answer shows every config of each.
pub const CREATE_TOPICS_MAX: usize = 5000;
/// Topics whose configs one request may change, as in Kafka.
pub const ALTERED_RESOURCES_MAX: usize = 10_000;
/// Wait for the journal of a request that changes configs, in milliseconds; it says none. Kafka's
/// clients wait 30 seconds (`request.timeout.ms`), and are to hear why nothing came of it.
pub const ALTER_CONFIGS_WAIT_MS: i32 = 20_000;
/// Configs of one topic, by number and by the bytes of their names and values.
pub const TOPIC_CONFIGS_MAX: usize = 256;
/// See [`TOPIC_CONFIGS_MAX`].
pub const TOPIC_CONFIG_BYTES_MAX: usize = 64 * 1024;
/// Producer ids that a broker gets at a time (Kafka's block size).
pub const PRODUCER_ID_BLOCK: i64 = 1000;

/// Longest id of a group, member, static member or client, in bytes.
pub const GROUP_ID_BYTES_MAX: usize = 8 * 1024;
/// Groups that one FindCoordinator may name: the answer has the broker's address for each.
pub const FIND_COORDINATOR_KEYS_MAX: usize = 10_000;
/// Groups of the cluster.
pub const GROUPS_MAX: usize = 100_000;
/// Members of one group, those that have not come back with their id included.
pub const GROUP_MEMBERS_MAX: usize = 10_000;
/// Protocols that one member may offer.
pub const GROUP_PROTOCOLS_MAX: usize = 64;
/// What one member may say in all its protocols, in bytes.
pub const GROUP_MEMBER_BYTES_MAX: usize = 1024 * 1024;
/// What all members of a group are and may say, and all their assignments, each in bytes.
pub const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What all groups and their members are and may say, and all assignments, together in bytes.
pub const GROUPS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What a group, a member or a promised member takes besides what it says, in bytes, rounded up.
pub const GROUP_ENTRY_BYTES: usize = 512;
/// What a partition takes in the assignment of a consumer group, in bytes, rounded up.
pub const GROUP_PARTITION_BYTES: usize = 64;
/// Longest regular expression of a member of a consumer group, in bytes.
pub const GROUP_REGEX_BYTES_MAX: usize = 4 * 1024;
/// Largest program of a regular expression, in bytes: with a name of a topic, which has 249 at most, it
/// takes some hundred thousand steps, and there may be thousands of topics.
pub const GROUP_REGEX_PROGRAM_BYTES_MAX: usize = 16 * 1024;
/// What is remembered while it is matched, in bytes, so that it takes fewer.
pub const GROUP_REGEX_MEMORY_BYTES_MAX: usize = 256 * 1024;
/// Topics that have come, gone or grown lately, which are matched without all others.
pub const GROUP_TOPIC_CHANGES_MAX: usize = 10_000;
/// Different regular expressions in one group: each is matched with every topic.
pub const GROUP_REGEXES_MAX: usize = 16;
/// All committed offsets of all groups together, in bytes.
pub const OFFSETS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What a committed offset takes besides its note, in bytes, rounded up.
pub const OFFSET_ENTRY_BYTES: usize = 128;
/// Longest note on a committed offset, in bytes (`offset.metadata.max.bytes`).
pub const OFFSET_METADATA_BYTES_MAX: usize = 4096;

/// What decoding a request may allocate, in bytes, beside its frame of `frame` bytes.
pub const fn decode_bytes(frame: usize) -> usize {
    let grown = frame
        .saturating_mul(DECODE_EXPANSION_MAX)
        .saturating_add(DECODE_BYTES_FLOOR);
    if grown < DECODE_BYTES_MAX {
        grown
    } else {
        DECODE_BYTES_MAX
    }
}

const _: () = assert!(
    OTHER_REQUEST_BYTES_MAX > GROUP_BYTES_MAX && OTHER_REQUEST_BYTES_MAX <= REQUEST_BYTES_MAX,
    "the assignments of a whole group must fit a request"
);
const _: () = assert!(
    OTHER_REQUEST_BYTES_MAX + decode_bytes(OTHER_REQUEST_BYTES_MAX)
        <= (REQUESTS_BYTES_MIN
            - REQUESTS_BYTES_MIN / SMALL_REQUESTS_PART
            - REQUESTS_BYTES_MIN / JOURNAL_REQUESTS_PART)
            / 2,
    "half of what is not set aside must hold the largest request, decoded"
);
const _: () = assert!(
    JOURNAL_REQUEST_BYTES_MAX + decode_bytes(JOURNAL_REQUEST_BYTES_MAX)
        <= REQUESTS_BYTES_MIN / JOURNAL_REQUESTS_PART,
    "what is set aside for what waits for the journal must hold the largest of it, decoded"
);
const _: () = assert!(
    10_000 * PARKED_REQUEST_BYTES + 8 * (SMALL_REQUEST_BYTES + decode_bytes(SMALL_REQUEST_BYTES))
        <= REQUESTS_BYTES_MIN / SMALL_REQUESTS_PART,
    "as many connections as there are by default may be parked, and small requests still come in"
);
const _: () = assert!(
    8 * (SMALL_REQUEST_BYTES + decode_bytes(SMALL_REQUEST_BYTES))
        <= REQUESTS_BYTES_MIN / SMALL_REQUESTS_PART,
    "many small requests must fit side by side"
);
const _: () = assert!(
    DECODE_BYTES_MAX <= PENDING_PRODUCE_BYTES_MAX / 2,
    "what is kept of Produce must hold the largest of them"
);
const _: () = assert!(
    3 * GROUP_BYTES_MAX < JOURNAL_COMMAND_BYTES_MAX,
    "a whole group must fit one journal command"
);
const _: () = assert!(
    // A partition that is the only one of its topic takes twenty bytes, in a target and where it is.
    GROUP_BYTES_MAX + 2 * CLUSTER_PARTITIONS_MAX * 20 < JOURNAL_COMMAND_BYTES_MAX,
    "what members of a consumer group say, their targets and what they own must fit one command"
);
const _: () = assert!(GROUP_MEMBER_BYTES_MAX <= GROUP_BYTES_MAX);
const _: () = assert!(2 * GROUP_BYTES_MAX <= GROUPS_BYTES_MAX);
const _: () = assert!(
    PRODUCE_HELD_MAX.as_millis() <= PRODUCE_WAIT_MIN.as_millis(),
    "nobody may wait longer for a partition that moves than for the bucket"
);
const _: () = assert!(
    2 * FENCE_LOOK_INTERVAL.as_millis() <= FENCE_LOOK_LASTS.as_millis()
        && (FENCE_LOOK_INTERVAL.as_millis() + FENCE_LOOK_MAX.as_millis()
            < FENCE_LOOK_LASTS.as_millis()),
    "reads must not wait for looks of a process that runs"
);
const _: () = assert!(
    FENCE_LOOK_LASTS.as_millis() < BROKER_SESSION_TIMEOUT_MIN.as_millis(),
    "nobody may read from a broker whose partitions have another owner"
);
const _: () = assert!(
    FENCE_LOOK_PAUSE.as_millis() < COORDINATOR_READ_LEASE.as_millis()
        && COORDINATOR_READ_LEASE.as_millis() < FENCE_LOOK_LASTS.as_millis()
);
const _: () = assert!(
    2 * BEAT_INTERVAL.as_millis() < BEAT_SILENCE.as_millis(),
    "one beat that is late is no silence"
);
const _: () = assert!(
    FENCE_LOOK_INTERVAL.as_millis() < LEADER_STALL_MAX.as_millis()
        && FENCE_LOOK_MAX.as_millis() < LEADER_STALL_MAX.as_millis()
        && LEADER_TURN_MAX.as_millis() < BEAT_INTERVAL.as_millis()
        && COORDINATOR_READ_LEASE.as_millis() < LEADER_STALL_MAX.as_millis()
        && BEAT_SILENCE.as_millis() < LEADER_STALL_MAX.as_millis(),
    "a loop that has nothing to do comes round often enough"
);
const _: () = assert!(
    ELECTION_GONE_LOOK.as_millis() < ELECTION_RETRY_MIN.as_millis()
        && ELECTION_RETRY_MIN.as_millis() <= ELECTION_RETRY_MAX.as_millis()
        && ELECTION_RETRY_MAX.as_millis() <= BEAT_SILENCE.as_millis()
        && ELECTION_RETRY_MAX.as_millis() < ELECTION_RETRY_LED_MAX.as_millis(),
    "a process must not wait for a leader that is long there"
);
const _: () = assert!(
    3 * FENCE_LOOK_MAX.as_millis() < CLAIM_LOOK_MAX.as_millis(),
    "a bucket that is slow but lets a leader lead must let one be elected"
);
const _: () = assert!(
    FENCE_LOOK_MAX.as_millis() < TAKE_OVER_STEP_MAX.as_millis(),
    "whoever takes over looks once before it says that it leads"
);
const _: () = assert!(
    JOURNAL_SNAPSHOT_SLOTS_MIN > SLOTS_IN_FLIGHT_MAX as u64
        && JOURNAL_SNAPSHOT_SLOTS_MIN <= 4 * JOURNAL_READS_MAX as u64,
    "a journal of small slots must be read in a few rounds"
);
const _: () = assert!(
    STANDBY_STATE_BYTES_MAX <= LINK_PARTS_BYTES_MAX
        && STANDBY_STATE_BYTES_MAX < STANDBY_BYTES_MAX
        && STANDBY_LOG_BYTES_MAX >= 4 * JOURNAL_SLOT_BYTES_TARGET
        && STANDBY_LOG_BYTES_MAX < STANDBY_BYTES_MAX - STANDBY_STATE_BYTES_MAX,
    "a standby must hold the longest state and the slots that come meanwhile"
);
const _: () = assert!(
    STANDBY_AHEAD_BYTES_MAX >= LINK_PART_BYTES_MAX
        && 4 * STANDBY_AHEAD_BYTES_MAX <= LINK_WINDOW_BYTES as usize,
    "beats must not wait for what standbys are sent"
);
const _: () = assert!(FORWARDED_CALLS_MAX <= COORDINATOR_PARKED_MAX);
const _: () = assert!(
    5 * LINK_ASK_MAX.as_millis() <= ASK_WAIT_MAX.as_millis(),
    "what others have heard must count though some of them do not answer"
);
const _: () = assert!(
    2 * CARD_SWEEPS_APART as u128 * CARD_SWEEP_SOON.as_millis() + ASK_WAIT_MAX.as_millis()
        < ELECTION_LONE_WAIT.as_millis()
        && 2 * CARD_SWEEP_SOON.as_millis()
            < CARD_SWEEPS_APART as u128 * CARD_SWEEP_SOON.as_millis()
        && ELECTION_TIE_WAIT.as_millis() < ELECTION_LONE_WAIT.as_millis(),
    "a leader has deleted the card of a process that it cannot reach before that process takes its \
     place"
);
const _: () = assert!(
    FENCE_LOOK_MAX.as_millis() < FENCE_WAIT_MAX.as_millis(),
    "a reader that waits for a look must hear what it says"
);
const _: () = assert!(JOURNAL_SLOT_BYTES_TARGET < JOURNAL_COMMAND_BYTES_MAX);
const _: () = assert!(
    LINK_PARTS_BYTES_MAX >= 2 * JOURNAL_COMMAND_BYTES_MAX
        && LINK_PARTS_BYTES_MAX <= IMAGE_MEMORY_BYTES_MAX,
    "the link must carry the longest slot of the journal"
);
const _: () = assert!(
    LINK_WINDOW_BYTES as usize >= 4 * LINK_FRAME_BYTES_MAX,
    "a frame must not wait for the answer to the one before it"
);
const _: () = assert!(
    LINK_CONNECT_MAX.as_millis() <= LINK_ACCEPT_MAX.as_millis()
        && LINK_ACCEPT_MAX.as_millis() < LINK_IDLE_MAX.as_millis()
        && 4 * LINK_KEEP_ALIVE.as_millis() <= LINK_IDLE_MAX.as_millis(),
    "a link that nothing is wrong with must not be cut"
);
const _: () = assert!(
    LINK_PROBE_MAX.as_millis() < LINK_ASK_MAX.as_millis()
        && LINK_ASK_MAX.as_millis() <= LINK_CONNECT_MAX.as_millis()
        && LINK_CARD_ABSENT_LASTS.as_millis() < LINK_CARD_LASTS.as_millis(),
    "who is asked in passing is not waited for as long as who is to be followed"
);
const _: () = assert!(
    LINK_CALLS_MAX >= GROUP_MEMBERS_MAX && LINK_CALLS_MAX <= COORDINATOR_PARKED_MAX,
    "all members of a group may wait through one link, and no link takes more than the coordinator"
);
const _: () = assert!(
    LINK_CALLS_BYTES_MAX >= LINK_MESSAGE_BYTES_MAX
        && LINK_QUEUE_BYTES_MAX >= LINK_MESSAGE_BYTES_MAX,
    "the longest request, and the longest reply, must fit"
);
const _: () = assert!(
    LINKS_PER_PEER_MAX < LINK_HANDSHAKES_MAX && LINK_HANDSHAKES_MAX < LINKS_MAX,
    "no process may keep all others out"
);
const _: () = assert!(
    LINK_MESSAGE_BYTES_MAX >= JOURNAL_COMMAND_BYTES_MAX
        && LINK_MESSAGE_BYTES_MAX >= COORDINATOR_HELD_BYTES_MAX,
    "what may be asked of a coordinator in this process may be asked of one elsewhere"
);
const _: () = assert!(
    LINK_HELLO_BYTES_MAX <= LINK_FRAME_BYTES_MAX && LINK_WORD_BYTES_MAX <= LINK_HELLO_BYTES_MAX,
    "no frame is longer than those that hold parts"
);
const _: () = assert!(COORDINATOR_HELD_READ_BYTES_MAX < COORDINATOR_HELD_BYTES_MAX);
const _: () = assert!(
    MAP_PAGE_RUNS < MAP_RUNS_IN_MEMORY,
    "the newest runs, which are read most, must stay in memory"
);
const _: () = assert!(
    ARCHIVE_REQUEST_ITEMS_MAX * ARCHIVE_REQUEST_ITEM_BYTES <= JOURNAL_COMMAND_BYTES_MAX / 2,
    "what one request names must be read back as a journal command"
);
const _: () = assert!(
    2 * SEGMENT_ROW_GROUPS_MAX <= ARCHIVE_REQUEST_ITEMS_MAX
        && TOPIC_PARTITIONS_MAX as usize <= ARCHIVE_REQUEST_ITEMS_MAX,
    "a whole segment, and the log starts of a whole topic, must fit one request"
);
const _: () = assert!(WAL_GATHER_BYTES <= SLOT_BYTES_TARGET);
const _: () = assert!(
    WAL_GATHER_BYTES_PER_SECOND_LEAST * WAL_GATHER_TIME.as_millis() as usize / 1000
        < WAL_GATHER_BYTES,
    "at the least rate a wait ends by time"
);
const _: () = assert!(MESSAGE_BYTES_DEFAULT <= MESSAGE_BYTES_MAX);
const _: () = assert!(
    MESSAGE_BYTES_MAX < REQUEST_BYTES_MAX,
    "a legal batch must fit a request"
);
const _: () = assert!(
    MESSAGE_BYTES_MAX <= BATCH_PLAIN_BYTES_MAX,
    "a legal batch must be legal when it does not compress"
);
const _: () = assert!(
    WAL_MEMORY_BYTES_MIN >= SLOTS_IN_FLIGHT_MAX * SLOT_BYTES_TARGET
        && WAL_MEMORY_BYTES_MIN >= MESSAGE_BYTES_MAX,
    "permits must be able to fill every slot in flight and hold the largest batch"
);
const _: () = assert!(
    PRODUCERS_PER_PARTITION_MAX * PRODUCER_BYTES <= PRODUCER_MEMORY_BYTES_MIN / 2,
    "one partition's producers must not push out all others"
);
const _: () = assert!(
    WALL_DISTANCE > SLOTS_IN_FLIGHT_MAX as u64,
    "a wall must stand beyond everything a writer has in flight"
);
const _: () = assert!(
    ALTER_CONFIGS_WAIT_MS as u128 <= ADMIN_WAIT_MAX.as_millis(),
    "nothing about topics waits longer"
);
const _: () = assert!(CHECKPOINT_SLOTS <= CHECKPOINT_SLOTS_MAX);
const _: () = assert!(
    COLD_GET_BYTES_MAX.is_multiple_of(CACHE_BLOCK_BYTES),
    "a GET takes whole blocks"
);
const _: () = assert!(
    COLD_GETS_MAX * COLD_GET_BYTES_MAX <= COLD_READ_BYTES_MAX,
    "reads may use all GETs there are"
);
const _: () = assert!(
    2 * ROW_GROUP_BYTES_TARGET <= RANGE_GETS_BYTES_MAX
        && 2 * ROW_GROUP_BYTES_TARGET <= RANGES_AHEAD_BYTES_MAX,
    "a row group must be fetched beside another"
);
const _: () = assert!(
    2 * ROW_GROUP_BYTES_TARGET <= FILE_BUFFER_BYTES_MAX
        && FILE_BUFFER_BYTES_MAX + 2 * FILE_BUFFER_LONG_GRAIN_BYTES <= FILE_BUFFERS_BYTES_MAX,
    "memory of a row group must be used again"
);
const _: () = assert!(
    FILE_BUFFER_LONG_GRAIN_BYTES.is_multiple_of(FILE_BUFFER_GRAIN_BYTES)
        && FILE_BUFFER_SLACK_PART * FILE_BUFFER_LONG_GRAIN_BYTES <= FILE_BUFFER_LONG_BYTES,
    "fresh memory must be no longer than what is used again"
);
const _: () = assert!(
    4 * (ROW_GROUP_BYTES_TARGET + OPEN_ROW_GROUP_WORK_BYTES) <= OPEN_ROW_GROUPS_BYTES_MAX
        && REBUILT_BYTES_MAX < OPEN_ROW_GROUP_WORK_BYTES,
    "several readers must go on side by side"
);
const _: () = assert!(
    ROW_GROUP_RECORDS_MAX < i32::MAX as usize,
    "the records of a row group must be countable"
);
const _: () = assert!(
    SEGMENT_SAMPLE_BYTES_MIN <= SEGMENT_PAGE_BYTES_TARGET && SEGMENT_SHRUNK_PERCENT_MAX < 100,
    "a full page must tell whether compressing pays"
);
const _: () = assert!(
    SEGMENT_PAGE_BYTES_MAX
        >= BATCH_PLAIN_BYTES_MAX + 2 * SEGMENT_PAGE_BYTES_TARGET + 2 * SEGMENT_DICTIONARY_BYTES,
    "a page is closed after the value that fills it"
);
const _: () = assert!(
    MESSAGE_BYTES_MAX <= 3 * BATCH_PLAIN_BYTES_MAX && BATCH_TABLE_BYTES_MAX < u32::MAX as usize,
    "a batch table must hold the largest batch verbatim"
);
const _: () = assert!(
    ARCHIVE_SEGMENT_BYTES_TARGET >= 8 * ROW_GROUP_BYTES_TARGET
        && SEGMENT_ROW_GROUPS_MAX * ROW_GROUP_BYTES_TARGET >= ARCHIVE_SEGMENT_BYTES_TARGET,
    "a segment of full row groups ends by its bytes, and not much later than it should"
);
const _: () = assert!(
    ARCHIVE_SEGMENT_BYTES_TARGET + ROW_GROUP_BYTES_TARGET + BATCH_TABLE_BYTES_MAX
        < u32::MAX as usize,
    "one PUT must take a segment"
);
const _: () = assert!(ARCHIVE_READ_BYTES <= ARCHIVE_FED_BYTES_MAX);
const _: () = assert!(
    ARCHIVE_DUE_BYTES <= ARCHIVE_INPUT_BYTES_MAX as u64,
    "what makes a topic due must fit one segment"
);
const _: () = assert!(
    ARCHIVE_PAUSE_MIN.as_millis() <= ARCHIVE_PAUSE_MAX.as_millis()
        && ARCHIVE_LOOK_INTERVAL.as_millis() <= ARCHIVE_PAUSE_MIN.as_millis()
);
const _: () = assert!(ARCHIVE_GETS_MAX <= COLD_GETS_MAX);
