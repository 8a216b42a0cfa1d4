//! A local directory as an object store whose creates survive power loss.
//!
//! `object_store`'s own `LocalFileSystem` (0.13) links a file before anything is synced and never
//! syncs. Here a create is: write a file without a name, fsync it, give it its name by a hard link
//! (which fails if the name is taken: the conditional create), fsync the directory and the parent of
//! every directory that had to be made. Before the link there is nothing; after it the object is
//! whole; before the answer it is durable (I1, I2).
//!
//! Where the file system has no nameless files, the file is written under a temporary name in the
//! same directory, which lists leave out.
//!
//! A directory whose fsync failed may lie about what it holds, so the store stops for good: it must
//! not be read back as proof that something is durable. For the same reason who reads an object
//! that is being created waits for the end of that, however long the disk takes.

mod creating;
mod direct;
mod disk;
mod reading;
mod store;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use firn_proto::limits::FILE_BUFFER_BYTES_MAX;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::path::Path;
use object_store::{
    Attributes, Error, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, PutPayload,
    Result,
};

use creating::Creating;
use disk::{Directory, Disk, Draft, LocalDisk};
use reading::LongReads;

use super::error::{Effect, StoreFailure, UnclearKind};
use crate::low_priority::Workers;

const STORE: &str = "file";
/// Directories remembered as synced; when there are more, all are forgotten and synced once more.
const SYNCED_MAX: usize = 4096;
/// Reads of so many bytes do not hurry.
const LONG_BYTES: u64 = 1024 * 1024;
/// As many of those are under way at a time.
const READERS: usize = 4;

/// A directory that holds objects as files.
#[derive(Clone)]
pub struct FileStore(Arc<Inner>);

struct Inner {
    root: PathBuf,
    disk: Box<dyn Disk>,
    /// Directories whose own entry in their parent is known to be durable.
    synced: Mutex<BTreeSet<PathBuf>>,
    /// A directory's fsync has failed: nothing may be read as proof any more.
    poisoned: AtomicBool,
    /// What is linked and perhaps not durable yet.
    creating: Creating,
    reads: LongReads,
    /// Started when first needed; `None` if the machine gives no thread.
    readers: OnceLock<Option<Workers>>,
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
    /// What the operating system says, and when `root` or one of its parents is no directory.
    pub fn open(root: &FsPath) -> io::Result<Self> {
        Self::open_on(Box::new(LocalDisk::default()), root)
    }

    fn open_on(disk: Box<dyn Disk>, root: &FsPath) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        if let Some(there) = root.ancestors().find(|path| path.exists())
            && !there.is_dir()
        {
            let why = format!("{} is there and is no directory", there.display());
            return Err(io::Error::new(ErrorKind::NotADirectory, why));
        }
        for missing in missing_directories(&root) {
            disk.make_directory(missing)?;
            let parent = missing.parent().unwrap_or(missing);
            disk.sync_directory(&disk.open_directory(parent)?)?;
        }
        Ok(Self(Arc::new(Inner {
            root: root.canonicalize()?,
            disk,
            synced: Mutex::new(BTreeSet::new()),
            poisoned: AtomicBool::new(false),
            creating: Creating::default(),
            reads: LongReads::default(),
            readers: OnceLock::new(),
        })))
    }

    async fn create(&self, location: Path, body: PutPayload) -> Result<()> {
        let turn = self.0.creating.begin(&location).await;
        // The turn goes with the work, which goes on when nobody waits for it any more.
        let create = move |inner: &Inner| {
            let created = inner.create(&location, &body);
            drop(turn);
            created
        };
        self.run(create).await
    }

    async fn read(&self, location: Path, options: GetOptions) -> Result<GetResult> {
        loop {
            self.0.creating.ended(&location).await;
            let (path, options) = (location.clone(), options.clone());
            let is_long = matches!(&options.range, Some(GetRange::Bounded(range))
                if range.end.saturating_sub(range.start) >= LONG_BYTES);
            let read = move |inner: &Inner| inner.open_durable(&path, &options);
            let found = match is_long {
                true => self.run_slowly(read).await?,
                false => self.run(read).await?,
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }

    /// Removes the directories from `folder` down that hold no file. What is not empty stays.
    pub(super) async fn remove_empty(&self, folder: Path) -> Result<()> {
        self.run(move |inner| inner.remove_empty(&inner.file_path(&folder)))
            .await
    }

    /// [`Self::run`] on a thread of low priority: megabytes are copied, and clients come first. A
    /// disk that is slow does not read for those who have given up.
    async fn run_slowly<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let start = || {
            let started = Workers::start("files", READERS, &Arc::default());
            started
                .inspect_err(|error| tracing::error!(%error, "no thread to read files on"))
                .ok()
        };
        let Some(readers) = self.0.readers.get_or_init(start) else {
            return self.run(job).await;
        };
        let inner = Arc::clone(&self.0);
        let done = readers.run_if_wanted(move || {
            inner.check_poison()?;
            job(&inner)
        });
        done.await.map_err(|stopped| Error::Generic {
            store: STORE,
            source: Box::new(stopped),
        })?
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
            let detail = "an fsync of a directory failed earlier: check the disk and restart";
            return Err(StoreFailure {
                effect: Effect::None,
                detail: detail.to_owned(),
            }
            .into_error(STORE));
        }
        Ok(())
    }

    fn file_path(&self, location: &Path) -> PathBuf {
        self.root.join(location.as_ref())
    }

    fn create(&self, location: &Path, body: &PutPayload) -> Result<()> {
        let path = self.file_path(location);
        let parent = path.parent().unwrap_or(&self.root).to_path_buf();
        let failed = |error: io::Error| nothing_done(&path, &error);
        let begun = match self.begin(&path, &parent) {
            // Another process has removed directories that were empty.
            Err(_) if self.forget_removed(&parent) => self.begin(&path, &parent),
            begun => begun,
        };
        let (directory, mut draft) = begun?;
        self.disk.write(&mut draft, body).map_err(failed)?;
        self.disk.sync_file(&draft).map_err(failed)?;
        let linked = self.disk.link(&draft, &path).map_err(failed)?;
        // Also when the name was taken: whoever took it may have died before syncing it, and the
        // caller will rest on what it reads there.
        self.sync(&directory)?;
        if linked {
            return Ok(());
        }
        Err(Error::AlreadyExists {
            path: location.to_string(),
            source: "the file exists".into(),
        })
    }

    /// The directory that is to hold `path`, and a file in it that has no name yet.
    fn begin(&self, path: &FsPath, parent: &FsPath) -> Result<(Directory, Draft)> {
        self.make_directories(parent)?;
        let failed = |error: io::Error| nothing_done(path, &error);
        // Opened before there is anything to sync: with no file descriptor left, nothing is done.
        let directory = self.disk.open_directory(parent).map_err(failed)?;
        Ok((directory, self.disk.draft(parent).map_err(failed)?))
    }

    /// Forgets the directories down to `directory` that are not there any more; whether there were
    /// any.
    fn forget_removed(&self, directory: &FsPath) -> bool {
        let below_root = directory.ancestors().take_while(|d| *d != self.root);
        let removed: Vec<&FsPath> = below_root.filter(|made| !made.is_dir()).collect();
        let mut synced = self.synced();
        let known = removed.iter().filter(|made| synced.remove(**made));
        known.count() > 0
    }

    /// Makes the directories down to `directory` and makes sure that the entry of each survives
    /// power loss, also of those that another process or task has only just made.
    fn make_directories(&self, directory: &FsPath) -> Result<()> {
        let below_root: Vec<&FsPath> = directory
            .ancestors()
            .take_while(|d| *d != self.root)
            .collect();
        for made in below_root.into_iter().rev() {
            if self.synced().contains(made) {
                continue;
            }
            let failed = |error: io::Error| nothing_done(made, &error);
            let parent = made.parent().unwrap_or(&self.root);
            let parent = self.disk.open_directory(parent).map_err(failed)?;
            self.disk.make_directory(made).map_err(failed)?;
            self.sync(&parent)?;
            let mut synced = self.synced();
            if synced.len() >= SYNCED_MAX {
                synced.clear();
            }
            synced.insert(made.to_path_buf());
        }
        Ok(())
    }

    fn synced(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync(&self, directory: &Directory) -> Result<()> {
        self.disk.sync_directory(directory).map_err(|error| {
            self.poisoned.store(true, Ordering::Release);
            let directory = directory.path.display();
            tracing::error!(
                %directory, %error,
                "fsync of a bucket directory failed, the bucket is closed until a restart"
            );
            StoreFailure {
                effect: Effect::Unknown(UnclearKind::Failed),
                detail: format!("fsync {directory}: {error}"),
            }
            .into_error(STORE)
        })
    }

    /// The object; `None` if what is there may not be durable yet, since it is being created.
    fn open_durable(&self, location: &Path, options: &GetOptions) -> Result<Option<GetResult>> {
        let found = self.open_object(location, options)?;
        // Asked in this order: a create that has linked the object is under way until its fsync
        // has ended, and one that has failed has left the poison behind.
        if self.creating.is_under_way(location) {
            return Ok(None);
        }
        self.check_poison()?;
        Ok(Some(found))
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
        // Here and now, as a thread that waits for the disk is at hand.
        let payload = if options.head || range.end - range.start > FILE_BUFFER_BYTES_MAX as u64 {
            GetResultPayload::Stream(read_in_one(file, path, range.clone()))
        } else {
            let read = self.reads.read(&file, &path, range.clone());
            let bytes = read.map_err(|error| generic(&path, &error))?;
            GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed())
        };
        Ok(GetResult {
            payload,
            meta,
            range,
            attributes: Attributes::default(),
        })
    }

    /// The objects under `prefix` behind `after`, by name, in order. Their sizes are asked for one
    /// page at a time: a list often ends after the first.
    fn names(&self, prefix: Option<&Path>, after: Option<&Path>) -> Result<Vec<Path>> {
        let folder = prefix.cloned().unwrap_or_default();
        let mut found = Vec::new();
        self.names_into(&folder, after, &mut found)?;
        found.sort();
        Ok(found)
    }

    fn names_into(&self, folder: &Path, after: Option<&Path>, found: &mut Vec<Path>) -> Result<()> {
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
                self.names_into(&location, after, found)?;
            } else if after.is_none_or(|after| location > *after) {
                found.push(location);
            }
        }
        Ok(())
    }

    /// The sizes of objects; those that were deleted meanwhile are left out.
    fn sizes(&self, names: Vec<Path>) -> Result<Vec<ObjectMeta>> {
        let mut found = Vec::with_capacity(names.len());
        for location in names {
            let path = self.file_path(&location);
            match fs::metadata(&path).and_then(|metadata| meta(location, &metadata)) {
                Ok(object) => found.push(object),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(generic(&path, &error)),
            }
        }
        Ok(found)
    }

    fn remove_empty(&self, directory: &FsPath) -> Result<()> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(generic(directory, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| generic(directory, &e))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.remove_empty(&entry.path())?;
            }
        }
        match fs::remove_dir(directory) {
            Ok(()) => {
                // whoever needs it again makes it anew
                self.synced().remove(directory);
                Ok(())
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(generic(directory, &error)),
        }
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

/// The bytes of `range`, in one piece, when they are asked for. The memory is not filled with zeros
/// first, as `GetResultPayload::File` would do.
fn read_in_one(file: File, path: PathBuf, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    let read = move || -> io::Result<Bytes> {
        let mut file = file;
        let length = range.end - range.start;
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        file.seek(SeekFrom::Start(range.start))?;
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes.into())
    };
    let read = async move {
        let read = tokio::task::spawn_blocking(read).await?;
        read.map_err(|error| generic(&path, &error))
    };
    stream::once(read).boxed()
}

/// The directories on the way to `root` that are not there, outermost first.
fn missing_directories(root: &FsPath) -> Vec<&FsPath> {
    let mut missing: Vec<&FsPath> = root.ancestors().take_while(|d| !d.is_dir()).collect();
    missing.reverse();
    missing
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

fn nothing_done(path: &FsPath, error: &io::Error) -> Error {
    failed(path, error, Effect::None)
}

fn generic(path: &FsPath, error: &io::Error) -> Error {
    failed(path, error, Effect::Unknown(UnclearKind::Failed))
}

fn failed(path: &FsPath, error: &io::Error, effect: Effect) -> Error {
    let detail = format!("{}: {error}", path.display());
    StoreFailure::of_disk(error, effect, detail).into_error(STORE)
}

#[cfg(test)]
mod tests;
