//! Cuts the byte stream of a client into request frames (4 bytes of length, big endian, then that
//! many bytes). Pure: the driver reads the socket into [`FrameReader::buffer`].
//!
//! Memory follows what was received, never what was claimed: a frame that fits the small buffer of
//! the connection is copied out of it; a longer one moves into a buffer of its own, which grows to
//! at most [`GROWTH`] times the bytes it holds and becomes the frame without another copy, so that
//! the batches of a Produce request are slices of it. Before that buffer exists the driver is told
//! to reserve memory for the whole frame ([`Next::Reserve`]): all of it, for two who wait while each
//! holds a part could wait for each other, but not before its beginning has filled the small buffer:
//! who only announces a length holds nothing that others need.

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use firn_proto::kafka::ApiKey;
use firn_proto::limits::{OTHER_REQUEST_BYTES_MAX, SMALL_REQUEST_BYTES};
use thiserror::Error;

/// Cuts one client's bytes into frames.
#[derive(Debug)]
pub struct FrameReader {
    bytes_max: usize,
    small: BytesMut,
    /// Whether the next bytes are not expected soon.
    resting: bool,
    large: Option<Large>,
}

/// What the driver has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Read more bytes into [`FrameReader::buffer`].
    Read,
    /// Reserve memory for a frame of this kind and length, then call [`FrameReader::reserved`].
    Reserve(FrameKind, usize),
    /// A frame, without its length.
    Frame(Bytes),
}

/// What a frame holds, as far as its memory is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// What waits for the journal, each by itself: commits, and what looks at or changes groups and
    /// topics. Not what waits for other clients, as JoinGroup does, nor what is answered from
    /// memory, as Heartbeat always is and InitProducerId mostly.
    Journal,
    /// Any other request, or none at all.
    Other,
    /// Produce: the one whose frames are long, and wait for the bucket.
    Produce,
}

impl FrameKind {
    /// What begins with these bytes; the API key comes first.
    pub fn of(start: &[u8]) -> Self {
        let code = start.first_chunk::<API_KEY>();
        match code.and_then(|code| ApiKey::from_code(i16::from_be_bytes(*code))) {
            Some(ApiKey::Produce) => Self::Produce,
            Some(
                ApiKey::AlterConfigs
                | ApiKey::ConsumerGroupDescribe
                | ApiKey::CreatePartitions
                | ApiKey::CreateTopics
                | ApiKey::DeleteGroups
                | ApiKey::DeleteRecords
                | ApiKey::DeleteTopics
                | ApiKey::DescribeGroups
                | ApiKey::IncrementalAlterConfigs
                | ApiKey::LeaveGroup
                | ApiKey::ListGroups
                | ApiKey::OffsetCommit
                | ApiKey::OffsetDelete
                | ApiKey::OffsetFetch,
            ) => Self::Journal,
            _ => Self::Other,
        }
    }

    fn bytes_max(self) -> usize {
        match self {
            Self::Journal | Self::Other => OTHER_REQUEST_BYTES_MAX,
            Self::Produce => usize::MAX,
        }
    }
}

/// A length that no frame has. The connection cannot go on: nothing tells where the next begins.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a frame of {claimed} bytes was announced; the largest allowed is {bytes_max}")]
pub struct BadLength {
    /// What the client announced.
    pub claimed: i32,
    /// `socket.request.max.bytes`, or less for what is no Produce.
    pub bytes_max: usize,
}

#[derive(Debug)]
struct Large {
    len: usize,
    body: BytesMut,
}

impl FrameReader {
    /// A reader that refuses frames beyond `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            small: BytesMut::new(),
            resting: false,
            large: None,
        }
    }

    /// Says what comes next; call again after doing it.
    ///
    /// # Errors
    /// A length that no frame has.
    pub fn next_step(&mut self) -> Result<Next, BadLength> {
        if let Some(large) = self.large.take_if(|large| large.body.len() == large.len) {
            return Ok(Next::Frame(large.body.freeze()));
        }
        if self.large.is_some() {
            return Ok(Next::Read);
        }
        let Some(prefix) = self.small.first_chunk::<PREFIX>() else {
            return Ok(Next::Read);
        };
        let claimed = i32::from_be_bytes(*prefix);
        let len = length(claimed, self.bytes_max)?;
        if self.small.len() >= PREFIX + len {
            self.small.advance(PREFIX);
            let frame = Bytes::copy_from_slice(&self.small[..len]);
            self.small.advance(len);
            return Ok(Next::Frame(frame));
        }
        if PREFIX + len <= SMALL_REQUEST_BYTES || self.small.len() < PREFIX + API_KEY {
            return Ok(Next::Read);
        }
        let kind = FrameKind::of(&self.small[PREFIX..]);
        let len = length(claimed, self.bytes_max.min(kind.bytes_max()))?;
        if self.small.len() < SMALL_REQUEST_BYTES {
            return Ok(Next::Read);
        }
        Ok(Next::Reserve(kind, len))
    }

    /// Goes on with the frame for which [`Next::Reserve`] asked.
    pub fn reserved(&mut self, len: usize) {
        assert!(self.large.is_none() && self.small.len() < PREFIX + len);
        self.small.advance(PREFIX);
        let mut body = BytesMut::with_capacity(len.min(LARGE_START_BYTES));
        body.extend_from_slice(&self.small);
        self.small.clear();
        self.large = Some(Large { len, body });
    }

    /// Where to read to. Never empty, never more than the frame in progress may take.
    pub fn buffer(&mut self) -> Limit<&mut BytesMut> {
        match &mut self.large {
            Some(Large { len, body }) => {
                if body.len() == body.capacity() {
                    // To the byte: a vector that grows by itself may take twice what is counted.
                    let wanted = (body.len() * GROWTH).min(*len);
                    let mut grown = BytesMut::with_capacity(wanted);
                    grown.extend_from_slice(body);
                    *body = grown;
                }
                let room = body.capacity().min(*len) - body.len();
                body.limit(room)
            }
            None => {
                self.resting &= self.small.is_empty();
                let most = match self.resting {
                    true => RESTING_BYTES,
                    false => SMALL_REQUEST_BYTES,
                };
                let room = most - self.small.len();
                self.small.reserve(room);
                (&mut self.small).limit(room)
            }
        }
    }

    /// Gives the buffer back but for a few bytes until something comes: of many thousands of
    /// connections most say nothing most of the time. False if it has been given back, or is in use.
    pub fn rest(&mut self) -> bool {
        if !self.may_rest() {
            return false;
        }
        self.small = BytesMut::new();
        self.resting = true;
        true
    }

    /// Whether there is a buffer to give back.
    pub fn may_rest(&self) -> bool {
        !self.resting && !self.is_inside()
    }

    /// Whether a frame has begun and is not complete.
    pub fn is_inside(&self) -> bool {
        self.large.is_some() || !self.small.is_empty()
    }
}

fn length(claimed: i32, bytes_max: usize) -> Result<usize, BadLength> {
    let len = usize::try_from(claimed).ok();
    len.filter(|len| *len <= bytes_max)
        .ok_or(BadLength { claimed, bytes_max })
}

const PREFIX: usize = 4;
const API_KEY: usize = 2;
/// What a connection keeps at hand for the first bytes of a request when none is expected soon.
const RESTING_BYTES: usize = 256;
/// A longer frame starts with a buffer of this size, if it is that long: the requests of Kafka's
/// producers (`max.request.size`) never have to grow.
const LARGE_START_BYTES: usize = 1024 * 1024;
/// A full buffer grows by this factor: fewer copies than doubling, still bound to what was received.
const GROWTH: usize = 4;

const _: () = assert!(LARGE_START_BYTES >= SMALL_REQUEST_BYTES);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `stream` in pieces of the given sizes (the last one repeats) and collects the frames.
    fn cut(bytes_max: usize, stream: &[u8], pieces: &[usize]) -> Result<Vec<Bytes>, BadLength> {
        let mut reader = FrameReader::new(bytes_max);
        let mut frames = Vec::new();
        let mut rest = stream;
        let mut pieces = pieces
            .iter()
            .copied()
            .chain(std::iter::repeat(pieces[pieces.len() - 1]));
        loop {
            match reader.next_step()? {
                Next::Frame(frame) => frames.push(frame),
                Next::Reserve(_, len) => reader.reserved(len),
                Next::Read if rest.is_empty() => return Ok(frames),
                Next::Read => {
                    let mut buffer = reader.buffer();
                    let room = buffer.remaining_mut();
                    assert!(
                        room > 0,
                        "the driver would take a read of nothing for the end"
                    );
                    let n = pieces.next().unwrap().clamp(1, rest.len()).min(room);
                    buffer.put_slice(&rest[..n]);
                    rest = &rest[n..];
                    let held = reader.large.as_ref().map_or(0, |large| large.body.len());
                    let capacity = reader
                        .large
                        .as_ref()
                        .map_or(0, |large| large.body.capacity());
                    assert!(capacity <= (held * GROWTH).max(2 * LARGE_START_BYTES));
                }
            }
        }
    }

    fn stream_of(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut stream = Vec::new();
        for frame in frames {
            stream.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_be_bytes());
            stream.extend_from_slice(frame);
        }
        stream
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let mut reader = FrameReader::new(100 << 20);
        reader.buffer().put_slice(&(100i32 << 20).to_be_bytes());
        assert_eq!(reader.next_step(), Ok(Next::Read), "the api key is missing");
        reader.buffer().put_slice(&[0, 0]);
        assert_eq!(reader.next_step(), Ok(Next::Read), "announced is not sent");
        let mut rest = reader.buffer();
        assert!(rest.remaining_mut() <= SMALL_REQUEST_BYTES);
        rest.put_bytes(0, rest.remaining_mut());
        let reserve = Next::Reserve(FrameKind::Produce, 100 << 20);
        assert_eq!(reader.next_step(), Ok(reserve));
        reader.reserved(100 << 20);
        assert!(reader.buffer().remaining_mut() <= LARGE_START_BYTES);
    }

    #[test]
    fn only_produce_may_be_longer_than_everything_else_needs() {
        let claimed = i32::try_from(OTHER_REQUEST_BYTES_MAX + 1).unwrap();
        let start = |api: i16| [&claimed.to_be_bytes()[..], &api.to_be_bytes()[..]].concat();
        let mut produce = FrameReader::new(100 << 20);
        produce.buffer().put_slice(&start(0));
        assert_eq!(produce.next_step(), Ok(Next::Read));
        let mut rest = produce.buffer();
        rest.put_bytes(0, rest.remaining_mut());
        let reserve = Next::Reserve(FrameKind::Produce, OTHER_REQUEST_BYTES_MAX + 1);
        assert_eq!(produce.next_step(), Ok(reserve));
        let mut fetch = FrameReader::new(100 << 20);
        fetch.buffer().put_slice(&start(1));
        let bytes_max = OTHER_REQUEST_BYTES_MAX;
        assert_eq!(fetch.next_step(), Err(BadLength { claimed, bytes_max }));
    }

    #[test]
    fn a_long_frame_takes_no_more_than_its_length() {
        for len in [10_000, 70_000, 300_000, 1_100_000] {
            let mut frames = cut(2 << 20, &stream_of(&[vec![0; len]]), &[5_000]).unwrap();
            let frame = frames.remove(0).try_into_mut().unwrap();
            assert_eq!(frame.capacity(), len);
        }
    }

    #[test]
    fn a_connection_at_rest_holds_next_to_nothing_and_reads_on() {
        let mut reader = FrameReader::new(1 << 20);
        let frame = vec![7; 5_000];
        let stream = stream_of(std::slice::from_ref(&frame));
        for _ in 0..2 {
            let mut rest = &stream[..];
            while !rest.is_empty() {
                assert_eq!(reader.next_step(), Ok(Next::Read));
                let mut buffer = reader.buffer();
                let n = rest.len().min(buffer.remaining_mut());
                buffer.put_slice(&rest[..n]);
                rest = &rest[n..];
                assert!(!reader.rest(), "a frame has begun");
            }
            assert_eq!(reader.next_step(), Ok(Next::Frame(frame.clone().into())));
            assert!(reader.small.capacity() >= SMALL_REQUEST_BYTES - PREFIX - frame.len());
            assert!(reader.rest());
            assert!(!reader.rest(), "once is enough");
            assert_eq!(reader.buffer().remaining_mut(), RESTING_BYTES);
            assert!(reader.small.capacity() < 2 * RESTING_BYTES);
        }
    }

    #[test]
    fn a_length_beyond_the_limit_or_below_zero_is_refused() {
        for claimed in [101, i32::MAX, -1, i32::MIN] {
            let bad = cut(100, &claimed.to_be_bytes(), &[1]);
            assert_eq!(
                bad,
                Err(BadLength {
                    claimed,
                    bytes_max: 100
                })
            );
        }
        assert!(cut(100, &100i32.to_be_bytes(), &[1]).is_ok());
    }

    #[test]
    fn a_long_frame_is_handed_over_without_a_copy_of_its_own() {
        let frame = vec![7u8; 1 << 20];
        let frames = cut(
            1 << 20,
            &stream_of(std::slice::from_ref(&frame)),
            &[64 * 1024],
        )
        .unwrap();
        assert_eq!(frames, [frame]);
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(
            lens in prop::collection::vec(prop_oneof![0usize..300, 8_000usize..8_400, 60_000usize..300_000], 1..6),
            pieces in prop::collection::vec(prop_oneof![1usize..10, 1usize..100_000], 1..20),
        ) {
            let frames: Vec<Vec<u8>> = lens
                .iter()
                .enumerate()
                .map(|(n, len)| (0..*len).map(|i| u8::try_from((i * 31 + n) % 251).unwrap()).collect())
                .collect();
            let out = cut(1 << 20, &stream_of(&frames), &pieces).unwrap();
            prop_assert_eq!(out, frames);
        }

        #[test]
        fn bytes_of_any_kind_never_panic(
            stream in prop::collection::vec(any::<u8>(), 0..20_000),
            pieces in prop::collection::vec(1usize..5_000, 1..10),
        ) {
            let _ = cut(64 * 1024, &stream, &pieces);
        }
    }
}
