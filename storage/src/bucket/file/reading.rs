//! Reading a range of a file into memory that is used again.
//!
//! Owns how the bytes of long reads get into memory, and nothing of names. The kernel clears fresh
//! memory page by page as it is touched, which for megabytes takes as long as copying them; a buffer
//! that was read into before costs nothing of the kind.
//!
//! What is read for the first time comes past the page cache (`O_DIRECT`, open(2)): most of the CPU
//! of reading old records would go into pages that nobody looks at again, and they would push out
//! what is. What is read a second time goes through the page cache, and is found there by the third
//! reader. A file system without direct reads is noticed at the first one.
//!
//! A disk serves what it was asked first, and an fsync that comes behind megabytes waits for them.
//! Direct reads therefore ask for a piece at a time, and one of them at a time: acknowledgements wait
//! for an fsync, and old records do not hurry.

use std::collections::VecDeque;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_proto::limits::{
    FILE_BUFFER_GRAIN_BYTES, FILE_BUFFER_LONG_BYTES, FILE_BUFFER_LONG_GRAIN_BYTES,
    FILE_BUFFER_SLACK_PART, FILE_BUFFERS_BYTES_MAX,
};
use rustix::fs::OFlags;

/// Shorter reads are left to the allocator.
const BYTES_MIN: usize = 256 * 1024;
/// Shorter reads go through the page cache.
const DIRECT_BYTES_MIN: usize = super::LONG_BYTES as usize;
/// Memory, length and place in the file of a direct read are multiples of this.
const ALIGNMENT: usize = 4096;
/// What a disk is asked for at a time: about as long as an fsync takes.
const PIECE_BYTES: usize = 256 * 1024;
/// Ranges that are known to have been read before.
const RECENT_MAX: usize = 4096;

const _: () = assert!(
    BYTES_MIN <= DIRECT_BYTES_MIN
        && PIECE_BYTES.is_multiple_of(ALIGNMENT)
        // so that a buffer fits the next read of its length
        && FILE_BUFFER_SLACK_PART * FILE_BUFFER_GRAIN_BYTES <= BYTES_MIN
        && 3 * ALIGNMENT <= FILE_BUFFER_GRAIN_BYTES
);

/// Reads ranges. Cheap to clone; clones share their buffers.
#[derive(Clone, Debug)]
pub(super) struct LongReads(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<Kept>,
    /// Hashes of ranges that were read past the page cache, oldest first.
    recent: Mutex<VecDeque<u64>>,
    /// The file system has refused once.
    refused: AtomicBool,
    /// Whose piece the disk is to read.
    turn: Mutex<()>,
    /// Takes whole blocks from the disk; tests have disks that refuse them.
    read_blocks_at: ReadAt,
}

type ReadAt = fn(&File, &mut [u8], u64) -> io::Result<usize>;

/// Buffers that nobody looks at. The one that came back last is last.
#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// What was read. The buffer goes back when nobody looks at it any more.
struct Filled {
    memory: Vec<u8>,
    /// Where the bytes wanted are in it.
    start: usize,
    len: usize,
    home: LongReads,
}

impl Default for LongReads {
    fn default() -> Self {
        Self(Arc::new(Inner {
            kept: Mutex::default(),
            recent: Mutex::default(),
            refused: AtomicBool::new(false),
            turn: Mutex::default(),
            read_blocks_at: |file, blocks, at| file.read_at(blocks, at),
        }))
    }
}

impl LongReads {
    /// The bytes of `range` of `file`, which lies at `path`: fewer if it ends earlier.
    pub(super) fn read(&self, file: &File, path: &Path, range: Range<u64>) -> io::Result<Bytes> {
        let len = usize::try_from(range.end.saturating_sub(range.start));
        let len = len.map_err(|_| ErrorKind::OutOfMemory)?;
        if len < BYTES_MIN {
            let mut memory = vec![0; len];
            let read = read_at(file, &mut memory, range.start)?;
            memory.truncate(read);
            return Ok(memory.into());
        }
        let skip = range.start % ALIGNMENT as u64;
        let (block, skip) = (range.start - skip, skip as usize);
        let blocks_len = (skip + len).next_multiple_of(ALIGNMENT);
        let memory = self.take(blocks_len + ALIGNMENT);
        let aligned = memory.as_ptr().align_offset(ALIGNMENT);
        let mut filled = Filled {
            memory,
            start: aligned + skip,
            len: 0,
            home: self.clone(),
        };
        if len >= DIRECT_BYTES_MIN && self.is_first(path, range.start) {
            let blocks = &mut filled.memory[aligned..aligned + blocks_len];
            if let Some(read) = self.read_blocks(file, blocks, block)? {
                filled.len = read.saturating_sub(skip).min(len);
                return Ok(Bytes::from_owner(filled));
            }
        }
        let wanted = &mut filled.memory[aligned + skip..aligned + skip + len];
        filled.len = read_at(file, wanted, range.start)?;
        Ok(Bytes::from_owner(filled))
    }

    /// Reads whole blocks past the page cache, and says how many bytes there are of them; `None` if
    /// the file system has no direct reads.
    fn read_blocks(&self, file: &File, blocks: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        let refused = &self.0.refused;
        let flags = rustix::fs::fcntl_getfl(file)?;
        if refused.load(Ordering::Relaxed)
            || rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).is_err()
        {
            refused.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        let read = read_with(blocks, |rest, from| match from % ALIGNMENT {
            0 => {
                let piece = rest.len().min(PIECE_BYTES);
                let _turn = self.0.turn.lock().unwrap_or_else(PoisonError::into_inner);
                (self.0.read_blocks_at)(file, &mut rest[..piece], at + from as u64)
            }
            // the file ended inside of a block
            _ => Ok(0),
        });
        rustix::fs::fcntl_setfl(file, flags)?;
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                refused.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the range that begins there was not read for long.
    fn is_first(&self, path: &Path, start: u64) -> bool {
        let mut hasher = DefaultHasher::new();
        (path, start).hash(&mut hasher);
        let hash = hasher.finish();
        let mut recent = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.contains(&hash) {
            return false;
        }
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(hash);
        true
    }

    /// A buffer of `len` bytes or some more, whatever is in them.
    fn take(&self, len: usize) -> Vec<u8> {
        let mut kept = self.kept();
        let lens = kept.buffers.iter().map(Vec::len).enumerate();
        let longest = len + len / FILE_BUFFER_SLACK_PART;
        let fitting = lens.filter(|(_, buffer)| (len..=longest).contains(buffer));
        let Some((at, _)) = fitting.min_by_key(|(_, buffer)| *buffer) else {
            drop(kept);
            let grain = match len < FILE_BUFFER_LONG_BYTES {
                true => FILE_BUFFER_GRAIN_BYTES,
                false => FILE_BUFFER_LONG_GRAIN_BYTES,
            };
            return vec![0; len.next_multiple_of(grain)];
        };
        let buffer = kept.buffers.remove(at);
        kept.bytes -= buffer.len();
        buffer
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut kept = self.home.kept();
        kept.bytes += memory.len();
        kept.buffers.push(memory);
        while kept.bytes > FILE_BUFFERS_BYTES_MAX {
            let oldest = kept.buffers.remove(0);
            kept.bytes -= oldest.len();
        }
    }
}

/// Reads until `memory` is full or the file ends, and says how many bytes those are.
fn read_at(file: &File, memory: &mut [u8], start: u64) -> io::Result<usize> {
    read_with(memory, |rest, from| file.read_at(rest, start + from as u64))
}

/// The same by `read`, which gets what is left of `memory` and how much was filled.
fn read_with(
    memory: &mut [u8],
    read: impl Fn(&mut [u8], usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < memory.len() {
        match read(&mut memory[filled..], filled) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const MIB: usize = 1024 * 1024;

    struct World {
        _folder: tempfile::TempDir,
        path: PathBuf,
        body: Vec<u8>,
        reads: LongReads,
    }

    impl World {
        fn new(len: usize) -> Self {
            Self::with(len, LongReads::default())
        }

        fn with(len: usize, reads: LongReads) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("object");
            let body: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            fs::write(&path, &body).unwrap();
            Self {
                _folder: folder,
                path,
                body,
                reads,
            }
        }

        fn read(&self, range: Range<usize>) -> Bytes {
            let file = File::open(&self.path).unwrap();
            let range = range.start as u64..range.end as u64;
            self.reads.read(&file, &self.path, range).unwrap()
        }

        fn check(&self, range: Range<usize>) {
            let there = range.start.min(self.body.len())..range.end.min(self.body.len());
            assert!(self.read(range.clone()) == self.body[there], "{range:?}");
        }
    }

    fn reads_with(read_blocks_at: ReadAt) -> LongReads {
        LongReads(Arc::new(Inner {
            kept: Mutex::default(),
            recent: Mutex::default(),
            refused: AtomicBool::new(false),
            turn: Mutex::default(),
            read_blocks_at,
        }))
    }

    #[test]
    fn a_range_has_the_bytes_of_the_file_whatever_was_in_the_buffer() {
        let world = World::new(4 * MIB + 5);
        for _ in 0..3 {
            for range in [
                0..4 * MIB,
                MIB + 1..2 * MIB + 1,
                ALIGNMENT..MIB + ALIGNMENT,
                3 * MIB - 1..4 * MIB + 5,
                7..7,
                9..10,
                4 * MIB..4 * MIB + 5,
                5..BYTES_MIN + 5,
            ] {
                world.check(range);
            }
        }
    }

    #[test]
    fn a_range_beyond_the_end_is_cut_off_there() {
        for len in [MIB, MIB + 1, MIB + 511, MIB + ALIGNMENT] {
            let world = World::new(len);
            world.check(MIB / 2..3 * MIB);
            world.check(5..MIB + 4);
            world.check(2 * MIB..3 * MIB);
        }
    }

    #[test]
    fn what_is_read_again_comes_through_the_page_cache() {
        static PAST_IT: AtomicUsize = AtomicUsize::new(0);
        let world = World::with(
            3 * MIB,
            reads_with(|file, blocks, at| {
                PAST_IT.fetch_add(1, Ordering::Relaxed);
                file.read_at(blocks, at)
            }),
        );
        for _ in 0..3 {
            world.check(0..2 * MIB);
        }
        let refused = world.reads.0.refused.load(Ordering::Relaxed);
        let past_it = PAST_IT.load(Ordering::Relaxed);
        match is_direct(&world.path) {
            true => assert_eq!((past_it, refused), (2 * MIB / PIECE_BYTES, false)),
            // Nothing comes past the page cache here, and that is noticed at the first read.
            false => assert!(past_it <= 1 && refused, "{past_it} {refused}"),
        }
    }

    /// Each piece is an fsync's longest wait for the disk, so two at a time would double it.
    #[test]
    fn long_reads_leave_the_disk_to_others_after_each_piece() {
        static AT_THE_DISK: AtomicUsize = AtomicUsize::new(0);
        static LONGEST: AtomicUsize = AtomicUsize::new(0);
        let world = World::with(
            8 * MIB,
            reads_with(|file, blocks, at| {
                assert_eq!(AT_THE_DISK.fetch_add(1, Ordering::SeqCst), 0);
                LONGEST.fetch_max(blocks.len(), Ordering::SeqCst);
                let read = file.read_at(blocks, at);
                AT_THE_DISK.fetch_sub(1, Ordering::SeqCst);
                read
            }),
        );
        std::thread::scope(|scope| {
            for reader in 0..4 {
                let world = &world;
                scope.spawn(move || world.check(reader * 2 * MIB..(reader + 1) * 2 * MIB));
            }
        });
        let longest = LONGEST.load(Ordering::SeqCst);
        assert!(longest <= PIECE_BYTES, "{longest}");
    }

    /// Whether the file system of `path` gives a block past the page cache.
    fn is_direct(path: &Path) -> bool {
        let mut memory = vec![0; 2 * ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let flags = OFlags::RDONLY | OFlags::DIRECT;
        let opened = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
        let block = &mut memory[start..start + ALIGNMENT];
        opened.is_ok_and(|file| File::from(file).read_at(block, 0).is_ok())
    }

    #[test]
    fn a_disk_that_refuses_direct_blocks_is_read_in_the_ordinary_way() {
        let world = World::with(
            3 * MIB,
            reads_with(|_, _, _| Err(ErrorKind::InvalidInput.into())),
        );
        world.check(7..2 * MIB);
        assert!(world.reads.0.refused.load(Ordering::Relaxed));
        world.check(9..3 * MIB);
    }

    #[test]
    fn memory_that_is_still_looked_at_is_not_read_into() {
        let world = World::new(2 * MIB);
        let first = world.read(0..MIB);
        let part = first.slice(5..10);
        drop(first);
        assert_eq!(world.reads.kept().buffers.len(), 0);
        let second = world.read(MIB..2 * MIB);
        assert_eq!(part, world.body[5..10]);
        let place = second.as_ptr();
        drop(second);
        let third = world.read(0..MIB - ALIGNMENT);
        assert_eq!(third.as_ptr(), place, "the memory is used again");
    }

    /// Who keeps the bytes counts their length.
    #[test]
    fn bytes_hold_little_more_memory_than_their_length() {
        let world = World::new(16 * MIB);
        let longer = [1, 2, 3, 5, 8, 16].map(|mib| world.read(0..mib * MIB));
        drop(longer);
        for len in [
            BYTES_MIN,
            BYTES_MIN + 1,
            700_000,
            MIB,
            MIB + 77,
            2 * MIB - ALIGNMENT,
            2 * MIB + 1,
            5 * MIB / 2,
            7 * MIB,
        ] {
            for _ in 0..2 {
                drop(world.read(77..77 + len));
                let memory = world.reads.kept().buffers.last().unwrap().len();
                assert!(memory <= len + len / 4 + 64 * 1024, "{memory} for {len}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let world = World::new(8 * MIB);
        let held: Vec<Bytes> = (1..=8).map(|mib| world.read(0..mib * MIB)).collect();
        drop(held);
        let kept = world.reads.kept();
        let sum: usize = kept.buffers.iter().map(Vec::len).sum();
        assert_eq!(kept.bytes, sum);
        assert!(sum <= FILE_BUFFERS_BYTES_MAX, "{sum}");
    }
}
