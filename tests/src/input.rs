//! Real input: a web server's access log, keyed by client address.
//!
//! The whole log (10,000 lines) is used when it lies beside the workspace; otherwise the
//! committed excerpt of 300 lines, and a line of output says so.

use std::path::{Path, PathBuf};

/// The expression whose first group is a line's client address.
pub const ADDRESS: &str = r"^(\S+)";

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// The access log: the whole one if present, else the excerpt.
#[must_use]
pub fn access_log() -> PathBuf {
    let whole = workspace().join("../shared/data/apache_access.log");
    if whole.is_file() {
        return whole;
    }
    println!("no {}: using the committed excerpt", whole.display());
    workspace().join("tests/data/apache_access_300.txt")
}

/// The lines of the access log.
#[must_use]
pub fn access_lines() -> Vec<String> {
    let text = std::fs::read_to_string(access_log()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The client address of a line.
#[must_use]
pub fn address(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or("")
}
