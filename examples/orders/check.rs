//! Whether everything went as it must, whatever was killed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aqueduct_client::{Client, Error, From, Record, Until};
use futures::StreamExt as _;

use crate::{
    ATTEMPTS, GROUP, Outcome, TOPIC,
    ledger::{Done, Ledger},
    order::{Fate, Order},
};

/// A dead letter.
struct Dead {
    reason: String,
    attempts: u32,
    error: String,
}

/// Waits until each order is done or dead, and then looks at all of them.
pub(crate) async fn check(client: &Client, orders: &[Order], ledger: &str) -> Outcome {
    let mut ledger = Ledger::open(ledger)?;
    let dead = loop {
        ledger.look()?;
        let dead = dead_letters(client).await?;
        let mut known: BTreeSet<u64> = ledger.done.iter().map(|done| done.order).collect();
        known.extend(dead.keys());
        if known.len() >= orders.len() {
            break dead;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let due = due_times(client).await?;
    let mut wrong = Vec::new();
    look_at_ledger(&ledger.done, &due, &mut wrong);
    for order in orders {
        let times = ledger.done.iter().filter(|done| done.order == order.number);
        look_at_order(order, times.count(), dead.get(&order.number), &mut wrong);
    }
    for what in &wrong {
        println!("WRONG: {what}");
    }
    let (all, done, dead) = (orders.len(), ledger.done.len(), dead.len());
    println!(
        "{all} orders: {done} done, {dead} dead letters, {} wrong",
        wrong.len()
    );
    match wrong.len() {
        0 => Ok(()),
        count => Err(format!("{count} things are wrong").into()),
    }
}

fn look_at_order(order: &Order, times: usize, dead: Option<&Vec<Dead>>, wrong: &mut Vec<String>) {
    let number = order.number;
    if times > 1 {
        wrong.push(format!("order {number} is in the ledger {times} times"));
    }
    let letters = dead.map_or(0, Vec::len);
    if letters > 1 {
        wrong.push(format!("order {number} is {letters} dead letters"));
    }
    let Some(dead) = dead.and_then(|dead| dead.first()) else {
        if matches!(order.fate(), Fate::Spam | Fate::Refused) {
            wrong.push(format!("order {number} should be a dead letter"));
        }
        return;
    };
    let (reason, attempts, error) = (dead.reason.as_str(), dead.attempts, dead.error.as_str());
    // Whatever its fate is: the attempts of workers that were killed count, too.
    let worn_out = reason == "ATTEMPTS" && attempts == ATTEMPTS;
    let fits = match order.fate() {
        Fate::Spam if reason == "REJECTED" => {
            (1..=ATTEMPTS).contains(&attempts) && error == "nobody orders that"
        }
        Fate::Spam | Fate::Refused => worn_out && times == 0,
        Fate::Plain | Fate::Flaky | Fate::Later => worn_out && error != "out of boxes",
    };
    if !fits {
        wrong.push(format!(
            "order {number} ({:?}) is a dead letter: {reason}, {attempts} attempts, {error:?}",
            order.fate()
        ));
    }
}

/// Orders of a customer were done in the order of the log, but for those that were for later,
/// and none was done before its time.
fn look_at_ledger(done: &[Done], due: &BTreeMap<u64, i64>, wrong: &mut Vec<String>) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for done in done {
        let number = done.order;
        if due.get(&number).is_some_and(|due| done.time_ms < *due) {
            wrong.push(format!("order {number} was done before its time"));
        }
        if Fate::of(number) == Fate::Later {
            continue;
        }
        let before = last.insert(&done.customer, number);
        if let Some(before) = before.filter(|before| *before >= number) {
            let customer = &done.customer;
            wrong.push(format!(
                "{customer}: order {number} was done after {before}"
            ));
        }
    }
}

async fn read(client: &Client, topic: &str) -> Result<Vec<Record>, Error> {
    let reader = client.reader(topic).from(From::Start).until(Until::Now);
    let mut reader = match reader.build().await {
        Ok(reader) => reader,
        // No order has died yet.
        Err(Error::NotFound(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut records = Vec::new();
    while let Some(record) = reader.next().await {
        records.push(record?);
    }
    Ok(records)
}

async fn dead_letters(client: &Client) -> Result<BTreeMap<u64, Vec<Dead>>, Error> {
    let mut dead: BTreeMap<u64, Vec<Dead>> = BTreeMap::new();
    for record in read(client, &format!("{TOPIC}.{GROUP}.dlq")).await? {
        let header = |name: &str| {
            let value = record.header(name).map(AsRef::as_ref);
            String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
        };
        let order = Order::parse(record.value.as_deref().unwrap_or_default());
        let letter = Dead {
            reason: header("aq-dead-reason"),
            attempts: header("aq-dead-attempts").parse().unwrap_or(0),
            error: header("__dlq.errors.message"),
        };
        let number = order.map_or(0, |order| order.number);
        dead.entry(number).or_default().push(letter);
    }
    Ok(dead)
}

/// When orders were due that were for later, as they were published.
async fn due_times(client: &Client) -> Result<BTreeMap<u64, i64>, Error> {
    let records = read(client, TOPIC).await?;
    let orders = records
        .iter()
        .filter_map(|record| Order::parse(record.value.as_deref().unwrap_or_default()));
    Ok(orders.map(|order| (order.number, order.due_ms)).collect())
}
