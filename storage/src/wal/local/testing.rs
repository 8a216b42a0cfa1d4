//! A disk for tests that is full or broken as told.

use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};

use super::directory::{Device, SegmentFile};

pub(crate) const ENOSPC: i32 = 28;
pub(crate) const EIO: i32 = 5;

/// A disk in memory that can be full or broken.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyDisk {
    state: Arc<Mutex<DiskState>>,
}

#[derive(Debug, Default)]
pub(crate) struct DiskState {
    pub(crate) room_for_segments: usize,
    pub(crate) segments: Vec<u64>,
    pub(crate) fail_write: Option<i32>,
    pub(crate) fail_sync: Option<i32>,
    pub(crate) syncs: usize,
    pub(crate) written: u64,
}

#[derive(Debug)]
pub(crate) struct FaultyFile(Arc<Mutex<DiskState>>);

impl FaultyDisk {
    pub(crate) fn with_room(segments: usize) -> Self {
        let disk = Self::default();
        disk.set(|state| state.room_for_segments = segments);
        disk
    }

    pub(crate) fn set<R>(&self, change: impl FnOnce(&mut DiskState) -> R) -> R {
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
