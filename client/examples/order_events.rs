//! An order service and two billing workers in one program.
//!
//! The service publishes orders, keyed by customer, so that the orders of a customer stay in
//! order. The workers are members of one group and share the partitions. A message may come
//! twice (at least once), so the ledger knows each order by its number.
//!
//! ```text
//! aqueduct dev &
//! cargo run -p aqueduct-client --example order_events -- 1000
//! ```

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use aqueduct_client::{Client, Error, GroupEvent, Message, NewTopic, Record};
use futures::StreamExt as _;
use tokio::sync::watch;

const TOPIC: &str = "orders";
const GROUP: &str = "billing";

/// What was billed: order number to customer, cents and worker.
type Ledger = Arc<Mutex<BTreeMap<u64, (String, u64, &'static str)>>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let count: u64 = count.unwrap_or(1000);
    let client = Client::from_env().await?;
    match client
        .create_topic(NewTopic::new(TOPIC).partitions(6))
        .await
    {
        Ok(_) | Err(Error::AlreadyExists(_)) => {}
        Err(error) => return Err(error),
    }

    let ledger = Ledger::default();
    let (billed, mut progress) = watch::channel(0);
    let workers = ["anna", "bert"].map(|name| {
        let worker = bill(client.clone(), name, ledger.clone(), billed.clone(), count);
        tokio::spawn(worker)
    });
    sell(&client, count).await?;
    // The receiver is gone only if no worker is left, and then their errors come below.
    let _ = progress.wait_for(|done| *done >= count).await;
    for worker in workers {
        worker.await.expect("a worker does not panic")?;
    }

    let lag = client.groups().lag(TOPIC, GROUP).await?;
    report(&ledger, lag.messages);
    Ok(())
}

fn report(ledger: &Ledger, lag: u64) {
    let ledger = ledger.lock().expect("nobody panicked");
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (_, cents, worker) in ledger.values() {
        let sum = sums.entry(worker).or_default();
        *sum = (sum.0 + 1, sum.1 + cents);
    }
    for (worker, (orders, cents)) in &sums {
        let (euros, cents) = (cents / 100, cents % 100);
        println!("{worker} billed {orders} orders, {euros}.{cents:02} EUR");
    }
    let total: u64 = ledger.values().map(|(_, cents, _)| cents).sum();
    let (orders, euros, cents) = (ledger.len(), total / 100, total % 100);
    println!("{orders} orders billed, {euros}.{cents:02} EUR, lag {lag}");
}

/// The producer service: each order is acknowledged when it is on stable storage.
async fn sell(client: &Client, count: u64) -> Result<(), Error> {
    let producer = client.producer(TOPIC).build().await?;
    for order in 0..count {
        let cents = 100 + order * 37 % 9900;
        let message = Message::new(cents.to_string())
            .key(format!("customer-{}", order % 20))
            .header("order", order.to_string());
        drop(producer.send(message).await?); // flush says how it went
    }
    producer.flush().await?;
    producer.close().await
}

/// A worker: bills orders until all are billed.
async fn bill(
    client: Client,
    name: &'static str,
    ledger: Ledger,
    billed: watch::Sender<u64>,
    count: u64,
) -> Result<(), Error> {
    let mut orders = client
        .consumer(TOPIC)
        .group(GROUP)
        .client_id(name)
        .on_event(move |event| match event {
            GroupEvent::Assigned { partition, .. } => println!("{name} has partition {partition}"),
            GroupEvent::Released { partitions } => println!("{name} gave back {partitions:?}"),
            _ => {}
        })
        .build()
        .await?;
    let mut progress = billed.subscribe();
    while *progress.borrow_and_update() < count {
        let order = tokio::select! {
            order = orders.next() => order,
            _ = progress.changed() => continue,
        };
        let Some(order) = order.transpose()? else {
            break;
        };
        billed.send_replace(note(&order, name, &ledger));
    }
    // All that was handed out is in the ledger. Committed and gone: nothing comes twice.
    orders.commit_taken().await?;
    orders.close().await
}

/// Writes an order into the ledger, once; answers how many there are.
fn note(record: &Record, worker: &'static str, ledger: &Ledger) -> u64 {
    let text =
        |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let order = text(record.header("order").map(AsRef::as_ref));
    let cents = text(record.value.as_deref());
    let customer = text(record.key.as_deref());
    let mut ledger = ledger.lock().expect("nobody panicked");
    if let (Ok(order), Ok(cents)) = (order.parse(), cents.parse()) {
        ledger.entry(order).or_insert((customer, cents, worker));
    }
    ledger.len() as u64
}
