use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use firn_proto::limits::LOCAL_QUARANTINE_SEGMENTS_MAX;
use tempfile::TempDir;

use super::format::{ENTRY_HEADER, SEGMENT_HEADER, SegmentHeader, entry_bytes};
use super::log::Numbered;
use super::*;
use crate::layout::local_segment;
use crate::wal::WalEntry;
use crate::wal::testing::entry;

const CLUSTER: ClusterId = ClusterId([1; 16]);
const SEGMENT_BYTES: u64 = 16 * 1024;

fn options(dir: &Path) -> LocalWalOptions {
    LocalWalOptions {
        segment_bytes: SEGMENT_BYTES,
        ..LocalWalOptions::new(dir, Some(BrokerId(1)))
    }
}

/// Opens it without reserving a segment.
fn open(dir: &Path) -> (LocalWal, Recovered) {
    LocalWal::take(&options(dir), CLUSTER, &Entropy::from_seed(1)).unwrap()
}

/// Opens it as a start does.
fn start(dir: &Path) -> (LocalWal, Recovered) {
    LocalWal::open(&options(dir), CLUSTER, &Entropy::from_seed(1)).unwrap()
}

/// Writes each of `commits` with an fsync of its own, as one process would, and ends.
fn write(dir: &Path, commits: &[Vec<WalEntry>]) {
    write_in(dir, StreamId(7), commits);
}

fn write_in(dir: &Path, stream: StreamId, commits: &[Vec<WalEntry>]) {
    let (local, _) = open(dir);
    let mut sequence = local.next_sequence();
    let mut log = local.into_log(stream);
    for commit in commits {
        let commit: Vec<_> = commit
            .iter()
            .map(|entry| {
                sequence += 1;
                Numbered {
                    sequence,
                    entry: entry.clone(),
                }
            })
            .collect();
        let (done, outcome) = log.commit(&commit);
        outcome.unwrap();
        assert_eq!(done, commit.len());
    }
}

/// The bytes of a segment with `entries` entries.
pub(crate) fn one_segment(dir: &Path, entries: i64) -> Bytes {
    write(
        dir,
        &[(0..entries).map(|base| entry(0, base, base, 100)).collect()],
    );
    fs::read(segment(dir, 1)).unwrap().into()
}

fn bases(recovered: &Recovered) -> Vec<i64> {
    recovered
        .rows()
        .iter()
        .map(|row| row.entry.base_offset)
        .collect()
}

/// Damages a file: one bit of the byte at each of these places.
fn flip(path: &Path, places: &[usize]) {
    let mut bytes = fs::read(path).unwrap();
    for place in places {
        bytes[*place] ^= 1;
    }
    fs::write(path, bytes).unwrap();
}

fn segment(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.wal"))
}

/// Three commits: offsets 0, then 1 and 2, then 3, 4 and 5; 100 bytes each.
fn three_commits(dir: &Path) {
    let of = |range: std::ops::Range<i64>| range.map(|base| entry(0, base, base, 100)).collect();
    write(dir, &[of(0..1), of(1..3), of(3..6)]);
}

/// Where the entry with the `index`th offset begins in the segment of [`three_commits`].
fn place(index: usize) -> usize {
    SEGMENT_HEADER + index * entry_bytes(100)
}

#[test]
fn what_was_committed_is_found_again_with_every_byte() {
    let dir = TempDir::new().unwrap();
    let entries: Vec<_> = [0, 1, 4_000, 4_096, 10_000, 3]
        .iter()
        .enumerate()
        .map(|(index, bytes)| {
            entry(
                index as i32 % 2,
                5_000_000_000 + index as i64,
                5_000_000_000 + index as i64,
                *bytes,
            )
        })
        .collect();
    write(dir.path(), &[entries[..2].to_vec(), entries[2..].to_vec()]);
    let (_, recovered) = open(dir.path());
    let found: Vec<_> = recovered
        .rows()
        .iter()
        .map(|row| recovered.read(row).unwrap())
        .collect();
    assert_eq!(found, entries);
    assert!(recovered.rows().iter().all(|row| row.stream == StreamId(7)));
    assert_eq!(recovered.damaged(), []);
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let dir = TempDir::new().unwrap();
    let large = entry(0, 1, 1, 3 * SEGMENT_BYTES as usize);
    write(
        dir.path(),
        &[vec![entry(0, 0, 0, 10), large.clone(), entry(0, 2, 2, 10)]],
    );
    let (_, recovered) = open(dir.path());
    assert_eq!(bases(&recovered), [0, 1, 2]);
    assert_eq!(recovered.read(&recovered.rows()[1]).unwrap(), large);
}

#[test]
fn a_tail_that_was_cut_at_any_byte_loses_only_the_last_commit() {
    let whole = TempDir::new().unwrap();
    three_commits(whole.path());
    let bytes = fs::read(segment(whole.path(), 1)).unwrap();
    let end = place(6);
    for cut in place(3)..=end {
        for zeros in [false, true] {
            let mut torn = bytes[..cut].to_vec();
            if zeros {
                torn.resize(bytes.len(), 0);
            }
            fs::write(segment(whole.path(), 1), torn).unwrap();
            let (_, recovered) = open(whole.path());
            let found = bases(&recovered);
            let last = (0..=3).rev().find(|entries| {
                // the padding of an entry does not count
                cut >= place(3) + entries * entry_bytes(100) - if *entries > 0 { 4 } else { 0 }
            });
            let expected: Vec<i64> = (0..3 + last.unwrap() as i64).collect();
            assert_eq!(found, expected, "cut at {cut}, zeros behind: {zeros}");
            assert_eq!(recovered.damaged(), [], "cut at {cut}");
        }
    }
}

#[test]
fn garbage_behind_the_tail_is_not_taken_for_an_entry() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    let path = segment(dir.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    for (index, byte) in bytes[place(6)..].iter_mut().enumerate() {
        *byte = (index as u8).wrapping_mul(167) ^ 0x5a;
    }
    fs::write(&path, bytes).unwrap();
    let (_, recovered) = open(dir.path());
    assert_eq!(bases(&recovered), [0, 1, 2, 3, 4, 5]);
    assert_eq!(recovered.damaged(), []);
}

#[test]
fn an_entry_of_the_last_commit_that_is_torn_in_the_middle_is_a_torn_tail() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    let path = segment(dir.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    // the disk wrote the end of the last commit but not its middle before the power went
    bytes[place(4)..place(5)].fill(0);
    fs::write(&path, bytes).unwrap();
    let (_, recovered) = open(dir.path());
    assert_eq!(bases(&recovered), [0, 1, 2, 3]);
    assert_eq!(recovered.damaged(), []);
}

#[test]
fn a_flipped_bit_below_what_was_fsynced_is_corruption_and_hides_nothing_else() {
    let whole = TempDir::new().unwrap();
    three_commits(whole.path());
    let path = segment(whole.path(), 1);
    let bytes = fs::read(&path).unwrap();
    for at in (place(1)..place(2) - 4).step_by(7) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        fs::write(&path, flipped).unwrap();
        let (_, recovered) = open(whole.path());
        assert_eq!(bases(&recovered), [0, 2, 3, 4, 5], "byte {at}");
        let damage = DamagedSegment {
            segment: 1,
            offset: place(1) as u64,
        };
        assert_eq!(recovered.damaged(), [damage]);
    }
}

#[test]
fn a_damaged_segment_header_is_corruption_and_hides_no_entry() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    flip(&segment(dir.path(), 1), &[50]);
    let (_, recovered) = open(dir.path());
    assert_eq!(bases(&recovered), [0, 1, 2, 3, 4, 5]);
    assert_eq!(recovered.damaged().len(), 1);
}

#[test]
fn a_segment_that_ends_before_the_next_one_began_is_corruption() {
    let dir = TempDir::new().unwrap();
    let commits: Vec<_> = (0..40)
        .map(|base| vec![entry(0, base, base, 1_000)])
        .collect();
    write(dir.path(), &commits);
    let path = segment(dir.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    let last_of_first = SEGMENT_HEADER + 9 * entry_bytes(1_000);
    assert_eq!(bytes[last_of_first..last_of_first + 4], format::ENTRY_MAGIC);
    bytes[last_of_first..].fill(0);
    fs::write(&path, bytes).unwrap();
    let (_, recovered) = open(dir.path());
    assert_eq!(bases(&recovered).len(), 39);
    assert_eq!(recovered.damaged()[0].offset, last_of_first as u64);
}

#[test]
fn an_entry_inside_a_batch_is_not_taken_for_one() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    // a producer that knows the format puts a whole entry into a batch of its own
    let bytes = fs::read(segment(dir.path(), 1)).unwrap();
    let mut forged = bytes[place(5)..place(6)].to_vec();
    forged[120] ^= 1;
    let crc = crc_fast::crc32_iscsi(&forged[8..ENTRY_HEADER]);
    forged[4..8].copy_from_slice(&crc.to_le_bytes());
    let mut carrier = entry(0, 6, 6, 0);
    carrier.records = Bytes::from(forged);
    let other = TempDir::new().unwrap();
    write(other.path(), &[vec![entry(0, 0, 0, 100)], vec![carrier]]);
    // its header is torn, what it carries is not
    flip(&segment(other.path(), 1), &[place(1)]);
    let (_, recovered) = open(other.path());
    assert_eq!(bases(&recovered), [0]);
    assert_eq!(recovered.damaged(), []);
}

#[test]
fn a_used_segment_is_written_again_and_its_old_entries_are_forgotten() {
    let dir = TempDir::new().unwrap();
    let (local, _) = open(dir.path());
    let mut log = local.into_log(StreamId(7));
    for sequence in 1..=100 {
        let base = sequence as i64;
        log.commit(&[Numbered {
            sequence,
            entry: entry(0, base, base, 1_000),
        }])
        .1
        .unwrap();
        log.release(sequence.saturating_sub(3));
        log.prepare();
    }
    drop(log);
    assert!(fs::read_dir(dir.path()).unwrap().count() <= 8);
    let (local, recovered) = open(dir.path());
    let found = bases(&recovered);
    assert!(found.ends_with(&[97, 98, 99, 100]), "{found:?}");
    assert!(found.is_sorted());
    assert!(found.len() < 40, "{found:?}");
    assert_eq!(recovered.damaged(), []);
    assert_eq!(local.next_sequence(), 101);
}

#[test]
fn what_is_forgotten_is_gone_and_damage_is_kept_in_quarantine() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    flip(&segment(dir.path(), 1), &[place(0) + 20]);
    write(dir.path(), &[vec![entry(1, 0, 0, 10)]]);
    let (local, recovered) = open(dir.path());
    assert_eq!(recovered.rows().len(), 6);
    recovered.forget(&[], &[], &BTreeSet::new()).unwrap();
    drop(local);
    assert!(dir.path().join("quarantine/0000000000000001.wal").exists());
    let (_, recovered) = open(dir.path());
    assert_eq!(recovered.rows(), []);
    assert_eq!(recovered.damaged(), []);
}

/// Of one whose entries are all gone only the streams of its neighbours say something.
#[test]
fn a_damaged_segment_may_lack_entries_of_its_own_stream_and_of_no_other() {
    for is_hollow in [false, true] {
        let dir = TempDir::new().unwrap();
        for stream in [4, 7, 9] {
            let commits = [0, 1, 2].map(|base| vec![entry(0, base, base, 100)]);
            write_in(dir.path(), StreamId(stream), &commits);
        }
        let places = [place(0) + 20, place(1) + 20, place(2) + 20];
        flip(
            &segment(dir.path(), 2),
            if is_hollow { &places } else { &places[..1] },
        );
        if is_hollow {
            // what the next segment of the same process would say
            let next = segment(dir.path(), 3);
            let header = SegmentHeader {
                previous: Some((2, place(3) as u64)),
                ..SegmentHeader::decode(&fs::read(&next).unwrap()).unwrap()
            };
            let mut behind = fs::read(&next).unwrap();
            let header = header.encode();
            behind[..header.len()].copy_from_slice(&header);
            fs::write(next, behind).unwrap();
        }
        let (_, recovered) = open(dir.path());
        assert_eq!(recovered.damaged().len(), 1);
        let lacks: Vec<_> = (3..=10)
            .filter(|s| recovered.may_lack(StreamId(*s)))
            .collect();
        let expected: &[u64] = match is_hollow {
            false => &[7],
            true => &[4, 5, 6, 7, 8, 9],
        };
        assert_eq!(lacks, expected);
    }
}

#[test]
fn what_is_held_back_stays_and_is_found_as_it_was() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    let path = segment(dir.path(), 1);
    flip(&path, &[place(0) + 20]);
    write_in(dir.path(), StreamId(8), &[vec![entry(1, 0, 0, 10)]]);
    for _ in 0..2 {
        let (local, recovered) = open(dir.path());
        assert_eq!(recovered.damaged().len(), 1);
        recovered.forget(&[], &[], &[StreamId(7)].into()).unwrap();
        drop(local);
        assert!(path.exists() && !segment(dir.path(), 2).exists());
    }
    let (_, recovered) = open(dir.path());
    assert_eq!(bases(&recovered), [1, 2, 3, 4, 5]);
    recovered.forget(&[], &[], &BTreeSet::new()).unwrap();
    assert!(!path.exists());
    assert!(dir.path().join("quarantine/0000000000000001.wal").exists());
}

#[test]
fn what_is_lost_is_kept_in_quarantine_under_a_number_of_its_own() {
    let dir = TempDir::new().unwrap();
    for base in 0..2 {
        write(dir.path(), &[vec![entry(0, base, base, 10)]]);
        let (local, recovered) = open(dir.path());
        let lost = recovered.rows().to_vec();
        assert_eq!(bases(&recovered), [base]);
        recovered.forget(&lost, &[], &BTreeSet::new()).unwrap();
        drop(local);
    }
    for (number, base) in [(1, 0), (2, 1)] {
        let path = dir
            .path()
            .join(format!("quarantine/{}", local_segment(number)));
        let view = SegmentView::of(&fs::read(path).unwrap()).unwrap();
        assert_eq!(view.rows[0].entry.base_offset, base);
    }
    let (_, recovered) = open(dir.path());
    assert_eq!(recovered.rows(), [], "a quarantine is not read again");
}

#[test]
fn a_segment_with_something_that_has_no_place_yet_stays_until_it_has() {
    let dir = TempDir::new().unwrap();
    for partition in 0..3 {
        write(dir.path(), &[vec![entry(partition, 0, 0, 10)]]);
    }
    let (local, recovered) = open(dir.path());
    let rows = recovered.rows().to_vec();
    recovered
        .forget(&rows[..2], &rows[1..2], &BTreeSet::new())
        .unwrap();
    drop(local);
    for _ in 0..2 {
        write(dir.path(), &[vec![entry(0, 1, 1, 10)]]);
        let (local, recovered) = open(dir.path());
        let found: Vec<_> = recovered.rows().to_vec();
        assert_eq!(found[0], rows[1]);
        assert_eq!(
            found.len(),
            2,
            "what is written meanwhile has a segment of its own"
        );
        assert_eq!(recovered.read(&found[0]).unwrap(), entry(1, 0, 0, 10));
        recovered
            .forget(&[], &found[..1], &BTreeSet::new())
            .unwrap();
        drop(local);
    }
    let kept = fs::read_dir(dir.path().join("quarantine")).unwrap();
    assert_eq!(
        kept.count(),
        1,
        "the lost one that shares its segment with none"
    );
    let (_, recovered) = open(dir.path());
    recovered.forget(&[], &[], &BTreeSet::new()).unwrap();
    let (_, recovered) = open(dir.path());
    assert_eq!(recovered.rows(), []);
}

#[test]
fn a_full_quarantine_lets_its_oldest_segment_go() {
    let dir = TempDir::new().unwrap();
    let lives = LOCAL_QUARANTINE_SEGMENTS_MAX + 2;
    for _ in 0..lives {
        write(dir.path(), &[vec![entry(0, 0, 0, 10)]]);
        let (local, recovered) = open(dir.path());
        let lost = recovered.rows().to_vec();
        recovered.forget(&lost, &[], &BTreeSet::new()).unwrap();
        drop(local);
    }
    let mut kept: Vec<_> = fs::read_dir(dir.path().join("quarantine"))
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept.len(), LOCAL_QUARANTINE_SEGMENTS_MAX);
    assert_eq!(kept.last(), Some(&local_segment(lives as u64)));
}

#[test]
fn a_start_that_loses_more_than_the_quarantine_keeps_removes_none_of_it() {
    let dir = TempDir::new().unwrap();
    let lives = LOCAL_QUARANTINE_SEGMENTS_MAX + 2;
    for base in 0..lives as i64 {
        write(dir.path(), &[vec![entry(0, base, base, 10)]]);
    }
    let (_, recovered) = open(dir.path());
    let lost = recovered.rows().to_vec();
    assert_eq!(lost.len(), lives);
    recovered.forget(&lost, &[], &BTreeSet::new()).unwrap();
    let kept = fs::read_dir(dir.path().join("quarantine")).unwrap();
    assert_eq!(kept.count(), lives);
}

#[test]
fn entries_of_several_lives_keep_their_order() {
    let dir = TempDir::new().unwrap();
    for base in 0..5 {
        write(dir.path(), &[vec![entry(0, base, base, 10)]]);
    }
    let (_, recovered) = open(dir.path());
    assert_eq!(bases(&recovered), [0, 1, 2, 3, 4]);
    assert!(recovered.rows().is_sorted_by_key(|row| row.sequence));
}

#[test]
fn an_entry_that_was_damaged_since_the_start_is_not_given_out() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    let (_, recovered) = open(dir.path());
    flip(&segment(dir.path(), 1), &[place(2) + ENTRY_HEADER + 3]);
    let error = recovered.read(&recovered.rows()[2]).unwrap_err();
    assert!(matches!(error, LocalWalError::Damaged { segment: 1, .. }));
}

#[test]
fn a_directory_in_use_is_refused_by_name_until_it_is_free() {
    let dir = TempDir::new().unwrap();
    let (local, recovered) = open(dir.path());
    let again = || LocalWal::open(&options(dir.path()), CLUSTER, &Entropy::from_seed(2));
    let error = again().unwrap_err();
    assert!(
        matches!(&error, LocalWalError::Locked { holder: Some(pid), .. } if *pid == std::process::id().to_string())
    );
    drop(local);
    assert!(again().is_err(), "what was recovered holds it too");
    drop(recovered);
    again().unwrap();
}

#[test]
fn a_lock_held_by_another_process_is_seen() {
    let dir = TempDir::new().unwrap();
    open(dir.path());
    let lock = dir.path().join("lock");
    let ready = dir.path().join("ready");
    let Ok(mut holder) = std::process::Command::new("flock")
        .arg(&lock)
        .args(["sh", "-c", "touch \"$0\"; cat"])
        .arg(&ready)
        .stdin(std::process::Stdio::piped())
        .spawn()
    else {
        return; // no flock(1) on this machine
    };
    while !ready.exists() {
        std::thread::yield_now();
    }
    let refused = LocalWal::open(&options(dir.path()), CLUSTER, &Entropy::from_seed(2));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert!(matches!(refused, Err(LocalWalError::Locked { .. })));
    open(dir.path());
}

#[test]
fn the_directory_of_another_cluster_is_refused_unchanged() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    let other = ClusterId([2; 16]);
    let error = LocalWal::open(&options(dir.path()), other, &Entropy::from_seed(2)).unwrap_err();
    assert!(matches!(
        error,
        LocalWalError::ForeignCluster { found: CLUSTER, expected, .. } if expected == other
    ));
    assert_eq!(open(dir.path()).1.rows().len(), 6);
}

/// Taken by that one, what it holds could not be put by the broker it belongs to any more.
#[test]
fn the_directory_of_another_broker_is_refused_unchanged() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    let other = LocalWalOptions {
        broker: Some(BrokerId(2)),
        ..options(dir.path())
    };
    let error = LocalWal::open(&other, CLUSTER, &Entropy::from_seed(2)).unwrap_err();
    assert!(matches!(
        error,
        LocalWalError::ForeignBroker {
            found: BrokerId(1),
            expected: BrokerId(2),
            ..
        }
    ));
    assert_eq!(open(dir.path()).1.rows().len(), 6);
}

/// Makes the identity one of version 1, which ends behind the disk id.
fn forget_broker(dir: &Path) {
    let identity = dir.join("identity");
    let mut bytes = fs::read(&identity).unwrap();
    bytes.truncate(48);
    bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let crc = crc_fast::crc32_iscsi(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&identity, bytes).unwrap();
}

#[test]
fn a_directory_that_names_no_broker_is_read_on_a_full_disk_and_names_it_later() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    let disk = open(dir.path()).0.disk();
    forget_broker(dir.path());
    let identity = || fs::read(dir.path().join("identity")).unwrap();
    let nameless = identity();
    std::os::unix::fs::symlink("/dev/full", dir.path().join("identity.new")).unwrap();
    let (local, recovered) = open(dir.path());
    assert_eq!((local.disk(), recovered.rows().len()), (disk, 6));
    assert_eq!(identity(), nameless);
    drop((local, recovered));
    drop(open(dir.path()));
    assert_ne!(identity(), nameless, "there is room again");
}

#[test]
fn a_directory_that_names_no_broker_is_that_of_the_first_to_open_it() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    let disk = open(dir.path()).0.disk();
    forget_broker(dir.path());
    let (local, recovered) = open(dir.path());
    assert_eq!((local.disk(), recovered.rows().len()), (disk, 6));
    drop((local, recovered));
    let other = LocalWalOptions {
        broker: Some(BrokerId(2)),
        ..options(dir.path())
    };
    let refused = LocalWal::open(&other, CLUSTER, &Entropy::from_seed(2));
    assert!(matches!(refused, Err(LocalWalError::ForeignBroker { .. })));
}

#[test]
fn the_directory_of_another_cluster_is_wiped_if_so_configured() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    let disk = open(dir.path()).0.disk();
    fs::write(dir.path().join("notes.txt"), "not ours").unwrap();
    let options = LocalWalOptions {
        foreign: ForeignDirectory::Wipe,
        ..options(dir.path())
    };
    let (local, recovered) =
        LocalWal::open(&options, ClusterId([2; 16]), &Entropy::from_seed(2)).unwrap();
    assert_eq!(recovered.rows(), []);
    assert_ne!(local.disk(), disk);
    assert!(dir.path().join("notes.txt").exists());
}

#[test]
fn segments_without_an_identity_are_refused_and_kept() {
    let dir = TempDir::new().unwrap();
    three_commits(dir.path());
    let identity = dir.path().join("identity");
    let whole = fs::read(&identity).unwrap();
    let mut damaged = whole.clone();
    damaged[20] ^= 1;
    fs::write(&identity, damaged).unwrap();
    let refused = || LocalWal::open(&options(dir.path()), CLUSTER, &Entropy::from_seed(2));
    assert!(matches!(
        refused(),
        Err(LocalWalError::UnknownIdentity {
            what: "damaged",
            ..
        })
    ));
    fs::remove_file(&identity).unwrap();
    assert!(matches!(
        refused(),
        Err(LocalWalError::UnknownIdentity {
            what: "missing",
            ..
        })
    ));
    fs::write(&identity, whole).unwrap();
    assert_eq!(open(dir.path()).1.rows().len(), 6);
}

#[test]
fn the_disk_id_stays_over_restarts() {
    let dir = TempDir::new().unwrap();
    let first = open(&dir.path().join("made/with/parents")).0.disk();
    let again = LocalWal::open(
        &options(&dir.path().join("made/with/parents")),
        CLUSTER,
        &Entropy::from_seed(99),
    );
    assert_eq!(again.unwrap().0.disk(), first);
}

#[test]
fn a_start_reserves_the_first_segment_and_the_first_commit_uses_it() {
    let dir = TempDir::new().unwrap();
    let (local, _) = start(dir.path());
    assert_eq!(
        fs::metadata(segment(dir.path(), 1)).unwrap().len(),
        SEGMENT_BYTES
    );
    let mut log = local.into_log(StreamId(7));
    let commit = [Numbered {
        sequence: 1,
        entry: entry(0, 0, 0, 100),
    }];
    assert_eq!(log.commit(&commit).0, 1);
    assert!(!segment(dir.path(), 2).exists());
    drop(log);
    let (_, recovered) = open(dir.path());
    assert_eq!(bases(&recovered), [0]);
}

#[test]
fn a_start_that_fails_later_leaves_no_segment_behind() {
    let dir = TempDir::new().unwrap();
    drop(start(dir.path()));
    assert!(!segment(dir.path(), 1).exists());
}

#[test]
fn a_disk_that_can_hold_no_segment_fails_the_start() {
    let dir = TempDir::new().unwrap();
    let too_large = LocalWalOptions {
        segment_bytes: i64::MAX.cast_unsigned(),
        ..options(dir.path())
    };
    let error = LocalWal::open(&too_large, CLUSTER, &Entropy::from_seed(1)).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cannot reserve the segment"), "{text}");
    assert!(!segment(dir.path(), 1).exists());
}
