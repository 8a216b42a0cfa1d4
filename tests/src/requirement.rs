//! What a test needs of its machine. A machine that lacks it skips the test by name; with
//! `CI_FIRN_REQUIRE_ALL=1`, as `.ci/run` sets it, the lack is a failure.

use std::path::PathBuf;
use std::process::Command;

/// Says that `test` does not run here because `what` is missing.
///
/// # Panics
/// When the caller was told that nothing may be missing.
pub fn skip(test: &str, what: &str) {
    assert!(
        std::env::var_os("CI_FIRN_REQUIRE_ALL").is_none(),
        "{test} needs {what}, and CI_FIRN_REQUIRE_ALL is set"
    );
    eprintln!("SKIPPED {test}: this machine lacks {what} (.ci/run installs it)");
}

/// The folder that keeps what `.ci/run` installs between runs.
pub fn cache_folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("CI_FIRN_CACHE") {
        return Some(PathBuf::from(folder));
    }
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/firn"))
}

/// A program of the search path, if it is there.
pub fn program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// A Python that can import `modules`: `CI_FIRN_PYTHON`, else the one `.ci/run` makes.
pub fn python_with(modules: &str) -> Option<PathBuf> {
    let python = std::env::var_os("CI_FIRN_PYTHON")
        .map(PathBuf::from)
        .or_else(|| cache_folder().map(|folder| folder.join("python/bin/python")))?;
    let import = format!("import {modules}");
    let imported = Command::new(&python).args(["-c", &import]).output().ok()?;
    imported.status.success().then_some(python)
}

/// Whether this process may mount file systems.
pub fn is_root() -> bool {
    Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|answer| answer.stdout.trim_ascii() == b"0")
}
