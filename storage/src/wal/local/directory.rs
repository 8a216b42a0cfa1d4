//! The directory of a local WAL: its lock, its identity, its files. Owns every path in it; their
//! names are spelled in `layout.rs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use firn_proto::env::Entropy;
use firn_proto::ids::{BrokerId, ClusterId, DiskId};
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::error::LocalWalError;
use super::format::{Identity, decode_identity, encode_identity};
use super::log::is_full;
use crate::layout::{
    LOCAL_WAL_IDENTITY, LOCAL_WAL_IDENTITY_NEW, LOCAL_WAL_QUARANTINE, LOCK_FILE, local_segment,
    parse_local_segment,
};

/// Most slices that one write may name (Linux `IOV_MAX`).
const SLICES_MAX: usize = 1024;
/// Zeros written at a time where a file system cannot reserve blocks.
const ZEROS_AT_ONCE: usize = 1024 * 1024;

/// What to do with a directory of another cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForeignDirectory {
    /// Refuse to start.
    #[default]
    Refuse,
    /// Remove what is in it and start anew.
    Wipe,
}

/// A directory that this process has for itself until the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Open on the directory itself, to fsync its entries.
    handle: File,
    /// Holds the kernel lock; the lock goes when the process goes, however it goes.
    _lock: File,
    cluster: ClusterId,
    disk: DiskId,
}

impl Directory {
    /// Takes the directory: makes it if it is missing, locks it, and only then reads it.
    pub(crate) fn open(
        path: &Path,
        (cluster, broker): (ClusterId, Option<BrokerId>),
        foreign: ForeignDirectory,
        entropy: &Entropy,
    ) -> Result<Self, LocalWalError> {
        create_durably(path)?;
        let lock = take_lock(path)?;
        let handle = File::open(path).map_err(LocalWalError::io("open", path))?;
        let anew = || DiskId::from_random(entropy.next_u128());
        let disk = match read_identity(path)? {
            Some(found) if found.cluster == cluster => match (found.broker, broker) {
                (Some(found), Some(expected)) if found != expected => {
                    return Err(LocalWalError::ForeignBroker {
                        dir: path.to_owned(),
                        found,
                        expected,
                    });
                }
                (None, Some(broker)) => name_broker(path, &handle, cluster, found.disk, broker)?,
                (_, _) => found.disk,
            },
            Some(found) if foreign == ForeignDirectory::Refuse => {
                return Err(LocalWalError::ForeignCluster {
                    dir: path.to_owned(),
                    found: found.cluster,
                    expected: cluster,
                });
            }
            Some(found) => {
                let found = found.cluster;
                tracing::warn!(dir = %path.display(), %found, %cluster, "local wal of another cluster is wiped, as configured");
                wipe(path)?;
                write_identity(path, &handle, cluster, anew(), broker)?
            }
            None => write_identity(path, &handle, cluster, anew(), broker)?,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                handle,
                _lock: lock,
                cluster,
                disk,
            }),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.inner.path
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.inner.cluster
    }

    pub(crate) fn disk(&self) -> DiskId {
        self.inner.disk
    }

    pub(crate) fn segment_path(&self, number: u64) -> PathBuf {
        self.inner.path.join(local_segment(number))
    }

    /// The numbers of all segment files, ascending.
    pub(crate) fn segments(&self) -> Result<Vec<u64>, LocalWalError> {
        segment_numbers(&self.inner.path)
    }

    /// Where segments are kept that are not to be removed and not to be read again.
    pub(crate) fn quarantine_path(&self) -> PathBuf {
        self.inner.path.join(LOCAL_WAL_QUARANTINE)
    }

    /// The numbers of all segments in quarantine, ascending. A number is never used again while
    /// one of them has it.
    pub(crate) fn quarantined(&self) -> Result<Vec<u64>, LocalWalError> {
        let folder = self.quarantine_path();
        if folder.is_dir() {
            segment_numbers(&folder)
        } else {
            Ok(Vec::new())
        }
    }

    /// Moves a segment out of the way, for somebody to look at.
    pub(crate) fn quarantine(&self, number: u64) -> Result<PathBuf, LocalWalError> {
        let folder = self.quarantine_path();
        create_durably(&folder)?;
        let from = self.segment_path(number);
        let to = folder.join(local_segment(number));
        fs::rename(&from, &to).map_err(LocalWalError::io("move to quarantine", &from))?;
        sync_directory(&folder)?;
        self.sync()?;
        Ok(to)
    }

    /// Removes the oldest of the segments in quarantine, as long as there are more than `keep`, and
    /// only of `earlier`: those that were there before. What goes is said.
    pub(crate) fn trim_quarantine(
        &self,
        earlier: &[u64],
        keep: usize,
    ) -> Result<(), LocalWalError> {
        let excess = self.quarantined()?.len().saturating_sub(keep);
        for oldest in earlier.iter().take(excess) {
            let path = self.quarantine_path().join(local_segment(*oldest));
            fs::remove_file(&path).map_err(LocalWalError::io("remove", &path))?;
            tracing::error!(
                path = %path.display(), keep,
                "the quarantine of the local wal is full: its oldest segment is removed"
            );
        }
        Ok(())
    }

    /// Removes a segment file. Not fsynced: a segment that comes back after a power loss holds
    /// nothing that is missing in the bucket.
    pub(crate) fn remove(&self, number: u64) -> Result<(), LocalWalError> {
        let path = self.segment_path(number);
        fs::remove_file(&path).map_err(LocalWalError::io("remove", &path))
    }

    fn sync(&self) -> Result<(), LocalWalError> {
        self.inner
            .handle
            .sync_all()
            .map_err(LocalWalError::io("fsync", &self.inner.path))
    }
}

/// Segment files, as the writer uses them. A trait so that tests can have a full or a broken disk.
pub(crate) trait Device: Send + 'static {
    type File: SegmentFile;
    /// A new segment file of this size, its blocks reserved, its name durable.
    fn create(&mut self, number: u64, bytes: u64) -> io::Result<Self::File>;
    /// Gives a segment file another number, durably.
    fn rename(&mut self, from: u64, to: u64) -> io::Result<()>;
    /// Removes a segment file.
    fn remove(&mut self, number: u64) -> io::Result<()>;
}

/// One open segment file.
pub(crate) trait SegmentFile: Send + 'static {
    /// Writes all of `pieces` one behind the other from `offset` on.
    fn write_at(&self, pieces: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Returns when everything written is on the disk.
    fn sync(&self) -> io::Result<()>;
}

impl Device for Directory {
    type File = File;

    fn create(&mut self, number: u64, bytes: u64) -> io::Result<File> {
        let path = self.segment_path(number);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        let reserved = reserve(&file, bytes, fallocate_all)
            .and_then(|()| file.sync_all())
            .and_then(|()| self.inner.handle.sync_all());
        if let Err(error) = reserved {
            // give back what a full disk could still give
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(file)
    }

    fn rename(&mut self, from: u64, to: u64) -> io::Result<()> {
        fs::rename(self.segment_path(from), self.segment_path(to))?;
        self.inner.handle.sync_all()
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        fs::remove_file(self.segment_path(number))
    }
}

impl SegmentFile for File {
    fn write_at(&self, mut pieces: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        while !pieces.is_empty() {
            let some = &pieces[..pieces.len().min(SLICES_MAX)];
            match rustix::io::pwritev(self, some, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut pieces, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

fn fallocate_all(file: &File, bytes: u64) -> Result<(), Errno> {
    fallocate(file, FallocateFlags::empty(), 0, bytes)
}

/// Gives the empty `file` its blocks. Where the file system cannot do that by itself (NFSv3, many of
/// those in user space), by writing zeros.
fn reserve(
    file: &File,
    bytes: u64,
    mut allocate: impl FnMut(&File, u64) -> Result<(), Errno>,
) -> io::Result<()> {
    loop {
        match allocate(file, bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return write_zeros(file, bytes),
            Err(error) => return Err(error.into()),
        }
    }
}

fn write_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_AT_ONCE];
    let mut at = 0;
    while at < bytes {
        let count = (bytes - at).min(ZEROS_AT_ONCE as u64);
        let count = usize::try_from(count).unwrap_or(ZEROS_AT_ONCE);
        file.write_all_at(&zeros[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

/// Makes a directory and every missing parent, and fsyncs the parent of each that it made.
fn create_durably(path: &Path) -> Result<(), LocalWalError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        create_durably(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(LocalWalError::io("create", path)(error));
        }
        _ => {}
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

fn sync_directory(path: &Path) -> Result<(), LocalWalError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(LocalWalError::io("fsync", path))
}

fn take_lock(dir: &Path) -> Result<File, LocalWalError> {
    let path = dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(LocalWalError::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _ = (&file).take(20).read_to_string(&mut holder);
            let holder = holder.trim().to_owned();
            return Err(LocalWalError::Locked {
                dir: dir.to_owned(),
                holder: (!holder.is_empty()).then_some(holder),
            });
        }
        Err(error) => return Err(LocalWalError::io("lock", &path)(error.into())),
    }
    // for the error message of the next one only; the lock is what counts
    let _ = file.set_len(0);
    let _ = writeln!(file, "{}", std::process::id());
    Ok(file)
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, LocalWalError> {
    let unknown = |what| LocalWalError::UnknownIdentity {
        dir: dir.to_owned(),
        what,
    };
    let path = dir.join(LOCAL_WAL_IDENTITY);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if segment_numbers(dir)?.is_empty() {
                Ok(None)
            } else {
                Err(unknown("missing"))
            };
        }
        Err(error) => return Err(LocalWalError::io("read", &path)(error)),
    };
    match decode_identity(&bytes) {
        Some(identity) => Ok(Some(identity)),
        None => Err(unknown("damaged")),
    }
}

fn write_identity(
    dir: &Path,
    handle: &File,
    cluster: ClusterId,
    disk: DiskId,
    broker: Option<BrokerId>,
) -> Result<DiskId, LocalWalError> {
    let bytes = encode_identity(cluster, disk, broker);
    let new = dir.join(LOCAL_WAL_IDENTITY_NEW);
    let path = dir.join(LOCAL_WAL_IDENTITY);
    File::create(&new)
        .and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, &path))
        .and_then(|()| handle.sync_all())
        .map_err(LocalWalError::io("write", &path))?;
    Ok(disk)
}

/// Writes the broker into an identity of version 1, which has none. A full disk must not keep a
/// start from replaying what lies on it, which is what makes room: there it stays at version 1.
fn name_broker(
    dir: &Path,
    handle: &File,
    cluster: ClusterId,
    disk: DiskId,
    broker: BrokerId,
) -> Result<DiskId, LocalWalError> {
    match write_identity(dir, handle, cluster, disk, Some(broker)) {
        Err(LocalWalError::Io { source, .. }) if is_full(&source) => {
            // give back what was written of it
            let _ = fs::remove_file(dir.join(LOCAL_WAL_IDENTITY_NEW));
            tracing::warn!(
                dir = %dir.display(), %broker, error = %source,
                "the disk is full: the local wal does not name its broker until a later start"
            );
            Ok(disk)
        }
        written => written,
    }
}

/// Removes what Firn put there, and nothing else. The identity goes last, so that a wipe that is
/// interrupted is taken up again.
fn wipe(dir: &Path) -> Result<(), LocalWalError> {
    for folder in [dir.to_owned(), dir.join(LOCAL_WAL_QUARANTINE)] {
        if !folder.is_dir() {
            continue;
        }
        for number in segment_numbers(&folder)? {
            let path = folder.join(local_segment(number));
            fs::remove_file(&path).map_err(LocalWalError::io("remove", &path))?;
        }
    }
    sync_directory(dir)?;
    let path = dir.join(LOCAL_WAL_IDENTITY);
    fs::remove_file(&path).map_err(LocalWalError::io("remove", &path))
}

fn segment_numbers(dir: &Path) -> Result<Vec<u64>, LocalWalError> {
    let mut numbers = Vec::new();
    for item in fs::read_dir(dir).map_err(LocalWalError::io("list", dir))? {
        let name = item.map_err(LocalWalError::io("list", dir))?.file_name();
        numbers.extend(name.to_str().and_then(parse_local_segment));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 2 * ZEROS_AT_ONCE as u64 + 5;

    /// Reserves an empty file on a file system that gives these answers, then lets it.
    fn reserved(answers: &[Errno]) -> (io::Result<()>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("segment")).unwrap();
        let mut answers = answers.iter();
        let outcome = reserve(&file, BYTES, |file, bytes| match answers.next() {
            Some(error) => Err(*error),
            None => file.set_len(bytes).map_err(|_| Errno::IO),
        });
        (outcome, file.metadata().unwrap().len())
    }

    #[test]
    fn a_reservation_that_a_signal_interrupts_is_made_again() {
        let (outcome, length) = reserved(&[Errno::INTR, Errno::INTR]);
        assert!(outcome.is_ok(), "{outcome:?}");
        assert_eq!(length, BYTES);
    }

    #[test]
    fn where_blocks_cannot_be_reserved_zeros_are_written() {
        for error in [Errno::OPNOTSUPP, Errno::NOSYS] {
            let (outcome, length) = reserved(&[error]);
            assert!(outcome.is_ok(), "{outcome:?}");
            assert_eq!(length, BYTES);
        }
    }

    #[test]
    fn a_full_or_broken_disk_is_not_written_to() {
        for error in [Errno::NOSPC, Errno::IO] {
            let (outcome, length) = reserved(&[error]);
            assert_eq!(
                outcome.unwrap_err().raw_os_error(),
                Some(error.raw_os_error())
            );
            assert_eq!(length, 0);
        }
    }
}
