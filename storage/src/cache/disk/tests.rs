use super::*;

const MIB: usize = 1024 * 1024;

fn key(block: u32) -> BlockKey {
    BlockKey {
        object: Key::listed("wal/00/1/2"),
        block,
    }
}

fn space(folder: &tempfile::TempDir, cluster: u8) -> DiskSpace {
    DiskSpace {
        directory: folder.path().to_path_buf(),
        bytes: 128 * MIB as u64,
        cluster: ClusterId([cluster; 16]),
    }
}

fn body(block: u32) -> Bytes {
    Bytes::from(vec![block as u8; CACHE_BLOCK_BYTES])
}

async fn held(cache: &FoyerCache, blocks: u32) -> usize {
    let mut held = 0;
    for block in 0..blocks {
        if let Some(bytes) = cache.find(&key(block)).await {
            assert_eq!(bytes, body(block), "never wrong bytes");
            held += 1;
        }
    }
    held
}

#[tokio::test]
async fn memory_alone_is_a_cache() {
    let cache = FoyerCache::open(4 * MIB, None).await.unwrap();
    for block in 0..100 {
        cache.insert(key(block), body(block));
    }
    assert!(cache.memory_bytes() <= 4 * MIB);
    assert!(held(&cache, 100).await > 0);
    cache.remove(&key(99));
    assert_eq!(cache.find(&key(99)).await, None);
    assert_eq!(cache.find(&key(100)).await, None);
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_found_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let cache = FoyerCache::open(8 * MIB, Some(&space(&folder, 1)))
        .await
        .unwrap();
    for block in 0..16 {
        cache.insert(key(block), body(block));
    }
    cache.close().await;
    drop(cache);
    let cache = FoyerCache::open(8 * MIB, Some(&space(&folder, 1)))
        .await
        .unwrap();
    assert_eq!(held(&cache, 16).await, 16);
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_on_disk_is_a_miss() {
    let folder = tempfile::tempdir().unwrap();
    let cache = FoyerCache::open(8 * MIB, Some(&space(&folder, 1)))
        .await
        .unwrap();
    for block in 0..16 {
        cache.insert(key(block), body(block));
    }
    cache.close().await;
    drop(cache);
    let own = folder
        .path()
        .join(disk_cache_dir(LAYOUT_VERSION, ClusterId([1; 16])));
    for entry in fs::read_dir(own).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        // one bit in every 300 KiB, which hits about every block
        bytes
            .iter_mut()
            .skip(5000)
            .step_by(300 * 1024)
            .for_each(|byte| *byte ^= 1);
        fs::write(&path, bytes).unwrap();
    }
    let cache = FoyerCache::open(8 * MIB, Some(&space(&folder, 1)))
        .await
        .unwrap();
    assert!(
        held(&cache, 16).await < 16,
        "the bytes of those that are found are right"
    );
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_of_another_cluster_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("cache-of-something-older")).unwrap();
    fs::create_dir(folder.path().join("not-ours")).unwrap();
    for cluster in [1, 2] {
        let cache = FoyerCache::open(8 * MIB, Some(&space(&folder, cluster)))
            .await
            .unwrap();
        assert_eq!(held(&cache, 1).await, 0);
        cache.insert(key(0), body(0));
        cache.close().await;
    }
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let own = disk_cache_dir(LAYOUT_VERSION, ClusterId([2; 16]));
    assert_eq!(names, [own.as_str(), LOCK_FILE, "not-ours"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = FoyerCache::open(8 * MIB, Some(&space(&folder, 1)))
        .await
        .unwrap();
    let second = FoyerCache::open(8 * MIB, Some(&space(&folder, 1))).await;
    assert!(matches!(second, Err(CacheError::InUse(_))));
    first.close().await;
}

#[tokio::test]
async fn a_disk_too_small_to_be_useful_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let space = DiskSpace {
        bytes: 1,
        ..space(&folder, 1)
    };
    let refused = FoyerCache::open(8 * MIB, Some(&space)).await;
    assert!(matches!(refused, Err(CacheError::TooSmall { .. })));
}

#[test]
fn entries_that_lie_about_their_length_do_not_decode() {
    let mut entry = Vec::new();
    SealedBlock::seal(&key(0), &body(0))
        .encode(&mut entry)
        .unwrap();
    assert!(SealedBlock::decode(&mut entry.as_slice()).is_ok());
    entry[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(SealedBlock::decode(&mut entry.as_slice()).is_err());
    let mut name = Vec::new();
    key(3).encode(&mut name).unwrap();
    assert_eq!(BlockKey::decode(&mut name.as_slice()).unwrap(), key(3));
    name[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(BlockKey::decode(&mut name.as_slice()).is_err());
}
