//! The worker program: eight orders at a time, each customer's in order.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aqueduct_client::{Client, Failure, Job};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    GROUP, Outcome, TOPIC,
    ledger::{Done, Ledger, Refused},
    order::{Fate, Order, now_ms},
};

type Shared = Arc<Mutex<Ledger>>;

/// Works until SIGTERM or Ctrl-C.
pub(crate) async fn work(client: &Client, ledger: &str) -> Outcome {
    let ledger: Shared = Arc::new(Mutex::new(Ledger::open(ledger)?));
    let worker = client.worker(TOPIC, GROUP).concurrency(8);
    let worker = worker.handler(move |job| pack(ledger.clone(), job));
    let worker = worker.start().await?;
    println!("working");
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    worker.run_until(stop, Duration::from_secs(10)).await?;
    Ok(())
}

async fn pack(ledger: Shared, job: Job) -> Result<(), Failure> {
    let text = job.value.as_deref().unwrap_or_default();
    let order = Order::parse(text).ok_or_else(|| Failure::dead_letter("no order at all"))?;
    let (place, lease) = ((job.partition, job.offset), job.lease);
    if in_ledger(&ledger, move |ledger| ledger.begin(place, lease)).await? {
        return Ok(());
    }
    // The work itself.
    tokio::time::sleep(Duration::from_millis(1 + order.number % 4)).await;
    match (order.fate(), job.attempt) {
        (Fate::Spam, _) => return Err(Failure::dead_letter("nobody orders that")),
        (Fate::Refused, _) => return Err(Failure::retry("the bank refuses")),
        (Fate::Flaky, 1) => return Err(Failure::retry("out of boxes")),
        _ => {}
    }
    let done = Done {
        place,
        order: order.number,
        customer: order.customer,
        time_ms: now_ms(),
    };
    in_ledger(&ledger, move |ledger| ledger.done(&done, lease)).await?;
    Ok(())
}

/// Files block, so they have a thread of their own.
async fn in_ledger<T: Send + 'static>(
    ledger: &Shared,
    act: impl FnOnce(&mut Ledger) -> Result<T, Refused> + Send + 'static,
) -> Result<T, Failure> {
    let ledger = ledger.clone();
    let acting = tokio::task::spawn_blocking(move || {
        act(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner))
    });
    Ok(acting.await??)
}
