//! The threads that serve: one single-threaded runtime each.
//!
//! A partition and a connection live on one shard for life, so most of a publish's wake-ups
//! stay on one thread (waking another core costs tens of microseconds). With one shard, which
//! is what a two-core machine gets, only the sync thread is ever handed anything.

use std::{
    future::Future,
    io,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::watch,
};

/// Threads per shard for reads of old data and other calls that block.
const BLOCKING_THREADS: usize = 8;

/// The running shards.
pub(crate) struct Shards {
    handles: Vec<Handle>,
    stop: watch::Sender<bool>,
    turn: AtomicUsize,
}

impl Shards {
    /// Starts so many threads.
    ///
    /// # Errors
    /// If the system refuses a thread or an event queue.
    pub(crate) fn start(count: usize) -> io::Result<Shards> {
        let (stop, stopped) = watch::channel(false);
        let mut shards = Shards {
            handles: Vec::new(),
            stop,
            turn: AtomicUsize::new(0),
        };
        for number in 0..count {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS)
                .thread_name(format!("aq-block-{number}"))
                .build()?;
            shards.handles.push(runtime.handle().clone());
            let mut stopped = stopped.clone();
            thread::Builder::new()
                .name(format!("aq-shard-{number}"))
                .spawn(move || {
                    // An error means that the sender is gone, which also says stop.
                    let _ = runtime.block_on(stopped.wait_for(|stop| *stop));
                    runtime.shutdown_background();
                })?;
        }
        Ok(shards)
    }

    /// The shard of a partition.
    pub(crate) fn of(&self, id: u64) -> &Handle {
        &self.handles[usize::try_from(id).unwrap_or(0) % self.handles.len()]
    }

    /// The shard for the next connection, in turn.
    pub(crate) fn next(&self) -> &Handle {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }

    /// Runs a future on the shard of `id` and waits for it there.
    ///
    /// # Errors
    /// If the shard is going down.
    pub(crate) async fn run<F>(&self, id: u64, future: F) -> io::Result<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.of(id).spawn(future).await.map_err(io::Error::other)
    }

    /// Ends the threads; what still runs on them is dropped.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }
}
