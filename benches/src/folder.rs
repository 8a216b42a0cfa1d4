//! The folder of a broker: its files, and what the machine keeps of them in memory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

/// Every file below `folder`.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => files.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    files
}

/// Takes the bytes of a file away and leaves its name. It is not deleted: where the file system
/// keeps no journal, many deleted files make it slow to create new ones for minutes.
///
/// # Errors
/// The file cannot be opened.
pub fn empty(path: &Path) -> io::Result<()> {
    File::create(path).map(drop)
}

/// Drops `files` from the page cache, which takes no privilege once they are on the disk. A file
/// that is gone needs it no more.
///
/// # Panics
/// When the disk does not take what is in memory, or the system does not take the advice.
pub fn forget_pages(files: &[PathBuf]) {
    for path in files {
        let Ok(file) = File::open(path) else {
            continue;
        };
        let forgotten = file
            .sync_all()
            .and_then(|()| Ok(fadvise(&file, 0, None, Advice::DontNeed)?));
        forgotten.unwrap_or_else(|error| panic!("cannot forget {}: {error}", path.display()));
    }
}
