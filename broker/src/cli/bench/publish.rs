//! The publishing half: closed loop (as fast as acknowledgements allow) and open loop (at a
//! steady rate).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use aqueduct_client::{Ack, Client, Delivery, Error, Message, Producer};
use futures::future;
use tokio::sync::mpsc;

use super::{
    Clients, Measured, Plan,
    latency::{Latency, Pacer, Values},
};

/// Publishes with all connections and adds up what they measured.
pub(super) async fn run(plan: &Plan, clients: &Clients) -> anyhow::Result<Measured> {
    let mut tasks = Vec::new();
    for index in 0..plan.connections {
        let client = clients.one().await?;
        let share = Plan {
            count: share(plan.count, plan.connections, index),
            rate: plan.rate.map(|rate| rate / f64::from(plan.connections)),
            ..plan.clone()
        };
        let mut sender = Sender::new(share, client, index).await?;
        tasks.push(async move { sender.run().await });
    }
    let start = Instant::now();
    let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    let mut total = Measured {
        messages: 0,
        elapsed: Duration::ZERO,
        latency: Some(Latency::new()),
        end_to_end: None,
    };
    for task in future::join_all(tasks).await {
        let (messages, latency) = task??;
        total.messages += messages;
        if let Some(sum) = &mut total.latency {
            sum.merge(&latency);
        }
    }
    total.elapsed = start.elapsed();
    Ok(total)
}

fn share(count: u64, connections: u32, index: u32) -> u64 {
    if count == u64::MAX {
        return count;
    }
    let (whole, rest) = (
        count / u64::from(connections),
        count % u64::from(connections),
    );
    whole + u64::from(u64::from(index) < rest)
}

/// One connection's share of the work.
struct Sender {
    plan: Plan,
    client: Client,
    producer: Producer,
    values: Values,
    /// Batches (or single messages) so far, for the choice of the partition.
    turn: u32,
    key: u32,
    deadline: Option<Instant>,
}

/// A batch on its way: when it was sent or due, its last delivery, its messages.
struct Flight {
    since: Instant,
    delivery: Delivery,
    messages: u64,
}

impl Sender {
    async fn new(plan: Plan, client: Client, index: u32) -> Result<Self, Error> {
        let producer = client
            .producer(&plan.topic)
            .batch_messages(plan.batch)
            .batch_bytes(16 << 20)
            .max_in_flight_bytes(512 << 20)
            .plain_messages(plan.batch == 1)
            .build()
            .await?;
        let values = Values::new(plan.size);
        Ok(Self {
            plan,
            client,
            producer,
            values,
            turn: index,
            key: index,
            deadline: None,
        })
    }

    async fn run(&mut self) -> Result<(u64, Latency), Error> {
        self.deadline = self.plan.duration.map(|duration| Instant::now() + duration);
        match (self.plan.rate, self.plan.unary) {
            (_, true) => self.unary().await,
            (None, false) => self.closed_loop().await,
            (Some(rate), false) => self.open_loop(rate).await,
        }
    }

    fn is_over(&self, sent: u64) -> bool {
        sent >= self.plan.count || self.deadline.is_some_and(|at| Instant::now() >= at)
    }

    /// As many as are allowed in flight; each answer lets the next one go.
    async fn closed_loop(&mut self) -> Result<(u64, Latency), Error> {
        let (mut sent, mut latency) = (0, Latency::new());
        let mut flights: VecDeque<Flight> = VecDeque::with_capacity(self.plan.in_flight);
        while !self.is_over(sent) {
            if flights.len() >= self.plan.in_flight
                && let Some(flight) = flights.pop_front()
            {
                land(flight, &mut latency).await?;
            }
            let messages = u64::from(self.plan.batch).min(self.plan.count - sent);
            let since = Instant::now();
            let delivery = self.send(messages, since).await?;
            sent += messages;
            flights.push_back(Flight {
                since,
                delivery,
                messages,
            });
        }
        self.producer.flush().await?;
        for flight in flights {
            land(flight, &mut latency).await?;
        }
        Ok((sent, latency))
    }

    /// At a steady rate, however late the answers are.
    async fn open_loop(&mut self, rate: f64) -> Result<(u64, Latency), Error> {
        let (flights, mut landing) = mpsc::unbounded_channel::<Flight>();
        let landed = tokio::spawn(async move {
            let mut latency = Latency::new();
            while let Some(flight) = landing.recv().await {
                land(flight, &mut latency).await?;
            }
            Ok::<_, Error>(latency)
        });
        let batch = u64::from(self.plan.batch);
        let mut pacer = Pacer::new(rate / batch as f64);
        let mut sent = 0;
        while !self.is_over(sent) {
            // A batch is due when its first message is.
            let since = pacer.next().await;
            let messages = batch.min(self.plan.count - sent);
            let delivery = self.send(messages, since).await?;
            sent += messages;
            if flights
                .send(Flight {
                    since,
                    delivery,
                    messages,
                })
                .is_err()
            {
                break;
            }
        }
        drop(flights);
        self.producer.flush().await?;
        let latency = landed.await.map_err(|error| lost(&error))??;
        Ok((sent, latency))
    }

    /// One batch, or one message by itself.
    async fn send(&mut self, messages: u64, since: Instant) -> Result<Delivery, Error> {
        let partition = self.turn % self.plan.partitions;
        self.turn = self.turn.wrapping_add(1);
        let nanos = since.saturating_duration_since(self.plan.epoch).as_nanos();
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX).max(1);
        let first = if self.plan.stamped {
            self.values.stamped(nanos)
        } else {
            self.values.plain()
        };
        let message = self.message(first, partition);
        let mut delivery = self.producer.send(message).await?;
        for _ in 1..messages {
            let value = if self.plan.stamped {
                self.values.stamped(0)
            } else {
                self.values.plain()
            };
            let message = self.message(value, partition);
            delivery = self.producer.send(message).await?;
        }
        Ok(delivery)
    }

    fn message(&mut self, value: bytes::Bytes, partition: u32) -> Message {
        let message = Message::new(value).partition(partition);
        if self.plan.keys == 0 {
            return message;
        }
        // Scattered, and each about as often as the others.
        self.key = self.key.wrapping_add(0x9e37_79b9);
        message.key((self.key % self.plan.keys).to_string())
    }

    /// One request at a time.
    async fn unary(&mut self) -> Result<(u64, Latency), Error> {
        let (mut sent, mut latency) = (0, Latency::new());
        let mut pacer = self.plan.rate.map(Pacer::new);
        while !self.is_over(sent) {
            let since = match &mut pacer {
                Some(pacer) => pacer.next().await,
                None => Instant::now(),
            };
            let message = Message::new(self.values.plain());
            let partition = self.turn % self.plan.partitions;
            self.turn = self.turn.wrapping_add(1);
            let message = vec![message.partition(partition)];
            let results = self.client.publish(&self.plan.topic, message, None).await;
            for result in results {
                result?;
            }
            latency.record(since.elapsed(), 1);
            sent += 1;
        }
        Ok((sent, latency))
    }
}

async fn land(flight: Flight, latency: &mut Latency) -> Result<Ack, Error> {
    let ack = flight.delivery.await?;
    latency.record(flight.since.elapsed(), flight.messages);
    Ok(ack)
}

/// A task of the bench that ended by itself is a bug of the bench; there is no better name.
fn lost(error: &tokio::task::JoinError) -> Error {
    Error::Internal(std::sync::Arc::new(aqueduct_client::Detail {
        message: format!("a task of the bench ended: {error}"),
        ..Default::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_add_up() {
        let total: u64 = (0..7).map(|index| share(1000, 7, index)).sum();
        assert_eq!(total, 1000);
        assert_eq!(share(u64::MAX, 7, 3), u64::MAX);
    }
}
