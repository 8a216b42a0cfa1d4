//! Writing a long object past the page cache.
//!
//! Owns how bytes get from memory into a file, and nothing of its name or its durability. A WAL
//! object is written once, synced at once and rarely read back from the file, so a copy of it in
//! the page cache costs its pages, their bookkeeping and their write-back, and nobody gains: half
//! of the CPU of a put. Here the pieces are gathered in an aligned buffer that is used again and
//! again, and the disk takes them from there (`O_DIRECT`, open(2)). A file system that does not
//! have it is noticed at the first write, and everything goes through the page cache from then on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use object_store::PutPayload;
use rustix::fs::OFlags;

/// Shorter objects go through the page cache: for them the fsync is all that counts.
const BYTES_MIN: usize = 64 * 1024;
/// Memory, length and place in the file are multiples of this. Every disk that is sold today has
/// sectors of 512 or 4096 bytes.
const ALIGNMENT: usize = 4096;
/// Bytes handed to the disk at a time.
const BUFFER_BYTES: usize = 1024 * 1024;
/// Buffers kept for the next write; there are seldom more writes at a time.
const BUFFERS_KEPT: usize = 2;

const _: () = assert!(BUFFER_BYTES.is_multiple_of(ALIGNMENT));

/// Writes past the page cache where the file system can.
#[derive(Debug)]
pub(super) struct DirectWriter {
    buffers: Mutex<Vec<AlignedBuffer>>,
    /// The file system has refused once.
    refused: AtomicBool,
    /// Hands whole blocks to the disk; tests have disks that refuse them.
    write_blocks_at: WriteAt,
}

type WriteAt = fn(&File, &[u8], u64) -> io::Result<()>;

/// The end of a vector that begins at a multiple of [`ALIGNMENT`].
#[derive(Debug)]
struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Default for DirectWriter {
    fn default() -> Self {
        Self {
            buffers: Mutex::default(),
            refused: AtomicBool::new(false),
            write_blocks_at: |file, blocks, at| file.write_all_at(blocks, at),
        }
    }
}

impl DirectWriter {
    /// Writes `body` into the empty `file`. `false` if it has to be written in the ordinary way,
    /// because it is short or the file system has no direct writes; the file is empty then.
    pub(super) fn write(&self, file: &File, body: &PutPayload) -> io::Result<bool> {
        let length = body.content_length();
        if length < BYTES_MIN || self.refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let flags = rustix::fs::fcntl_getfl(file)?;
        if rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
            self.refused.store(true, Ordering::Relaxed);
            return Ok(false);
        }
        let mut buffer = self.take_buffer();
        let written =
            buffer.write_blocks(body, |blocks, at| (self.write_blocks_at)(file, blocks, at));
        rustix::fs::fcntl_setfl(file, flags)?;
        // What does not fill a block goes the ordinary way: cutting off a padded block would make
        // the file system read it back first.
        let written = written.and_then(|end| file.write_all_at(buffer.bytes(), end));
        self.keep_buffer(buffer);
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.refused.store(true, Ordering::Relaxed);
                file.set_len(0)?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn take_buffer(&self) -> AlignedBuffer {
        let kept = self
            .buffers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        kept.unwrap_or_else(AlignedBuffer::new)
    }

    fn keep_buffer(&self, mut buffer: AlignedBuffer) {
        buffer.filled = 0;
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < BUFFERS_KEPT {
            buffers.push(buffer);
        }
    }
}

impl AlignedBuffer {
    fn new() -> Self {
        let memory = vec![0; BUFFER_BYTES + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self {
            memory,
            start,
            filled: 0,
        }
    }

    /// Writes all whole blocks of `body` and keeps the rest; answers where in the file it begins.
    fn write_blocks(
        &mut self,
        body: &PutPayload,
        write_at: impl Fn(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut at = 0;
        for piece in body {
            let mut rest: &[u8] = piece;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(BUFFER_BYTES - self.filled));
                let from = self.start + self.filled;
                self.memory[from..from + now.len()].copy_from_slice(now);
                self.filled += now.len();
                rest = later;
                if self.filled == BUFFER_BYTES {
                    write_at(self.bytes(), at)?;
                    at += BUFFER_BYTES as u64;
                    self.filled = 0;
                }
            }
        }
        let whole = self.filled - self.filled % ALIGNMENT;
        write_at(&self.bytes()[..whole], at)?;
        let rest = self.start + whole..self.start + self.filled;
        self.memory.copy_within(rest, self.start);
        self.filled -= whole;
        Ok(at + whole as u64)
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use rustix::fs::{CWD, Mode, openat};

    use super::*;
    use crate::bucket::file::disk::{Disk, LocalDisk};

    /// Whether the file system of `folder` takes a block past the page cache.
    fn is_direct(folder: &Path) -> bool {
        let memory = vec![1; 2 * ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::DIRECT;
        let probe = openat(CWD, folder.join("probe"), flags, Mode::RUSR | Mode::WUSR);
        let block = &memory[start..start + ALIGNMENT];
        probe.is_ok_and(|file| File::from(file).write_all_at(block, 0).is_ok())
    }

    /// Pieces of odd lengths, `length` bytes in all.
    fn body(length: usize) -> PutPayload {
        let mut pieces = Vec::new();
        let mut made = 0;
        while made < length {
            let piece = (made % 70_000 + 1).min(length - made);
            pieces.push(Bytes::from(vec![(made % 251) as u8; piece]));
            made += piece;
        }
        pieces.into_iter().collect()
    }

    fn write(writer: &DirectWriter, folder: &Path, length: usize) -> (bool, Vec<u8>) {
        let path = folder.join(length.to_string());
        let file = File::create_new(&path).unwrap();
        let direct = writer.write(&file, &body(length)).unwrap();
        drop(file);
        (direct, std::fs::read(&path).unwrap())
    }

    fn plain(length: usize) -> Vec<u8> {
        Bytes::from(body(length)).to_vec()
    }

    #[test]
    fn the_file_holds_the_body_whatever_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let writer = DirectWriter::default();
        for length in [
            BYTES_MIN,
            BYTES_MIN + 1,
            BUFFER_BYTES - 1,
            BUFFER_BYTES,
            BUFFER_BYTES + 1,
            3 * BUFFER_BYTES + 12_345,
        ] {
            let (direct, found) = write(&writer, folder.path(), length);
            assert_eq!(direct, is_direct(folder.path()), "{length} bytes");
            let expected = if direct { plain(length) } else { Vec::new() };
            assert!(found == expected, "{length} bytes, direct: {direct}");
        }
    }

    #[test]
    fn a_disk_that_refuses_direct_blocks_half_way_gets_the_whole_body_in_the_ordinary_way() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = LocalDisk::default();
        disk.direct.write_blocks_at = |file, blocks, at| match at {
            0 => file.write_all_at(blocks, at),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        };
        let length = 2 * BUFFER_BYTES + 12_345;
        for name in ["first", "next"] {
            let mut draft = disk.draft(folder.path()).unwrap();
            disk.write(&mut draft, &body(length)).unwrap();
            let path = folder.path().join(name);
            assert!(disk.link(&draft, &path).unwrap());
            assert!(std::fs::read(path).unwrap() == plain(length), "{name}");
            assert!(disk.direct.refused.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn a_short_object_is_left_to_the_page_cache() {
        let folder = tempfile::tempdir().unwrap();
        let (direct, found) = write(&DirectWriter::default(), folder.path(), BYTES_MIN - 1);
        assert!(!direct && found.is_empty());
    }

    #[test]
    fn a_buffer_is_used_again_without_what_was_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let writer = DirectWriter::default();
        write(&writer, folder.path(), 2 * BUFFER_BYTES);
        let (direct, found) = write(&writer, folder.path(), BYTES_MIN + 7);
        assert_eq!(direct, is_direct(folder.path()));
        let expected = if direct {
            plain(BYTES_MIN + 7)
        } else {
            Vec::new()
        };
        assert!(found == expected, "direct: {direct}");
        assert!(writer.buffers.lock().unwrap().len() <= 1);
    }
}
