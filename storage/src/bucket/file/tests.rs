use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::*;

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
    let root = &store.0.root;
    let path = root.join("object");
    assert!(
        store
            .0
            .write_named_and_link(root, &path, &body("first"))
            .unwrap()
    );
    assert!(
        !store
            .0
            .write_named_and_link(root, &path, &body("second"))
            .unwrap()
    );
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
async fn a_store_whose_directory_failed_to_sync_proves_nothing_any_more() {
    let (_folder, store) = open();
    let options = || PutOptions::from(PutMode::Create);
    store
        .put_opts(&Path::from("wal/0"), body("x"), options())
        .await
        .unwrap();
    assert!(store.0.sync(FsPath::new("/nowhere/at/all")).is_err());
    assert!(
        store.get(&Path::from("wal/0")).await.is_err(),
        "a read could be taken as proof"
    );
    assert!(
        store
            .put_opts(&Path::from("wal/1"), body("x"), options())
            .await
            .is_err()
    );
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
