//! The node's numbers as Prometheus reads them (OpenMetrics text). docs/metrics.md lists the names.
//!
//! Everything is looked up at the time of the scrape; the paths that carry messages only add to
//! plain atomics. `/metrics` has nothing finer than topics and groups, and of those a bounded
//! number: what is beyond is added up under `other`, so that a large node stays cheap to watch.

mod queues;

use std::{
    fmt::{Error, Write as _},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use aqueduct_storage::SYNC_BOUNDS_US;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::{
    groups::board::{GroupLag, Lags},
    limits::{MAX_CONNECTIONS, MAX_METRIC_LABELS},
    services::Services,
    stats::{self, Traffic},
    topics::LiveTopic,
};

/// Media type of what is rendered here.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The label of what is beyond the bound.
const OTHER: &str = "other";

/// One metric: name, help, and a value for each set of labels.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    values: Values,
}

type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Values {
    Counter(Vec<(Labels, f64)>),
    Gauge(Vec<(Labels, f64)>),
    /// Counts by bound (seconds, the last infinite) and the sum.
    Histogram(Vec<(f64, u64)>, f64),
}

/// All metrics of one scrape.
#[derive(Debug, Default)]
struct Scrape(Vec<Family>);

impl Scrape {
    fn add(&mut self, name: &'static str, help: &'static str, values: Values) {
        self.0.push(Family { name, help, values });
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.add(name, help, Values::Gauge(vec![(Vec::new(), value)]));
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.add(name, help, Values::Counter(vec![(Vec::new(), value)]));
    }

    fn render(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &registry) {
            // Only a broken sink can fail, and a string is none.
            tracing::error!(%error, "the metrics could not be written");
        }
        out
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        for family in &self.0 {
            let kind = match &family.values {
                Values::Counter(_) => MetricType::Counter,
                Values::Gauge(_) => MetricType::Gauge,
                Values::Histogram(..) => MetricType::Histogram,
            };
            let metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            family.values.encode_into(metric)?;
        }
        Ok(())
    }
}

impl Values {
    fn encode_into(&self, mut metric: MetricEncoder<'_>) -> Result<(), Error> {
        match self {
            Values::Counter(values) => values.iter().try_for_each(|(labels, value)| {
                with(&mut metric, labels, |metric| {
                    metric.encode_counter::<NoLabelSet, _, f64>(value, None)
                })
            }),
            Values::Gauge(values) => values.iter().try_for_each(|(labels, value)| {
                with(&mut metric, labels, |metric| metric.encode_gauge(value))
            }),
            Values::Histogram(buckets, sum) => {
                let count = buckets.iter().map(|(_, count)| count).sum();
                metric.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
            }
        }
    }
}

/// Encodes one value with its labels, if it has any.
fn with(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    if labels.is_empty() {
        encode(metric)
    } else {
        encode(&mut metric.encode_family(labels)?)
    }
}

/// `/metrics`.
pub(crate) fn render(services: &Services, lags: &Lags) -> String {
    let mut scrape = Scrape::default();
    process(services, &mut scrape);
    requests(services, &mut scrape);
    disk(services, &mut scrape);
    topics(services, &mut scrape);
    let count = services.metadata.view().read().groups.len();
    groups(count, lags, &mut scrape);
    queues::add(&lags.groups, &mut scrape);
    scrape.render()
}

fn process(services: &Services, scrape: &mut Scrape) {
    let cost = stats::process_cost();
    let info = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("durability", "synced".to_owned()),
    ];
    scrape.add(
        "aqueduct_build_info",
        "What runs; always 1",
        Values::Gauge(vec![(info.into(), 1.0)]),
    );
    let uptime = services.stats.uptime_ms() as f64 / 1e3;
    scrape.gauge("aqueduct_uptime_seconds", "Since the node started", uptime);
    let draining = u8::from(*services.draining.borrow());
    scrape.gauge(
        "aqueduct_draining",
        "1 while the node shuts down",
        draining.into(),
    );
    scrape.counter(
        "aqueduct_process_cpu_seconds",
        "Processor time, user and system",
        cost.cpu_us as f64 / 1e6,
    );
    scrape.gauge(
        "aqueduct_process_resident_memory_bytes",
        "Memory of the process, mapped files included",
        cost.rss_bytes as f64,
    );
    scrape.gauge(
        "aqueduct_process_resident_memory_peak_bytes",
        "The same at its peak",
        cost.rss_peak_bytes as f64,
    );
}

fn requests(services: &Services, scrape: &mut Scrape) {
    let stats = &services.stats;
    scrape.gauge(
        "aqueduct_connections",
        "Open connections",
        stats.connections.load(Relaxed) as f64,
    );
    scrape.gauge(
        "aqueduct_connections_limit",
        "Connections that may be open",
        MAX_CONNECTIONS as f64,
    );
    scrape.counter(
        "aqueduct_connections_accepted",
        "Connections that were taken",
        stats.connections_total.load(Relaxed) as f64,
    );
    scrape.counter(
        "aqueduct_connections_refused",
        "Connections that were closed because there were too many",
        stats.connections_refused.load(Relaxed) as f64,
    );
    scrape.counter(
        "aqueduct_grpc_requests",
        "Calls and streams that came by gRPC",
        stats.grpc_requests.load(Relaxed) as f64,
    );
    let classes = stats
        .http_answers
        .iter()
        .zip(["1xx", "2xx", "3xx", "4xx", "5xx"]);
    let answers = classes.map(|(count, class)| {
        let labels = vec![("class", class.to_owned())];
        (labels, count.load(Relaxed) as f64)
    });
    scrape.add(
        "aqueduct_http_answers",
        "Answers of the HTTP door by class of status",
        Values::Counter(answers.collect()),
    );
    let (counts, sum_us) = stats.publish_time.read();
    scrape.add(
        "aqueduct_publish_duration_seconds",
        "From handing messages to their partitions to the answer, which comes after the sync",
        histogram(&stats::BOUNDS_US, &counts, sum_us),
    );
}

fn disk(services: &Services, scrape: &mut Scrape) {
    let disk = services.store.stats();
    scrape.add(
        "aqueduct_sync_duration_seconds",
        "Rounds of making what waits durable",
        histogram(&SYNC_BOUNDS_US, &disk.syncs_by_bound, disk.sync_total_us),
    );
    scrape.gauge(
        "aqueduct_disk_free_bytes",
        "What may still be used, within all limits",
        disk.free_bytes as f64,
    );
    scrape.gauge(
        "aqueduct_disk_used_bytes",
        "What the data directory takes, prepared files included",
        disk.used_bytes as f64,
    );
}

/// Sums over topics of one label.
#[derive(Default)]
struct TopicSums {
    traffic: [u64; 4],
    log_bytes: u64,
    partitions: u64,
    unavailable: u64,
}

impl TopicSums {
    fn of(live: &LiveTopic) -> TopicSums {
        let mut sums = TopicSums {
            traffic: counters(&live.traffic),
            partitions: live.partitions.len() as u64,
            ..TopicSums::default()
        };
        for partition in &live.partitions {
            sums.log_bytes += partition.shared().log.size_bytes();
            sums.unavailable += u64::from(partition.unavailable().is_some());
        }
        sums
    }

    fn add(&mut self, other: &TopicSums) {
        for (sum, more) in self.traffic.iter_mut().zip(other.traffic) {
            *sum += more;
        }
        self.log_bytes += other.log_bytes;
        self.partitions += other.partitions;
        self.unavailable += other.unavailable;
    }
}

/// A row for each topic by name, and one for the rest.
fn topic_rows<'a>(topics: impl Iterator<Item = (&'a str, TopicSums)>) -> Vec<(Labels, TopicSums)> {
    let mut rows: Vec<(Labels, TopicSums)> = Vec::new();
    for (n, (name, sums)) in topics.enumerate() {
        if n > MAX_METRIC_LABELS
            && let Some((_, other)) = rows.last_mut()
        {
            other.add(&sums);
            continue;
        }
        let name = if n < MAX_METRIC_LABELS { name } else { OTHER };
        rows.push((vec![("topic", name.to_owned())], sums));
    }
    rows
}

fn counters(traffic: &Traffic) -> [u64; 4] {
    [
        traffic.messages_in.load(Relaxed),
        traffic.bytes_in.load(Relaxed),
        traffic.messages_out.load(Relaxed),
        traffic.bytes_out.load(Relaxed),
    ]
}

/// Name and help of the counters of [`counters`].
const TRAFFIC: [(&str, &str); 4] = [
    (
        "aqueduct_topic_messages_in",
        "Messages published to the topic",
    ),
    ("aqueduct_topic_bytes_in", "Their bytes"),
    (
        "aqueduct_topic_messages_out",
        "Messages read from the topic, by whomever",
    ),
    ("aqueduct_topic_bytes_out", "Their bytes"),
];

fn topics(services: &Services, scrape: &mut Scrape) {
    let all = services.topics.all();
    scrape.gauge("aqueduct_topics", "Topics", all.len() as f64);
    let each = all
        .iter()
        .map(|live| (live.topic.name.as_str(), TopicSums::of(live)));
    let sums = topic_rows(each);
    let total = |of: fn(&TopicSums) -> u64| sums.iter().map(|(_, sum)| of(sum)).sum::<u64>() as f64;
    scrape.gauge(
        "aqueduct_partitions",
        "Partitions",
        total(|sum| sum.partitions),
    );
    scrape.gauge(
        "aqueduct_partitions_unavailable",
        "Partitions that take no messages now",
        total(|sum| sum.unavailable),
    );
    let each = |of: &dyn Fn(&TopicSums) -> u64| {
        let value = |(labels, sum): &(Labels, TopicSums)| (labels.clone(), of(sum) as f64);
        sums.iter().map(value).collect::<Vec<_>>()
    };
    for (n, (name, help)) in TRAFFIC.into_iter().enumerate() {
        scrape.add(name, help, Values::Counter(each(&|sum| sum.traffic[n])));
    }
    scrape.add(
        "aqueduct_topic_log_bytes",
        "Bytes of log on disk",
        Values::Gauge(each(&|sum| sum.log_bytes)),
    );
    scrape.add(
        "aqueduct_topic_partitions",
        "Partitions of the topic",
        Values::Gauge(each(&|sum| sum.partitions)),
    );
}

/// What a group is behind; of those beyond the bound messages and members are added up, and the
/// seconds are the greatest.
fn groups(count: usize, lags: &Lags, scrape: &mut Scrape) {
    scrape.gauge("aqueduct_groups", "Consumer groups", count as f64);
    // The families are empty until the first look ends; the age is that of the look then.
    scrape.gauge(
        "aqueduct_group_lag_age_seconds",
        "How long ago the lags below were looked up; more than 0 where there are many",
        lags.age.unwrap_or_default().as_secs_f64(),
    );
    let rows = group_rows(&lags.groups);
    let families = [
        (
            "aqueduct_group_lag_messages",
            "Messages that the group has not consumed",
        ),
        (
            "aqueduct_group_lag_seconds",
            "Age of the oldest message that the group has not consumed",
        ),
        (
            "aqueduct_group_members",
            "Members that are connected or within their session",
        ),
    ];
    for (n, (name, help)) in families.into_iter().enumerate() {
        let value = |(labels, values): &(Labels, [f64; 3])| (labels.clone(), values[n]);
        scrape.add(name, help, Values::Gauge(rows.iter().map(value).collect()));
    }
}

/// A row for each group by name, and one for the rest.
fn group_rows(lags: &[GroupLag]) -> Vec<(Labels, [f64; 3])> {
    let mut rows: Vec<(Labels, [f64; 3])> = Vec::new();
    for (n, lag) in lags.iter().enumerate() {
        let values = [lag.messages as f64, lag.seconds, f64::from(lag.members)];
        if n > MAX_METRIC_LABELS
            && let Some((_, other)) = rows.last_mut()
        {
            *other = [
                other[0] + values[0],
                other[1].max(values[1]),
                other[2] + values[2],
            ];
            continue;
        }
        let (topic, group) = if n < MAX_METRIC_LABELS {
            (lag.topic.as_str(), lag.group.as_str())
        } else {
            (OTHER, OTHER)
        };
        let labels = vec![("topic", topic.to_owned()), ("group", group.to_owned())];
        rows.push((labels, values));
    }
    rows
}

fn histogram(bounds_us: &[u64], counts: &[u64], sum_us: u64) -> Values {
    let bounds = bounds_us.iter().map(|us| *us as f64 / 1e6);
    let buckets = bounds.chain([f64::INFINITY]).zip(counts.iter().copied());
    Values::Histogram(buckets.collect(), sum_us as f64 / 1e6)
}

/// `/metrics/detailed`: each partition of one topic.
pub(crate) fn render_partitions(live: &Arc<LiveTopic>) -> String {
    let mut scrape = Scrape::default();
    let each = |of: &dyn Fn(&crate::partition::Partition) -> f64| {
        let value = |partition: &crate::partition::Partition| {
            let mut number = String::new();
            // Writing to a string does not fail.
            let _ = write!(number, "{}", partition.shared().number);
            let labels = vec![("topic", live.topic.name.clone()), ("partition", number)];
            (labels, of(partition))
        };
        Values::Gauge(live.partitions.iter().map(value).collect())
    };
    scrape.add(
        "aqueduct_partition_log_start_offset",
        "First readable offset",
        each(&|partition| partition.shared().log_start_offset() as f64),
    );
    scrape.add(
        "aqueduct_partition_high_watermark",
        "One past the last acknowledged message",
        each(&|partition| partition.shared().high_watermark() as f64),
    );
    scrape.add(
        "aqueduct_partition_log_bytes",
        "Bytes of log on disk",
        each(&|partition| partition.shared().log.size_bytes() as f64),
    );
    scrape.add(
        "aqueduct_partition_kept_messages",
        "Messages below the log's start that queue groups still need, kept aside",
        each(&|partition| partition.shared().with_kept(|kept| kept.size().0) as f64),
    );
    scrape.add(
        "aqueduct_partition_kept_bytes",
        "Their bytes",
        each(&|partition| partition.shared().with_kept(|kept| kept.size().1) as f64),
    );
    scrape.add(
        "aqueduct_partition_available",
        "1 if the partition takes messages",
        each(&|partition| f64::from(u8::from(partition.unavailable().is_none()))),
    );
    scrape.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_beyond_the_bound_are_one_row() {
        let lag = |n: usize| GroupLag {
            topic: "orders".into(),
            group: format!("g{n}"),
            messages: 2,
            seconds: n as f64,
            members: 1,
            queue: None,
        };
        for (count, rows) in [
            (0, 0),
            (1, 1),
            (1_000, 1_000),
            (1_001, 1_001),
            (5_000, 1_001),
        ] {
            let lags: Vec<GroupLag> = (0..count).map(lag).collect();
            let found = group_rows(&lags);
            assert_eq!(found.len(), rows, "{count} groups");
            let messages: f64 = found.iter().map(|(_, values)| values[0]).sum();
            assert_eq!(messages, 2.0 * count as f64, "none is lost");
        }
        let lags: Vec<GroupLag> = (0..1_010).map(lag).collect();
        let (labels, values) = group_rows(&lags).pop().unwrap_or_default();
        let other = |name| (name, OTHER.to_owned());
        assert_eq!(labels, [other("topic"), other("group")]);
        assert_eq!(values, [20.0, 1_009.0, 10.0], "sums, and the greatest age");
    }

    #[test]
    fn topics_beyond_the_bound_are_one_row() {
        let sums = |n: u64| TopicSums {
            traffic: [n, 1, 2, 3],
            log_bytes: 10,
            partitions: 4,
            unavailable: n % 2,
        };
        for (count, rows) in [(0, 0), (1_000, 1_000), (1_001, 1_001), (4_000, 1_001)] {
            let names: Vec<String> = (0..count).map(|n| format!("t{n}")).collect();
            let topics = names.iter().map(String::as_str).zip((0..).map(sums));
            let found = topic_rows(topics);
            assert_eq!(found.len(), rows, "{count} topics");
            let partitions: u64 = found.iter().map(|(_, sums)| sums.partitions).sum();
            assert_eq!(partitions, 4 * count, "none is lost");
        }
        let topics = (0..1_010).map(|n| ("t", sums(n)));
        let (labels, other) = topic_rows(topics).pop().unwrap_or_default();
        assert_eq!(labels, [("topic", OTHER.to_owned())]);
        let expected = [(1_000..1_010).sum(), 10, 20, 30];
        assert_eq!(other.traffic, expected);
        assert_eq!((other.log_bytes, other.unavailable), (100, 5));
    }
}
