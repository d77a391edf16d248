//! One thread per disk makes appends and words durable: it takes everything that waits, decides per
//! log between the shared journal and a direct sync of the segment, and then calls back.
//!
//! What is promised: completions come in order per log, exactly once, after what they stand for is
//! durable; a failed write or sync is never retried: it closes the store, and everything that waits
//! then or later is answered `Closed` with the first cause. The decision is a plain function; the
//! thread is a loop around `round`, which a simulation calls itself.
//! What lives here must never know: Raft, how entries are read, recovery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use crate::drain;
use crate::entry::{Done, RaftId};
use crate::error::Error;
use crate::journal::{FRAME_BYTES, Frame, Place};
use crate::log::LogInner;
use crate::segment::Segment;
use crate::state_file::Words;
use crate::store::Shared;

/// Requests above this go directly whatever the options say, so that a frame fits any file.
const MAX_JOURNAL_BYTES: u64 = 512 << 10;
/// After this long without work the journal is drained, so that a crash then finds little to do.
const IDLE: Duration = Duration::from_secs(3);
/// Rounds whose durations are remembered.
const REMEMBERED: usize = 1024;

/// What a request makes durable.
pub(crate) enum Work {
    Append {
        segment: Arc<Segment>,
        position: u64,
        len: u64,
        last_index: u64,
        /// Cuts of the log when this was appended: after another cut the index says nothing.
        generation: u64,
        pieces: Vec<Bytes>,
    },
    Words(Arc<Words>),
}

pub(crate) struct Request {
    pub(crate) log: Arc<LogInner>,
    pub(crate) work: Work,
    pub(crate) done: Done,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    closing: bool,
    /// Nobody takes requests any more.
    ended: bool,
    asleep: bool,
}

/// Bounds that the durations of sync rounds are counted by, microseconds.
pub const SYNC_BOUNDS_US: [u64; 12] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
];

/// Counters of the engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) rounds: u64,
    pub(crate) journal_syncs: u64,
    pub(crate) direct_syncs: u64,
    /// Time spent in all rounds, microseconds.
    pub(crate) total_us: u64,
    /// Rounds by the first bound of [`SYNC_BOUNDS_US`] that they kept; beyond all: the last.
    pub(crate) by_bound: [u64; SYNC_BOUNDS_US.len() + 1],
    durations_us: Vec<u32>,
}

impl Counters {
    fn note(&mut self, took: Duration) {
        let us = took.as_micros().min(u32::MAX.into()) as u32;
        let slot = self.rounds as usize % REMEMBERED;
        self.rounds += 1;
        self.total_us += u64::from(us);
        let within = SYNC_BOUNDS_US.partition_point(|bound| *bound < u64::from(us));
        self.by_bound[within] += 1;
        match self.durations_us.get_mut(slot) {
            Some(old) => *old = us,
            None => self.durations_us.push(us),
        }
    }

    /// A quantile (in percent) of the last rounds, in microseconds.
    pub(crate) fn quantile_us(&self, percent: usize) -> u64 {
        let mut sorted = self.durations_us.clone();
        sorted.sort_unstable();
        let at = sorted.len() * percent / 100;
        sorted
            .get(at.min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
            .into()
    }
}

pub(crate) struct SyncEngine {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// Used by the engine alone; kept between rounds for its memory.
    frame: Mutex<Frame>,
    pub(crate) counters: Mutex<Counters>,
}

impl SyncEngine {
    pub(crate) fn new() -> SyncEngine {
        SyncEngine {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            frame: Mutex::new(Frame::new()),
            counters: Mutex::default(),
        }
    }

    /// Queues a request. The caller holds the log's append lock, which makes the order.
    pub(crate) fn submit(&self, request: Request) {
        let mut waiting = self.waiting.lock();
        if waiting.ended {
            drop(waiting);
            let cause = "the store was closed".into();
            return (request.done)(Err(Error::Closed { cause }));
        }
        waiting.requests.push(request);
        if waiting.asleep {
            self.wake.notify_one();
        }
    }

    /// The thread ends once nothing waits.
    pub(crate) fn stop(&self) {
        self.waiting.lock().closing = true;
        self.wake.notify_all();
    }

    /// From now on requests are answered at once.
    pub(crate) fn end(&self) {
        self.waiting.lock().ended = true;
    }

    /// Lets go of what waits.
    pub(crate) fn forget(&self) {
        drop(self.take());
    }

    fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.waiting.lock().requests)
    }

    /// Waits for requests; `None` to end, an empty list after an idle time.
    fn wait(&self, idle: Option<Duration>) -> Option<Vec<Request>> {
        let mut waiting = self.waiting.lock();
        if waiting.requests.is_empty() && !waiting.closing {
            waiting.asleep = true;
            match idle {
                Some(idle) => {
                    self.wake.wait_for(&mut waiting, idle);
                }
                None => self.wake.wait(&mut waiting),
            }
            waiting.asleep = false;
        }
        if waiting.requests.is_empty() && waiting.closing {
            return None;
        }
        Some(std::mem::take(&mut waiting.requests))
    }
}

/// Starts the engine's thread.
pub(crate) fn spawn(shared: Arc<Shared>) -> std::io::Result<std::thread::JoinHandle<()>> {
    let body = move || {
        loop {
            let idle = (!shared.journal.lock().is_blank()).then_some(IDLE);
            match shared.engine.wait(idle) {
                None => break,
                Some(requests) if requests.is_empty() => rest(&shared),
                Some(requests) => execute(&shared, requests),
            }
        }
    };
    std::thread::Builder::new()
        .name("aqueduct-sync".into())
        .spawn(body)
}

/// Nothing came for a while: what the journal holds is drained.
pub(crate) fn rest(shared: &Shared) {
    shared.journal.lock().switch();
    shared.drain.submit(drain::Job::Journal);
}

/// One round on the caller's thread; true if there was work.
pub(crate) fn round(shared: &Shared) -> bool {
    let requests = shared.engine.take();
    let any = !requests.is_empty();
    if any {
        execute(shared, requests);
    }
    any
}

/// Which logs of a round are synced directly: those with at least `direct_bytes` waiting.
pub(crate) fn direct_logs(
    waiting: impl Iterator<Item = (RaftId, u64)>,
    direct_bytes: u64,
) -> BTreeMap<RaftId, bool> {
    let mut bytes: BTreeMap<RaftId, u64> = BTreeMap::new();
    for (id, len) in waiting {
        *bytes.entry(id).or_default() += len;
    }
    let limit = direct_bytes.min(MAX_JOURNAL_BYTES);
    bytes
        .into_iter()
        .map(|(id, len)| (id, len > 0 && len >= limit))
        .collect()
}

fn execute(shared: &Shared, requests: Vec<Request>) {
    let begun = shared.disk.now();
    if let Err(error) = sync_round(shared, requests) {
        shared.fail(&error);
    }
    let took = shared.disk.now().saturating_sub(begun);
    shared.engine.counters.lock().note(took);
}

/// What happens to a request of a round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Into the frame.
    Framed,
    /// Its segment is synced after the frame; most logs wait for the frame only.
    Held,
    /// Its segment was synced before the frame, because words of the same log follow in it: words
    /// must never be durable before the appends that came before them.
    Early,
}

fn ways(shared: &Shared, requests: &[Request]) -> BTreeMap<RaftId, Way> {
    let sizes = requests
        .iter()
        .map(|request| (request.log.id, request.bytes()));
    let direct = direct_logs(sizes, shared.options.direct_sync_bytes);
    let mut ways: BTreeMap<RaftId, Way> = direct
        .into_iter()
        .map(|(id, direct)| (id, if direct { Way::Held } else { Way::Framed }))
        .collect();
    for request in requests
        .iter()
        .filter(|request| matches!(request.work, Work::Words(_)))
    {
        if let Some(way) = ways
            .get_mut(&request.log.id)
            .filter(|way| **way == Way::Held)
        {
            *way = Way::Early;
        }
    }
    ways
}

/// Early syncs, then the frame, then the held syncs one by one; completions as soon as they are
/// true, in order per log.
fn sync_round(shared: &Shared, requests: Vec<Request>) -> Result<(), Error> {
    let ways = ways(shared, &requests);
    let mut outcome = Ok(());
    for (id, _) in ways.iter().filter(|(_, way)| **way == Way::Early) {
        let of_log = requests.iter().filter(|request| request.log.id == *id);
        outcome = outcome.and_then(|()| sync_segments(shared, of_log));
    }
    let mut held: BTreeMap<RaftId, Vec<Request>> = BTreeMap::new();
    let mut framed: Vec<Request> = Vec::new();
    let mut frame = shared.engine.frame.lock();
    for request in requests {
        let way = ways.get(&request.log.id).copied().unwrap_or(Way::Framed);
        if way == Way::Held {
            held.entry(request.log.id).or_default().push(request);
            continue;
        }
        if way == Way::Framed || matches!(request.work, Work::Words(_)) {
            request.put_into(&mut frame);
        }
        framed.push(request);
        if frame.len() >= FRAME_BYTES {
            outcome = outcome.and_then(|()| flush(shared, &mut frame, &framed));
            ask_ahead(shared, &framed);
            complete(shared, std::mem::take(&mut framed), &outcome);
            frame.clear();
        }
    }
    if !frame.is_empty() {
        outcome = outcome.and_then(|()| flush(shared, &mut frame, &framed));
        ask_ahead(shared, &framed);
    }
    frame.clear();
    complete(shared, framed, &outcome);
    for requests in held.into_values() {
        outcome = outcome.and_then(|()| sync_segments(shared, requests.iter()));
        complete(shared, requests, &outcome);
    }
    outcome
}

impl Request {
    fn bytes(&self) -> u64 {
        match &self.work {
            Work::Append { len, .. } => *len,
            Work::Words(_) => 0,
        }
    }

    fn put_into(&self, frame: &mut Frame) {
        match &self.work {
            Work::Words(words) => frame.words(self.log.id, words),
            Work::Append {
                segment,
                position,
                last_index,
                pieces,
                ..
            } => {
                let anchored = segment.anchored.load(Ordering::Acquire);
                if !anchored && !segment.journaled.swap(true, Ordering::AcqRel) {
                    frame.begun(&segment.header);
                }
                let place = Place {
                    raft_id: self.log.id,
                    salt: segment.header.salt,
                    first_index: segment.header.first_index,
                    position: *position,
                    last_index: *last_index,
                };
                frame.entries(&place, pieces);
            }
        }
    }
}

fn flush(shared: &Shared, frame: &mut Frame, framed: &[Request]) -> Result<(), Error> {
    let logs: Vec<Arc<LogInner>> = framed.iter().map(|request| request.log.clone()).collect();
    loop {
        shared.check_open()?;
        let mut journal = shared.journal.lock();
        if !journal.fits(frame) {
            journal.switch();
        }
        if journal.fits(frame) {
            journal.write(frame, &logs)?;
            let wants_file = journal.wants_file();
            let has_full = journal.has_full();
            drop(journal);
            shared.engine.counters.lock().journal_syncs += 1;
            if wants_file {
                shared.drain.submit(drain::Job::MoreJournal);
            }
            if has_full {
                shared.drain.submit(drain::Job::Journal);
            }
            break;
        }
        drop(journal);
        drain::make_room(shared)?;
    }
    Ok(())
}

/// Asks the background to sync segments in small steps, long before the journal is full: one sync
/// of all of it at its end would hold up every journal write beside it for tens of milliseconds.
fn ask_ahead(shared: &Shared, framed: &[Request]) {
    for request in framed {
        let Work::Append {
            segment,
            position,
            len,
            ..
        } = &request.work
        else {
            continue;
        };
        let end = position + len;
        let synced = segment.synced_to.load(Ordering::Acquire);
        let asked = segment.asked_to.load(Ordering::Relaxed).max(synced);
        if end - asked.min(end) >= shared.options.sync_ahead_bytes {
            segment.asked_to.store(end, Ordering::Relaxed);
            let job = drain::Job::SyncAhead(request.log.clone(), segment.clone(), end);
            shared.drain.submit(job);
        }
    }
}

/// Makes the segments of one log's requests durable, with their names.
fn sync_segments<'a>(
    shared: &Shared,
    requests: impl Iterator<Item = &'a Request>,
) -> Result<(), Error> {
    shared.check_open()?;
    let mut ends: Vec<(&Arc<Segment>, u64)> = Vec::new();
    let mut log = None;
    for request in requests {
        let Work::Append {
            segment,
            position,
            len,
            ..
        } = &request.work
        else {
            continue;
        };
        log = Some(&request.log);
        match ends.last_mut() {
            Some((last, end)) if Arc::ptr_eq(last, segment) => *end = position + len,
            _ => ends.push((segment, position + len)),
        }
    }
    let Some(log) = log else { return Ok(()) };
    for (segment, end) in ends {
        log.sync_segment(segment, end)?;
        shared.engine.counters.lock().direct_syncs += 1;
    }
    Ok(())
}

fn complete(shared: &Shared, requests: Vec<Request>, outcome: &Result<(), Error>) {
    let failure = outcome
        .as_ref()
        .err()
        .map(|error| shared.first_cause(error));
    for request in requests {
        match &failure {
            Some(cause) => (request.done)(Err(Error::Closed {
                cause: cause.clone(),
            })),
            None => {
                request.log.note_durable(&request.work);
                (request.done)(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_logs_go_directly_small_ones_share() {
        let waiting = [
            (1, 100),
            (2, 200 << 10),
            (1, 50),
            (2, 56 << 10),
            (3, 0),
            (4, 255 << 10),
        ];
        let direct = direct_logs(waiting.into_iter(), 256 << 10);
        let expected = [(1, false), (2, true), (3, false), (4, false)];
        assert_eq!(direct.into_iter().collect::<Vec<_>>(), expected);
        // Whatever the option says, a frame stays small enough for any journal file.
        assert!(direct_logs([(1, 1 << 20)].into_iter(), u64::MAX)[&1]);
    }
}
