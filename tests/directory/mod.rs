//! Directories of tests.

#![allow(dead_code, reason = "no test uses all of it")]

use std::env;
use std::fs;
use std::path::Path;
use std::thread;

use tempfile::TempDir;

/// A temporary directory, removed at the end; but when the test fails it stays, and is named: what went wrong may be in
/// there and never come again.
pub(crate) struct Directory(TempDir);

impl Directory {
    /// An empty one.
    pub(crate) fn new() -> Directory {
        Directory::new_in(&env::temp_dir())
    }

    /// An empty one in another. It has the name that the kernel gives it, which some compare: no link leads there.
    pub(crate) fn new_in(parent: &Path) -> Directory {
        let parent = fs::canonicalize(parent).expect("there");
        Directory(tempfile::tempdir_in(parent).expect("a temporary directory"))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Has it stay, and says where it is.
    pub(crate) fn keep(&mut self) {
        self.0.disable_cleanup(true);
        println!("kept: {}", self.path().display());
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if thread::panicking() {
            self.keep();
        }
    }
}

/// Copies a directory with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("read") {
        let entry = entry.expect("read");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}
