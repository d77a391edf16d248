//! Reading record batches.

use bytes::Bytes;

use crate::error::{Error, ReadError};

/// How a read can be served.
#[derive(Debug)]
pub enum ReadPlan {
    /// Slices of mapped memory, each exactly one stored batch; no wait.
    Ready(Vec<Bytes>),
    /// Must be run where blocking is allowed.
    Blocking(BlockingRead),
}

/// A read that must touch the disk.
#[derive(Debug)]
pub struct BlockingRead {}

impl BlockingRead {
    /// Reads the batches; blocks.
    pub fn run(self) -> Result<Vec<Bytes>, ReadError> {
        Err(Error::Closed { cause: "not open".into() }.into())
    }
}
