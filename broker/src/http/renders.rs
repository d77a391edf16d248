//! Rendering pages beside the connections: a few at a time.
//!
//! Of a large node metrics are large. Whoever asks and goes away leaves a page that is being
//! rendered behind; it counts until it is done.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::JoinError};

/// Pages that are rendered at a time.
const RENDERS: usize = 2;

/// The turns of those who render.
pub(super) struct Renders(Arc<Semaphore>);

impl Renders {
    pub(super) fn new() -> Renders {
        Renders(Arc::new(Semaphore::new(RENDERS)))
    }

    /// Renders on a thread that may take its time.
    ///
    /// # Errors
    /// If that panics.
    pub(super) async fn run(
        &self,
        render: impl FnOnce() -> String + Send + 'static,
    ) -> Result<String, JoinError> {
        // An error would mean that the semaphore was closed, which nobody does.
        let turn = self.0.clone().acquire_owned().await;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            render()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::{sync::mpsc, time::Duration};

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_counts_until_it_is_done() {
        let renders = Renders::new();
        let mut ends = Vec::new();
        for _ in 0..RENDERS {
            let (end, ended) = mpsc::channel::<()>();
            let render = move || {
                let _ = ended.recv();
                String::new()
            };
            // Asked for, and given up at once.
            assert!(renders.run(render).now_or_never().is_none());
            ends.push(end);
        }
        let next = renders.run(|| "next".to_owned());
        tokio::pin!(next);
        let early = tokio::time::timeout(Duration::from_millis(50), &mut next).await;
        assert!(early.is_err(), "both turns are taken");
        drop(ends);
        assert_eq!(next.await.unwrap(), "next");
    }
}
