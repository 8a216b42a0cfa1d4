use std::pin::{Pin, pin};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use rustix::io::Errno;

use super::disk::TEMPORARY;
use super::*;
use crate::bucket::{BucketError, CreateOutcome};

fn open() -> (tempfile::TempDir, FileStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(&folder.path().join("bucket")).unwrap();
    (folder, store)
}

fn body(text: &'static str) -> PutPayload {
    PutPayload::from_static(text.as_bytes())
}

#[test]
fn a_file_written_under_a_name_is_created_once_and_leaves_no_name_behind() {
    let (_folder, store) = open();
    let (root, disk) = (&store.0.root, LocalDisk::default());
    let path = root.join("object");
    for (text, first) in [("first", true), ("second", false)] {
        let mut draft = disk.draft_with_name(root).unwrap();
        disk.write(&mut draft, &body(text)).unwrap();
        assert_eq!(disk.link(&draft, &path).unwrap(), first);
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    assert_eq!(fs::read_dir(root).unwrap().count(), 1);
}

#[tokio::test]
async fn a_crash_between_write_and_link_leaves_nothing_to_see() {
    let (_folder, store) = open();
    fs::create_dir(store.0.root.join("wal")).unwrap();
    // What a process that has no nameless files leaves when it dies before the link.
    fs::write(
        store.0.root.join("wal").join(format!("{TEMPORARY}1-0")),
        "half",
    )
    .unwrap();
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!(listed, []);
    let options = PutOptions::from(PutMode::Create);
    store
        .put_opts(&Path::from("wal/0"), body("whole"), options)
        .await
        .unwrap();
    assert_eq!(
        store
            .get(&Path::from("wal/0"))
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap(),
        "whole"
    );
}

#[tokio::test]
async fn directories_that_another_process_has_removed_are_made_once_more() {
    let (_folder, store) = open();
    let options = || PutOptions::from(PutMode::Create);
    let path = Path::from("wal/7/0");
    store.put_opts(&path, body("x"), options()).await.unwrap();
    for removed in ["wal/7", "wal"] {
        fs::remove_dir_all(store.0.root.join(removed)).unwrap();
        store.put_opts(&path, body("y"), options()).await.unwrap();
        let read = store.get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(read, "y");
    }
}

#[tokio::test]
async fn an_overwrite_is_not_offered() {
    let (_folder, store) = open();
    assert!(store.put(&Path::from("wal/0"), body("x")).await.is_err());
}

#[tokio::test]
async fn a_body_of_many_pieces_is_written_whole() {
    let (_folder, store) = open();
    let pieces: Vec<Bytes> = (0..3000_u32)
        .map(|n| Bytes::from(n.to_be_bytes().to_vec()))
        .collect();
    let expected: Vec<u8> = pieces.concat();
    let options = PutOptions::from(PutMode::Create);
    let path = Path::from("wal/0");
    store
        .put_opts(&path, PutPayload::from_iter(pieces), options)
        .await
        .unwrap();
    assert_eq!(
        store.get(&path).await.unwrap().bytes().await.unwrap(),
        expected
    );
}

/// One step of a create, as the disk saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    MakeDirectory(String),
    Write,
    SyncFile,
    Link(String),
    SyncDirectory(String),
}

/// Records every step. From the step `dies_at` on, each one fails and does nothing: what a process
/// leaves that dies there.
#[derive(Debug)]
struct RecordingDisk {
    local: LocalDisk,
    root: PathBuf,
    did: Arc<Mutex<Vec<Did>>>,
    steps: Mutex<usize>,
    dies_at: usize,
}

impl RecordingDisk {
    fn step(&self, did: Did) -> io::Result<()> {
        let mut steps = self.steps.lock().unwrap();
        *steps += 1;
        if *steps > self.dies_at {
            return Err(io::Error::other("the disk died"));
        }
        self.did.lock().unwrap().push(did);
        Ok(())
    }

    fn name(&self, path: &FsPath) -> String {
        path.strip_prefix(&self.root).unwrap().display().to_string()
    }
}

impl Disk for RecordingDisk {
    fn make_directory(&self, path: &FsPath) -> io::Result<()> {
        self.step(Did::MakeDirectory(self.name(path)))?;
        self.local.make_directory(path)
    }

    fn open_directory(&self, path: &FsPath) -> io::Result<Directory> {
        self.local.open_directory(path)
    }

    fn draft(&self, parent: &FsPath) -> io::Result<Draft> {
        self.local.draft(parent)
    }

    fn write(&self, draft: &mut Draft, body: &PutPayload) -> io::Result<()> {
        self.step(Did::Write)?;
        self.local.write(draft, body)
    }

    fn sync_file(&self, draft: &Draft) -> io::Result<()> {
        self.step(Did::SyncFile)?;
        self.local.sync_file(draft)
    }

    fn link(&self, draft: &Draft, path: &FsPath) -> io::Result<bool> {
        self.step(Did::Link(self.name(path)))?;
        self.local.link(draft, path)
    }

    fn sync_directory(&self, directory: &Directory) -> io::Result<()> {
        self.step(Did::SyncDirectory(self.name(&directory.path)))?;
        self.local.sync_directory(directory)
    }
}

/// A store whose disk dies at its `dies_at`-th step, and what the disk did.
fn recorded(
    folder: &tempfile::TempDir,
    dies_at: usize,
) -> (io::Result<FileStore>, Arc<Mutex<Vec<Did>>>) {
    let root = folder.path().canonicalize().unwrap();
    let did = Arc::new(Mutex::new(Vec::new()));
    let disk = RecordingDisk {
        local: LocalDisk::default(),
        root: root.clone(),
        did: Arc::clone(&did),
        steps: Mutex::new(0),
        dies_at,
    };
    (FileStore::open_on(Box::new(disk), &root.join("a/b")), did)
}

#[tokio::test]
async fn a_create_syncs_the_file_before_its_name_and_every_new_name_before_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (store, did) = recorded(&folder, usize::MAX);
    let store = store.unwrap();
    let options = || PutOptions::from(PutMode::Create);
    store
        .put_opts(&Path::from("wal/7/0"), body("x"), options())
        .await
        .unwrap();
    let make = |name: &str| Did::MakeDirectory(name.to_owned());
    let sync = |name: &str| Did::SyncDirectory(name.to_owned());
    let link = |name: &str| Did::Link(name.to_owned());
    let opened = [make("a"), sync(""), make("a/b"), sync("a")];
    let made = [
        make("a/b/wal"),
        sync("a/b"),
        make("a/b/wal/7"),
        sync("a/b/wal"),
    ];
    let put = [
        Did::Write,
        Did::SyncFile,
        link("a/b/wal/7/0"),
        sync("a/b/wal/7"),
    ];
    assert_eq!(*did.lock().unwrap(), [opened, made, put.clone()].concat());

    did.lock().unwrap().clear();
    assert!(
        store
            .put_opts(&Path::from("wal/7/0"), body("y"), options())
            .await
            .is_err()
    );
    assert_eq!(
        *did.lock().unwrap(),
        put,
        "a name that is taken is made durable, too"
    );
}

#[tokio::test]
async fn wherever_the_disk_dies_the_object_is_whole_or_not_there() {
    for dies_at in 0..=12 {
        let folder = tempfile::tempdir().unwrap();
        let (store, did) = recorded(&folder, dies_at);
        let Ok(store) = store else {
            assert!(dies_at < 4);
            continue;
        };
        let path = Path::from("wal/7/0");
        let answer = store
            .put_opts(&path, body("whole"), PutOptions::from(PutMode::Create))
            .await;
        assert_eq!(answer.is_ok(), dies_at == 12, "died at {dies_at}");
        let linked = did
            .lock()
            .unwrap()
            .iter()
            .any(|did| matches!(did, Did::Link(_)));
        let file = store.0.file_path(&path);
        assert_eq!(
            fs::read_to_string(&file).ok(),
            linked.then(|| "whole".to_owned())
        );
        assert_eq!(linked, dies_at >= 11);
        // What is seen but not known to be durable is not given out as proof.
        assert_eq!(store.get(&path).await.is_ok(), answer.is_ok());
    }
}

#[tokio::test]
async fn a_full_disk_refuses_a_create_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // The write is the 9th step.
    let (store, _) = recorded(&folder, 8);
    let store = store.unwrap();
    let path = Path::from("wal/7/0");
    let answer = store
        .put_opts(&path, body("x"), PutOptions::from(PutMode::Create))
        .await;
    let error = answer.unwrap_err();
    assert!(matches!(
        crate::bucket::error::create_outcome("wal/7/0", &error),
        CreateOutcome::Refused(BucketError::Disk { .. })
    ));
    assert!(matches!(
        store.get(&path).await,
        Err(Error::NotFound { .. })
    ));
}

/// As the operating system answers where a right is lacking or the mount is read only, and here
/// whoever runs the test.
#[tokio::test]
async fn what_only_an_operator_can_mend_is_told_from_a_full_disk() {
    let (folder, store) = open();
    fs::write(folder.path().join("bucket/wal"), "in the way").unwrap();
    let path = Path::from("wal/7/0");
    let answer = store
        .put_opts(&path, body("x"), PutOptions::from(PutMode::Create))
        .await;
    let error = answer.unwrap_err();
    let outcome = crate::bucket::error::create_outcome("wal/7/0", &error);
    assert!(
        matches!(
            outcome,
            CreateOutcome::Refused(BucketError::DirectoryRefuses { .. })
        ),
        "{outcome:?}"
    );
    for (errno, effect) in [
        (Errno::ACCESS, Effect::Refused),
        (Errno::PERM, Effect::Refused),
        (Errno::ROFS, Effect::Refused),
        (Errno::NOSPC, Effect::None),
        (Errno::IO, Effect::None),
    ] {
        let failure = StoreFailure::of_disk(&errno.into(), Effect::None, String::new());
        assert_eq!(failure.effect, effect, "{errno}");
    }
}

#[test]
fn a_root_that_is_a_file_or_lies_below_one_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("not-a-folder");
    fs::write(&file, "x").unwrap();
    for root in [file.clone(), file.join("below")] {
        let error = FileStore::open(&root).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotADirectory);
        assert!(error.to_string().contains("not-a-folder"), "{error}");
    }
}

/// A disk whose fsync of the directory `stalls` begins and does not end until it is told how.
#[derive(Debug)]
struct StallingDisk {
    local: LocalDisk,
    stalls: &'static str,
    begun: tokio::sync::mpsc::UnboundedSender<()>,
    ends: Mutex<std::sync::mpsc::Receiver<io::Result<()>>>,
    drafts: Arc<std::sync::atomic::AtomicUsize>,
}

impl Disk for StallingDisk {
    fn make_directory(&self, path: &FsPath) -> io::Result<()> {
        self.local.make_directory(path)
    }

    fn open_directory(&self, path: &FsPath) -> io::Result<Directory> {
        self.local.open_directory(path)
    }

    fn draft(&self, parent: &FsPath) -> io::Result<Draft> {
        self.drafts.fetch_add(1, Ordering::Relaxed);
        self.local.draft(parent)
    }

    fn write(&self, draft: &mut Draft, body: &PutPayload) -> io::Result<()> {
        self.local.write(draft, body)
    }

    fn sync_file(&self, draft: &Draft) -> io::Result<()> {
        self.local.sync_file(draft)
    }

    fn link(&self, draft: &Draft, path: &FsPath) -> io::Result<bool> {
        self.local.link(draft, path)
    }

    fn sync_directory(&self, directory: &Directory) -> io::Result<()> {
        if directory.path.ends_with(self.stalls) {
            let _ = self.begun.send(());
            return self.ends.lock().unwrap().recv().unwrap();
        }
        self.local.sync_directory(directory)
    }
}

/// A create whose object has its name, whose fsync of that name stalls, and for which nobody waits
/// any more.
struct Stalled {
    _folder: tempfile::TempDir,
    store: FileStore,
    path: Path,
    end: std::sync::mpsc::Sender<io::Result<()>>,
    drafts: Arc<std::sync::atomic::AtomicUsize>,
}

impl Stalled {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
        let (end, ends) = std::sync::mpsc::channel();
        let drafts = Arc::default();
        let disk = StallingDisk {
            local: LocalDisk::default(),
            stalls: "wal/7",
            begun,
            ends: Mutex::new(ends),
            drafts: Arc::clone(&drafts),
        };
        let store = FileStore::open_on(Box::new(disk), &folder.path().join("bucket")).unwrap();
        let path = Path::from("wal/7/0");
        {
            let mut create =
                pin!(store.put_opts(&path, body("whole"), PutOptions::from(PutMode::Create)));
            tokio::select! {
                answer = &mut create => panic!("answered before it is durable: {answer:?}"),
                _ = has_begun.recv() => {}
            }
        }
        assert_eq!(
            fs::read_to_string(store.0.file_path(&path)).unwrap(),
            "whole"
        );
        Self {
            _folder: folder,
            store,
            path,
            end,
            drafts,
        }
    }

    /// Drives `request` until it waits for the create, or has ended without doing so.
    async fn until_waiting<F: Future>(&self, mut request: Pin<&mut F>) -> bool {
        loop {
            if futures::poll!(request.as_mut()).is_ready() {
                return false;
            }
            if self.store.0.creating.waiting(&self.path) > 0 {
                return true;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn what_a_stalled_fsync_has_not_made_durable_is_not_read_until_it_has() {
    let stalled = Stalled::new().await;
    let mut read = pin!(stalled.store.get(&stalled.path));
    assert!(
        stalled.until_waiting(read.as_mut()).await,
        "I2: a name that power loss takes away was given out as proof"
    );
    stalled.end.send(Ok(())).unwrap();
    assert_eq!(read.await.unwrap().bytes().await.unwrap(), "whole");
}

#[tokio::test]
async fn what_a_stalled_fsync_does_not_make_durable_is_never_read() {
    let stalled = Stalled::new().await;
    let mut head = pin!(stalled.store.head(&stalled.path));
    assert!(stalled.until_waiting(head.as_mut()).await);
    let failure = Err(io::Error::other("the disk died"));
    stalled.end.send(failure).unwrap();
    assert!(head.await.is_err());
    assert!(stalled.store.get(&stalled.path).await.is_err());
}

#[tokio::test]
async fn creates_that_are_repeated_against_a_stalled_disk_write_no_further_copies() {
    let stalled = Stalled::new().await;
    let options = || PutOptions::from(PutMode::Create);
    for _ in 0..3 {
        let again = stalled
            .store
            .put_opts(&stalled.path, body("whole"), options());
        let mut again = pin!(again);
        assert!(stalled.until_waiting(again.as_mut()).await);
    }
    assert_eq!(stalled.drafts.load(Ordering::Relaxed), 1);
    let last = stalled
        .store
        .put_opts(&stalled.path, body("whole"), options());
    stalled.end.send(Ok(())).unwrap();
    // and that of the name once more, on behalf of the one who is told that it is taken
    stalled.end.send(Ok(())).unwrap();
    assert!(matches!(last.await, Err(Error::AlreadyExists { .. })));
}
