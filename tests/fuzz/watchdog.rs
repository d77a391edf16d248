//! Ends the process, with the input in words, when a target does not return.
//!
//! A hang cannot be caught like a panic. Thirty seconds for an input of a few kilobytes is
//! a bug on any machine.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(30);

/// What is running, and since when.
#[derive(Default)]
struct Now {
    running: Option<(Instant, String, Vec<u8>)>,
    over: bool,
}

/// Watches one run of a target.
pub(crate) struct Watchdog(Arc<Mutex<Now>>);

impl Watchdog {
    pub(crate) fn start() -> Watchdog {
        let now = Arc::new(Mutex::new(Now::default()));
        let watched = Arc::clone(&now);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(500));
                let now = watched.lock().unwrap();
                if now.over {
                    return;
                }
                if let Some((since, what, input)) = &now.running
                    && since.elapsed() > LIMIT
                {
                    eprintln!("{what} hangs: {}", crate::hex(input));
                    std::process::abort();
                }
            }
        });
        Watchdog(now)
    }

    /// An input is about to run.
    pub(crate) fn begin(&self, what: &str, input: &[u8]) {
        let running = Some((Instant::now(), what.to_owned(), input.to_vec()));
        self.0.lock().unwrap().running = running;
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.lock().unwrap().over = true;
    }
}
