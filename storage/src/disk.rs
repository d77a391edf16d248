//! The seam to the disk.

/// A disk (placeholder methods follow in the next commit).
pub trait Disk: Send + Sync {}

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {}

impl RealDisk {
    /// A disk rooted at this directory, which is created when missing.
    pub fn new(_root: impl Into<std::path::PathBuf>) -> Result<RealDisk, crate::Error> {
        Ok(RealDisk {})
    }
}

impl Disk for RealDisk {}
