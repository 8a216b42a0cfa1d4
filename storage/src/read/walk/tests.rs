use firn_proto::ids::{
    LeaderEpoch, PartitionIndex, Slot, SlotPosition, StreamId, TopicId, TopicPartition,
};
use firn_proto::record::{BatchBuilder, Codec, NewRecord};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::read::plan::{Want, plan};
use crate::state::{BatchFlags, Run};

const BATCHES: i64 = 6;
const START: usize = 11;

fn batches() -> Vec<Bytes> {
    let one = |n: i64| {
        let mut builder = BatchBuilder::new(Codec::None)
            .base_offset(n * 2)
            .leader_epoch(LeaderEpoch(3));
        for _ in 0..2 {
            let record = NewRecord {
                value: Some(b"firn"),
                ..NewRecord::default()
            };
            builder.push(&record).unwrap();
        }
        builder.build().unwrap().into_bytes()
    };
    (0..BATCHES).map(one).collect()
}

fn run_of(bytes: usize) -> RunRef {
    RunRef {
        at: SlotPosition {
            stream: StreamId(1),
            slot: Slot(0),
        },
        run: Run {
            tp: TopicPartition {
                topic: TopicId([1; 16]),
                partition: PartitionIndex(0),
            },
            epoch: LeaderEpoch(3),
            base_offset: 0,
            last_offset: BATCHES * 2 - 1,
            byte_start: START as u32,
            byte_len: bytes as u32,
            max_timestamp: 0,
            flags: BatchFlags::default(),
        },
    }
}

/// Walks `object`, whose windows are `window` bytes long, from `offset` on.
fn walk(run: RunRef, object: &Bytes, offset: i64, window: usize) -> Result<Vec<Bytes>, RunFault> {
    let want = Want {
        offset,
        end: i64::MAX,
        max_bytes: usize::MAX,
    };
    let Some(planned) = plan(want, &[run], None) else {
        return Ok(Vec::new());
    };
    let piece = planned.pieces[0];
    let bytes = |from: u64, length: usize| {
        let from = (from as usize).min(object.len());
        object.slice(
            from..object
                .len()
                .min(from + length)
                .min(piece.byte_end() as usize)
                .max(from),
        )
    };
    let mut walk = RunWalk::new(&piece, bytes(piece.start, window));
    let mut taken = Vec::new();
    loop {
        match walk.step(offset)? {
            Step::Skipped => {}
            Step::End => return Ok(taken),
            Step::Short { needed } => {
                let from = walk.rest(needed, 0).start;
                walk.refill(bytes(from, (needed as usize).max(window)), needed)?;
            }
            Step::Batch(header) => taken.push(walk.take(&header)?),
        }
    }
}

fn object() -> (RunRef, Bytes) {
    let run = batches().concat();
    let object = [vec![0xee; START], run.clone(), vec![0xdd; 50]].concat();
    (run_of(run.len()), object.into())
}

#[test]
fn windows_of_any_size_give_the_same_batches() {
    let (run, object) = object();
    for window in [0, 1, 60, 61, 62, 100, 1000] {
        for first in 0..BATCHES {
            let taken = walk(run, &object, first * 2 + 1, window).unwrap();
            assert_eq!(
                taken,
                batches()[first as usize..],
                "window {window}, batch {first}"
            );
        }
    }
}

proptest! {
    #[test]
    fn bytes_that_changed_are_never_served(
        changes in vec((0_usize..1000, any::<u8>()), 0..6),
        offset in -5_i64..20,
        window in 0_usize..400,
        cut in 0_usize..1000,
    ) {
        let (run, whole) = object();
        let mut bytes = whole.to_vec();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(cut.max(START));
        if let Ok(taken) = walk(run, &bytes.into(), offset, window) {
            prop_assert!(batches().ends_with(&taken));
        }
    }

    #[test]
    fn rows_that_lie_never_panic(
        base_offset in any::<i64>(),
        last_offset in any::<i64>(),
        byte_start in any::<u32>(),
        byte_len in any::<u32>(),
        offset in any::<i64>(),
        bytes in vec(any::<u8>(), 0..200),
    ) {
        let (mut run, _) = object();
        run.run = Run { base_offset, last_offset, byte_start, byte_len, ..run.run };
        let _ = walk(run, &bytes.clone().into(), offset, 100);
        run.run = Run { byte_start: 0, byte_len: bytes.len() as u32, ..run.run };
        let _ = walk(run, &bytes.into(), offset, 100);
    }
}
