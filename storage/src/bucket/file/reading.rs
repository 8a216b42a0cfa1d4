//! Reading a range of a file into memory that is used again.
//!
//! Owns the buffers of long reads, and nothing of names. The kernel clears fresh memory page by page
//! as it is touched, which for megabytes takes longer than copying the bytes out of the page cache;
//! a buffer that was read into before costs the copy alone.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Shorter reads are left to the allocator.
const BYTES_MIN: usize = 256 * 1024;
/// Lengths of buffers are multiples of this, so that reads of about the same length share them.
const GRAIN_BYTES: usize = 1024 * 1024;
/// What is kept for the next reads: some row groups.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A longer read is not for the thread that opens the file.
pub(super) const BYTES_MAX: u64 = 16 * 1024 * 1024;

const _: () = assert!(BYTES_MAX as usize <= KEPT_BYTES_MAX);

/// Buffers that nobody reads into. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<Kept>>);

/// The one that came back last is last.
#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// What was read. The buffer goes back when nobody looks at it any more.
struct Filled {
    memory: Vec<u8>,
    len: usize,
    home: Buffers,
}

impl Buffers {
    /// The bytes of `range`: fewer if the file ends earlier.
    pub(super) fn read(&self, file: &File, range: Range<u64>) -> io::Result<Bytes> {
        let len = usize::try_from(range.end.saturating_sub(range.start));
        let len = len.map_err(|_| ErrorKind::OutOfMemory)?;
        if len < BYTES_MIN {
            let mut memory = vec![0; len];
            let read = read_at(file, &mut memory, range.start)?;
            memory.truncate(read);
            return Ok(memory.into());
        }
        let mut filled = Filled {
            memory: self.take(len),
            len: 0,
            home: self.clone(),
        };
        filled.len = read_at(file, &mut filled.memory[..len], range.start)?;
        Ok(Bytes::from_owner(filled))
    }

    /// A buffer of `len` bytes or some more, whatever is in them.
    fn take(&self, len: usize) -> Vec<u8> {
        let len = len.next_multiple_of(GRAIN_BYTES);
        let mut kept = self.kept();
        let lens = kept.buffers.iter().map(Vec::len).enumerate();
        // who counts `len` bytes must not hold many times that
        let fitting = lens.filter(|(_, buffer)| (len..=2 * len).contains(buffer));
        let Some((at, _)) = fitting.min_by_key(|(_, buffer)| *buffer) else {
            drop(kept);
            return vec![0; len];
        };
        let buffer = kept.buffers.remove(at);
        kept.bytes -= buffer.len();
        buffer
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut kept = self.home.kept();
        kept.bytes += memory.len();
        kept.buffers.push(memory);
        while kept.bytes > KEPT_BYTES_MAX {
            let oldest = kept.buffers.remove(0);
            kept.bytes -= oldest.len();
        }
    }
}

/// Reads until `memory` is full or the file ends, and says how many bytes those are.
fn read_at(file: &File, memory: &mut [u8], start: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < memory.len() {
        match file.read_at(&mut memory[filled..], start + filled as u64) {
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

    use super::*;

    const MIB: usize = 1024 * 1024;

    fn file(len: usize) -> (tempfile::TempDir, File, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let body: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        fs::write(&path, &body).unwrap();
        (folder, File::open(path).unwrap(), body)
    }

    #[test]
    fn a_range_has_the_bytes_of_the_file_whatever_was_in_the_buffer() {
        let (_folder, file, body) = file(3 * MIB + 5);
        let buffers = Buffers::default();
        for range in [
            0..3 * MIB,
            MIB + 1..2 * MIB,
            7..7,
            9..10,
            3 * MIB..3 * MIB + 5,
            5..BYTES_MIN + 5,
        ] {
            let read = buffers.read(&file, range.start as u64..range.end as u64);
            assert!(read.unwrap() == body[range.clone()], "{range:?}");
        }
    }

    #[test]
    fn a_range_beyond_the_end_is_cut_off_there() {
        let (_folder, file, body) = file(MIB);
        let buffers = Buffers::default();
        let read = |start: usize, end: usize| buffers.read(&file, start as u64..end as u64);
        assert!(read(MIB / 2, 3 * MIB).unwrap() == body[MIB / 2..]);
        assert_eq!(read(2 * MIB, 3 * MIB).unwrap(), "");
    }

    #[test]
    fn memory_that_is_still_looked_at_is_not_read_into() {
        let (_folder, file, body) = file(2 * MIB);
        let buffers = Buffers::default();
        let first = buffers.read(&file, 0..MIB as u64).unwrap();
        let part = first.slice(5..10);
        drop(first);
        assert_eq!(buffers.kept().buffers.len(), 0);
        let second = buffers.read(&file, MIB as u64..2 * MIB as u64).unwrap();
        assert_eq!(part, body[5..10]);
        let place = second.as_ptr();
        drop(second);
        assert_eq!(buffers.kept().bytes, MIB);
        let third = buffers.read(&file, 0..MIB as u64 - 1).unwrap();
        assert_eq!(third.as_ptr(), place, "the memory is used again");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (_folder, file, _) = file(8 * MIB);
        let buffers = Buffers::default();
        let held: Vec<Bytes> = (1..=8)
            .map(|mib| buffers.read(&file, 0..(mib * MIB) as u64).unwrap())
            .collect();
        drop(held);
        let kept = buffers.kept();
        let sum: usize = kept.buffers.iter().map(Vec::len).sum();
        assert_eq!(kept.bytes, sum);
        assert!(sum <= KEPT_BYTES_MAX, "{sum}");
    }
}
