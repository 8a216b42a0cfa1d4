//! The clock of one process, set wrong and right again while it runs, by libfaketime: only what the
//! process takes for the time of day. Its monotonic clocks, the times of files and all other
//! processes are as they were.

use std::fs;
use std::path::{Path, PathBuf};

use crate::node::NodePlan;
use crate::requirement::skip;

/// Where distributions keep the library: in a folder of the architecture, or without one.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";
/// How long the library may not look whether the time is to be another one, in seconds.
const LOOKS_EVERY_SECONDS: &str = "1";

/// A clock that is right at first.
#[derive(Clone, Debug)]
pub struct WrongClock {
    library: PathBuf,
    /// Says how far it is off.
    file: PathBuf,
}

impl WrongClock {
    /// For `test`, with its setting below `folder`; without libfaketime the test is skipped by name.
    pub fn for_test(test: &str, folder: &Path) -> Option<Self> {
        let Some(library) = library() else {
            skip(test, "libfaketime");
            return None;
        };
        let clock = Self {
            library,
            file: folder.join("wrong-clock"),
        };
        clock.set(0);
        Some(clock)
    }

    /// Sets it off by so many seconds; within a second or so the process sees it.
    pub fn set(&self, seconds: i64) {
        let setting = self.file.with_extension("new");
        fs::write(&setting, format!("{seconds:+}\n")).expect("the folder takes a setting");
        fs::rename(&setting, &self.file).expect("the folder takes a setting");
    }

    /// A broker that lives by this clock.
    #[must_use]
    pub fn worn_by(&self, plan: NodePlan) -> NodePlan {
        let file = |path: &Path| path.display().to_string();
        plan.with_environment("LD_PRELOAD", &file(&self.library))
            .with_environment("FAKETIME_TIMESTAMP_FILE", &file(&self.file))
            .with_environment("FAKETIME_CACHE_DURATION", LOOKS_EVERY_SECONDS)
            .with_environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .with_environment("NO_FAKE_STAT", "1")
    }
}

fn library() -> Option<PathBuf> {
    let folder = Path::new("/usr/lib");
    let of_architectures = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = of_architectures.map(|entry| entry.path());
    let mut folders = folders.chain([folder.to_path_buf()]);
    folders.find_map(|folder| Some(folder.join(LIBRARY)).filter(|path| path.is_file()))
}
