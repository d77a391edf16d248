//! Orders of a shop, worked through by programs that may be killed at any time.
//!
//! Each line of a web server's access log counts as an order, and the client's address as the
//! customer. What happens to an order is decided by its number, so that everything that can
//! happen does: most are packed at once, some fail at first, some are for later, some can never be
//! packed. Orders of a customer are packed one after the other, those of different customers
//! beside each other. At the end `check` says whether each order is in the ledger exactly once or
//! a dead letter with the right count of attempts, whatever was killed meanwhile.
//!
//! ```text
//! aqueduct serve --data ./data &
//! cargo run -p aqueduct-client --example orders -- sell access.log
//! cargo run -p aqueduct-client --example orders -- work ledger.txt      # any number of these
//! cargo run -p aqueduct-client --example orders -- check access.log ledger.txt
//! ```

mod check;
mod ledger;
mod order;
mod pack;

use std::{error::Error, fs, time::Duration};

use aqueduct_client::{
    Client, Message, NewGroup, NewTopic, OnKeyFailure, Producer, QueueOrder, QueuePolicy,
};

use order::Order;

pub(crate) const TOPIC: &str = "orders";
pub(crate) const GROUP: &str = "packing";
/// The last one of so many attempts makes a dead letter.
pub(crate) const ATTEMPTS: u32 = 5;

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let client = Client::from_env().await?;
    match arguments.as_slice() {
        ["sell", log] => sell(&client, &orders_of(log)?).await,
        ["work", ledger] => pack::work(&client, ledger).await,
        ["check", log, ledger] => check::check(&client, &orders_of(log)?, ledger).await,
        _ => Err("usage: orders sell LOG | orders work LEDGER | orders check LOG LEDGER".into()),
    }
}

fn orders_of(log: &str) -> Result<Vec<Order>, Box<dyn Error>> {
    let text = fs::read_to_string(log)?;
    let lines = text.lines().zip(1..);
    Ok(lines
        .map(|(line, number)| Order::new(number, line))
        .collect())
}

/// Makes the topic and the queue group, and publishes the orders. Each has a dedup id, so that
/// selling the same log again within ten minutes changes nothing.
async fn sell(client: &Client, orders: &[Order]) -> Outcome {
    unless_exists(
        client
            .create_topic(NewTopic::new(TOPIC).partitions(6))
            .await,
    )?;
    let backoff = Duration::from_millis(20);
    let policy = QueuePolicy::new()
        .lease(Duration::from_secs(5))
        .max_attempts(ATTEMPTS)
        .backoff(backoff, 200, backoff * 10)
        .order(QueueOrder::PerKey)
        .on_key_failure(OnKeyFailure::Block);
    let group = NewGroup::new(TOPIC, GROUP).queue(policy);
    unless_exists(client.groups().create(group).await)?;
    let producer: Producer = client.producer(TOPIC).build().await?;
    for order in orders {
        drop(producer.send(message(order)).await?); // flush says how it went
    }
    producer.flush().await?;
    producer.close().await?;
    println!("{} orders sold", orders.len());
    Ok(())
}

fn message(order: &Order) -> Message {
    let message = Message::new(order.to_text())
        .key(order.customer.clone())
        .dedup_id(format!("order-{}", order.number));
    match order.due_ms {
        0 => message,
        due_ms => message.deliver_at_ms(due_ms),
    }
}

fn unless_exists<T>(made: Result<T, aqueduct_client::Error>) -> Outcome {
    match made {
        Ok(_) | Err(aqueduct_client::Error::AlreadyExists(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
