//! Disks of brokers, as a crash leaves them.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// What a crash leaves of a local WAL: a copy of its files, with the zeros that were only reserved
/// left out.
///
/// # Panics
/// When this machine cannot copy them.
pub fn crash_image(wal: &Path) -> TempDir {
    let image = TempDir::new().unwrap();
    for file in fs::read_dir(wal).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_dir() {
            continue;
        }
        let mut bytes = fs::read(file.path()).unwrap();
        let pages = bytes
            .chunks(4096)
            .rposition(|page| page.iter().any(|byte| *byte != 0));
        bytes.truncate(pages.map_or(0, |last| (last + 1) * 4096).min(bytes.len()));
        fs::write(image.path().join(file.file_name()), bytes).unwrap();
    }
    image
}
