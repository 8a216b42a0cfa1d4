//! A local directory as an object store whose creates survive power loss.
//!
//! `object_store`'s own `LocalFileSystem` (0.13) links a file before anything is synced and never
//! syncs. Here a create is: write a file without a name, fsync it, give it its name by a hard link
//! (which fails if the name is taken: the conditional create), fsync the directory and the parent of
//! every directory that had to be made. Before the link there is nothing; after it the object is
//! whole; before the answer it is durable (DESIGN §3).
//!
//! Where the file system has no nameless files, the file is written under a temporary name in the
//! same directory, which lists leave out.
//!
//! A directory whose fsync failed may lie about what it holds, so the store stops for good: it must
//! not be read back as proof that something is durable.

mod store;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{
    Attributes, Error, GetOptions, GetResult, GetResultPayload, ObjectMeta, PutPayload, Result,
};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::error::{Effect, StoreFailure, UnclearKind};

const STORE: &str = "file";
/// Begins every temporary name.
const TEMPORARY: &str = ".tmp-";
/// Directories remembered as synced; when there are more, all are forgotten and synced once more.
const SYNCED_MAX: usize = 4096;

/// A directory that holds objects as files.
#[derive(Clone)]
pub struct FileStore(Arc<Inner>);

struct Inner {
    root: PathBuf,
    /// Directories whose own entry in their parent is known to be durable.
    synced: Mutex<BTreeSet<PathBuf>>,
    /// A directory's fsync has failed: nothing may be read as proof any more.
    poisoned: AtomicBool,
    /// Tells the temporary names of this process apart.
    next_temporary: AtomicU64,
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileStore({})", self.0.root.display())
    }
}

impl fmt::Display for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FileStore {
    /// Opens `root`, which is made if it is missing, with its parents.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(root: &FsPath) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root = root.canonicalize()?;
        for directory in root.ancestors().skip(1).take(2) {
            // Best effort above the root: a parent may be one that we may not open.
            let _ = sync_directory(directory);
        }
        Ok(Self(Arc::new(Inner {
            root,
            synced: Mutex::new(BTreeSet::new()),
            poisoned: AtomicBool::new(false),
            next_temporary: AtomicU64::new(0),
        })))
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || {
            inner.check_poison()?;
            job(&inner)
        })
        .await?
    }
}

impl Inner {
    fn check_poison(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(nothing_done(
                "an fsync of a directory failed earlier: check the disk and restart".to_owned(),
            ));
        }
        Ok(())
    }

    fn file_path(&self, location: &Path) -> PathBuf {
        self.root.join(location.as_ref())
    }

    fn create(&self, location: &Path, body: &PutPayload) -> Result<()> {
        let path = self.file_path(location);
        let parent = path.parent().unwrap_or(&self.root).to_path_buf();
        self.make_directories(&parent)?;
        let linked = self
            .write_and_link(&parent, &path, body)
            .map_err(|e| nothing_done(format!("{}: {e}", path.display())))?;
        // Also when the name was taken: whoever took it may have died before syncing it, and the
        // caller will rest on what it reads there.
        self.sync(&parent)?;
        if linked {
            return Ok(());
        }
        Err(Error::AlreadyExists {
            path: location.to_string(),
            source: "the file exists".into(),
        })
    }

    /// Whether the file got its name; `false` if the name was taken.
    fn write_and_link(
        &self,
        parent: &FsPath,
        path: &FsPath,
        body: &PutPayload,
    ) -> io::Result<bool> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let nameless = rustix::fs::openat(CWD, parent, flags, Mode::from_raw_mode(0o644));
        let Ok(nameless) = nameless else {
            return self.write_named_and_link(parent, path, body);
        };
        let mut file = File::from(nameless);
        write_pieces(&mut file, body)?;
        file.sync_all()?;
        let descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        match rustix::fs::linkat(CWD, descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(rustix::io::Errno::NOENT) => self.write_named_and_link(parent, path, body),
            Err(error) => Err(error.into()),
        }
    }

    fn write_named_and_link(
        &self,
        parent: &FsPath,
        path: &FsPath,
        body: &PutPayload,
    ) -> io::Result<bool> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let name = format!("{TEMPORARY}{}-{number}", std::process::id());
        let temporary = parent.join(name);
        let result = (|| {
            let mut file = File::create(&temporary)?;
            write_pieces(&mut file, body)?;
            file.sync_all()?;
            match fs::hard_link(&temporary, path) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(error),
            }
        })();
        let _ = fs::remove_file(&temporary);
        result
    }

    /// Makes the directories down to `directory` and makes sure that the entry of each survives
    /// power loss, also of those that another process or task has only just made.
    fn make_directories(&self, directory: &FsPath) -> Result<()> {
        if self.synced().contains(directory) {
            return Ok(());
        }
        fs::create_dir_all(directory)
            .map_err(|e| nothing_done(format!("{}: {e}", directory.display())))?;
        for made in directory.ancestors().take_while(|d| *d != self.root) {
            if self.synced().contains(made) {
                break;
            }
            self.sync(made.parent().unwrap_or(&self.root))?;
        }
        let mut synced = self.synced();
        if synced.len() >= SYNCED_MAX {
            synced.clear();
        }
        for made in directory.ancestors().take_while(|d| *d != self.root) {
            synced.insert(made.to_path_buf());
        }
        Ok(())
    }

    fn synced(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync(&self, directory: &FsPath) -> Result<()> {
        sync_directory(directory).map_err(|error| {
            self.poisoned.store(true, Ordering::Release);
            tracing::error!(
                directory = %directory.display(), %error,
                "fsync of a bucket directory failed, the bucket is closed until a restart"
            );
            StoreFailure {
                effect: Effect::Unknown(UnclearKind::Failed),
                detail: format!("fsync {}: {error}", directory.display()),
            }
            .into_error(STORE)
        })
    }

    fn open_object(&self, location: &Path, options: &GetOptions) -> Result<GetResult> {
        let path = self.file_path(location);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok((metadata, file)) if metadata.is_file() => (metadata, file),
            Ok(_) => return Err(absent(location, "a directory")),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(absent(location, "no such file"));
            }
            Err(error) => return Err(generic(&path, &error)),
        };
        let meta = meta(location.clone(), &metadata).map_err(|e| generic(&path, &e))?;
        let range: Range<u64> = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(|e| Error::Generic {
                store: STORE,
                source: Box::new(e),
            })?,
            None => 0..meta.size,
        };
        Ok(GetResult {
            payload: GetResultPayload::File(file, path),
            meta,
            range,
            attributes: Attributes::default(),
        })
    }

    fn list(&self, prefix: Option<&Path>, after: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let folder = prefix.cloned().unwrap_or_default();
        let mut found = Vec::new();
        self.list_into(&folder, after, &mut found)?;
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    fn list_into(
        &self,
        folder: &Path,
        after: Option<&Path>,
        found: &mut Vec<ObjectMeta>,
    ) -> Result<()> {
        let directory = self.file_path(folder);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(generic(&directory, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| generic(&directory, &e))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|n| !n.starts_with('.')) else {
                continue;
            };
            let location = folder.clone().join(name);
            let kind = entry.file_type().map_err(|e| generic(&directory, &e))?;
            if kind.is_dir() {
                self.list_into(&location, after, found)?;
            } else if after.is_none_or(|after| location > *after) {
                match entry.metadata().and_then(|m| meta(location, &m)) {
                    Ok(object) => found.push(object),
                    // Deleted since the directory was read.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(generic(&directory, &error)),
                }
            }
        }
        Ok(())
    }

    fn delete(&self, location: &Path) -> Result<()> {
        let path = self.file_path(location);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(absent(location, "no such file"))
            }
            Err(error) => Err(generic(&path, &error)),
        }
    }
}

fn write_pieces(file: &mut File, body: &PutPayload) -> io::Result<()> {
    const PIECES_AT_ONCE: usize = 512;
    let pieces: Vec<&Bytes> = body.iter().filter(|piece| !piece.is_empty()).collect();
    for pieces in pieces.chunks(PIECES_AT_ONCE) {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn sync_directory(directory: &FsPath) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn meta(location: Path, metadata: &fs::Metadata) -> io::Result<ObjectMeta> {
    Ok(ObjectMeta {
        location,
        last_modified: metadata.modified()?.into(),
        size: metadata.len(),
        e_tag: None,
        version: None,
    })
}

fn absent(location: &Path, why: &'static str) -> Error {
    Error::NotFound {
        path: location.to_string(),
        source: why.into(),
    }
}

fn nothing_done(detail: String) -> Error {
    StoreFailure {
        effect: Effect::None,
        detail,
    }
    .into_error(STORE)
}

fn generic(path: &FsPath, error: &io::Error) -> Error {
    StoreFailure {
        effect: Effect::Unknown(UnclearKind::Failed),
        detail: format!("{}: {error}", path.display()),
    }
    .into_error(STORE)
}

#[cfg(test)]
mod tests;
