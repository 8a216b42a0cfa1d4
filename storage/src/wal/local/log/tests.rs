use std::sync::{Arc, Mutex};

use super::*;
use crate::wal::testing::entry;

/// A disk in memory that can be full or broken.
#[derive(Clone, Debug, Default)]
struct FaultyDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Debug, Default)]
struct DiskState {
    room_for_segments: usize,
    segments: Vec<u64>,
    fail_write: Option<i32>,
    fail_sync: Option<i32>,
    syncs: usize,
    written: u64,
}

#[derive(Debug)]
struct FaultyFile(Arc<Mutex<DiskState>>);

impl FaultyDisk {
    fn with_room(segments: usize) -> Self {
        let disk = Self::default();
        disk.set(|state| state.room_for_segments = segments);
        disk
    }

    fn set<R>(&self, change: impl FnOnce(&mut DiskState) -> R) -> R {
        change(&mut self.state.lock().unwrap())
    }
}

impl Device for FaultyDisk {
    type File = FaultyFile;

    fn create(&mut self, number: u64, _bytes: u64) -> io::Result<FaultyFile> {
        self.set(|state| {
            if state.segments.len() >= state.room_for_segments {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            state.segments.push(number);
            Ok(())
        })?;
        Ok(FaultyFile(Arc::clone(&self.state)))
    }

    fn rename(&mut self, from: u64, to: u64) -> io::Result<()> {
        self.set(|state| {
            state.segments.retain(|number| *number != from);
            state.segments.push(to);
        });
        Ok(())
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        self.set(|state| state.segments.retain(|other| *other != number));
        Ok(())
    }
}

impl SegmentFile for FaultyFile {
    fn write_at(&self, pieces: &mut [IoSlice<'_>], _offset: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if let Some(errno) = state.fail_write {
            return Err(io::Error::from_raw_os_error(errno));
        }
        state.written += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.syncs += 1;
        match state.fail_sync {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
/// Room for three batches of 1000 bytes behind the header.
const SEGMENT: u64 = 4096 + 3 * 1128;

fn log(disk: &FaultyDisk) -> LocalLog<FaultyDisk> {
    let identity = (ClusterId([1; 16]), DiskId([2; 16]));
    LocalLog::new(disk.clone(), identity, StreamId(1), SEGMENT, 1)
}

fn commit(sequences: std::ops::Range<u64>) -> Vec<Numbered> {
    sequences
        .map(|sequence| Numbered {
            sequence,
            entry: entry(0, sequence as i64, sequence as i64, 1_000),
        })
        .collect()
}

#[test]
fn one_commit_is_one_fsync_for_each_segment_it_touches() {
    let disk = FaultyDisk::with_room(9);
    let mut log = log(&disk);
    assert_eq!(log.commit(&commit(1..4)).0, 3);
    assert_eq!(disk.set(|state| state.syncs), 1);
    assert_eq!(log.commit(&commit(4..11)).0, 7);
    assert_eq!(disk.set(|state| state.syncs), 4);
}

#[test]
fn a_full_disk_takes_what_fits_and_the_rest_when_there_is_room() {
    let disk = FaultyDisk::with_room(1);
    let mut log = log(&disk);
    let all = commit(1..6);
    let (done, outcome) = log.commit(&all);
    assert_eq!(done, 3);
    assert!(matches!(outcome, Err(CommitError::Full(_))));
    assert!(matches!(
        log.commit(&all[3..]),
        (0, Err(CommitError::Full(_)))
    ));
    disk.set(|state| state.room_for_segments = 2);
    assert!(matches!(log.commit(&all[3..]), (2, Ok(()))));
}

#[test]
fn a_write_that_finds_no_room_may_be_tried_again() {
    let disk = FaultyDisk::with_room(9);
    let mut log = log(&disk);
    disk.set(|state| state.fail_write = Some(ENOSPC));
    assert!(matches!(
        log.commit(&commit(1..2)),
        (0, Err(CommitError::Full(_)))
    ));
    disk.set(|state| state.fail_write = None);
    assert!(matches!(log.commit(&commit(1..2)), (1, Ok(()))));
}

#[test]
fn a_failed_fsync_is_never_taken_for_a_full_disk() {
    for errno in [EIO, ENOSPC] {
        let disk = FaultyDisk::with_room(9);
        let mut log = log(&disk);
        disk.set(|state| state.fail_sync = Some(errno));
        let outcome = log.commit(&commit(1..2));
        assert!(
            matches!(outcome, (0, Err(CommitError::Device(_)))),
            "errno {errno}"
        );
    }
}

#[test]
fn segments_are_used_again_only_when_all_in_them_is_durable() {
    let disk = FaultyDisk::with_room(2);
    let mut log = log(&disk);
    assert_eq!(log.commit(&commit(1..7)).0, 6);
    log.release(3);
    assert_eq!(log.commit(&commit(7..8)).0, 0, "entry 3 is not durable yet");
    log.release(4);
    assert!(matches!(log.commit(&commit(7..8)), (1, Ok(()))));
    assert_eq!(disk.set(|state| state.segments.clone()), [2, 3]);
}

#[test]
fn no_more_than_a_few_used_segments_are_kept() {
    let disk = FaultyDisk::with_room(100);
    let mut log = log(&disk);
    log.commit(&commit(1..100)).1.unwrap();
    assert_eq!(disk.set(|state| state.segments.len()), 33);
    log.release(100);
    assert_eq!(disk.set(|state| state.segments.len()), 1 + SPARES_MAX);
    log.remove_all();
    assert_eq!(disk.set(|state| state.segments.len()), 0);
}

#[test]
fn the_next_segment_is_reserved_before_it_is_needed() {
    let disk = FaultyDisk::with_room(100);
    let mut log = log(&disk);
    log.prepare();
    log.commit(&commit(1..2)).1.unwrap();
    log.prepare();
    assert_eq!(
        disk.set(|state| state.segments.len()),
        2,
        "more than half is used"
    );
    log.prepare();
    assert_eq!(disk.set(|state| state.segments.len()), 2);
}
