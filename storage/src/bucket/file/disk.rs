//! The steps of the operating system that a create consists of, behind a trait so that tests can
//! record their order and let any of them fail.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::PutPayload;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::direct::DirectWriter;

/// Begins every temporary name.
pub(super) const TEMPORARY: &str = ".tmp-";

/// Changes to a file system, one at a time.
pub(super) trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Makes one directory; one that is there is fine.
    fn make_directory(&self, path: &Path) -> io::Result<()>;

    /// Opens a directory, so that it can be synced later whatever happens to file descriptors.
    fn open_directory(&self, path: &Path) -> io::Result<Directory>;

    /// A new file in `parent` that nobody sees yet.
    fn draft(&self, parent: &Path) -> io::Result<Draft>;

    /// Writes the pieces of `body`, one after the other.
    fn write(&self, draft: &mut Draft, body: &PutPayload) -> io::Result<()>;

    /// Makes the bytes of the file durable.
    fn sync_file(&self, draft: &Draft) -> io::Result<()>;

    /// Gives the file its name; `false` if the name is taken.
    fn link(&self, draft: &Draft, path: &Path) -> io::Result<bool>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Directory) -> io::Result<()>;
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    handle: File,
}

/// A file that is being written. Without a name, or with a temporary one that it loses when dropped.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    temporary: Option<PathBuf>,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// The file system of the machine.
#[derive(Debug, Default)]
pub(super) struct LocalDisk {
    /// Tells the temporary names of this process apart.
    next_temporary: AtomicU64,
    pub(super) direct: DirectWriter,
}

impl LocalDisk {
    /// For file systems that have no nameless files.
    pub(super) fn draft_with_name(&self, parent: &Path) -> io::Result<Draft> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = parent.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
        let file = File::create(&temporary)?;
        Ok(Draft {
            file,
            temporary: Some(temporary),
        })
    }
}

impl Disk for LocalDisk {
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn open_directory(&self, path: &Path) -> io::Result<Directory> {
        Ok(Directory {
            path: path.to_path_buf(),
            handle: File::open(path)?,
        })
    }

    fn draft(&self, parent: &Path) -> io::Result<Draft> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, parent, flags, Mode::from_raw_mode(0o644)) {
            // The name for linking it comes from /proc.
            Ok(file) if Path::new(PROC_DESCRIPTORS).exists() => Ok(Draft {
                file: file.into(),
                temporary: None,
            }),
            _ => self.draft_with_name(parent),
        }
    }

    fn write(&self, draft: &mut Draft, body: &PutPayload) -> io::Result<()> {
        const PIECES_AT_ONCE: usize = 512;
        if self.direct.write(&draft.file, body)? {
            return Ok(());
        }
        let pieces: Vec<&Bytes> = body.iter().filter(|piece| !piece.is_empty()).collect();
        for pieces in pieces.chunks(PIECES_AT_ONCE) {
            let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
            let mut rest = slices.as_mut_slice();
            while !rest.is_empty() {
                match draft.file.write_vectored(rest) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(written) => IoSlice::advance_slices(&mut rest, written),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn sync_file(&self, draft: &Draft) -> io::Result<()> {
        draft.file.sync_all()
    }

    fn link(&self, draft: &Draft, path: &Path) -> io::Result<bool> {
        let linked = match &draft.temporary {
            Some(temporary) => fs::hard_link(temporary, path),
            None => {
                let descriptor = format!("{PROC_DESCRIPTORS}/{}", draft.file.as_raw_fd());
                rustix::fs::linkat(CWD, descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW)
                    .map_err(io::Error::from)
            }
        };
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync_directory(&self, directory: &Directory) -> io::Result<()> {
        directory.handle.sync_all()
    }
}

const PROC_DESCRIPTORS: &str = "/proc/self/fd";
