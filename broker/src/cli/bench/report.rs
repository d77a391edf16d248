//! What a run found, as one JSON object (a contract) or as text.

use std::fmt::Write as _;

use aqueduct_client::Stats;
use serde_json::{Map, Value, json};

use super::{Measured, ceilings::Ceilings, group::Extra, queue, rebalance};

pub(super) struct Report {
    pub workload: &'static str,
    pub size: usize,
    pub measured: Measured,
    /// Of the workload `group`.
    pub group: Option<Extra>,
    /// Of `group --rebalance`, whose latency is that of resumption.
    pub rebalance: Option<rebalance::Found>,
    pub queue: Option<queue::Extra>,
    pub before: Stats,
    pub after: Stats,
    pub ceilings: Option<Ceilings>,
}

impl Report {
    fn seconds(&self) -> f64 {
        self.measured.elapsed.as_secs_f64().max(1e-9)
    }

    fn messages_per_s(&self) -> f64 {
        self.measured.messages as f64 / self.seconds()
    }

    fn mb_per_s(&self) -> f64 {
        self.messages_per_s() * self.size as f64 / 1e6
    }

    fn cpu_s_per_million(&self) -> f64 {
        let cpu_s = self.after.cpu_us.saturating_sub(self.before.cpu_us) as f64 / 1e6;
        cpu_s / (self.measured.messages.max(1) as f64 / 1e6)
    }

    fn rss_peak_mb(&self) -> f64 {
        self.after.rss_peak_bytes as f64 / 1e6
    }

    /// The result as parts of what the machine can do, and of what it was compared with.
    fn ratios(&self) -> Vec<(&'static str, f64)> {
        let compared = self.group.and_then(|it| it.ratio(self.messages_per_s()));
        let mut ratios = Vec::from_iter(compared);
        let Some(ceilings) = &self.ceilings else {
            return ratios;
        };
        ratios.push(("loopback", self.mb_per_s() / ceilings.loopback_mb_s));
        if let Some(latency) = &self.measured.latency {
            ratios.push(("write", self.mb_per_s() / ceilings.write_mb_s));
            ratios.push((
                "messages_per_sync",
                self.messages_per_s() / ceilings.sync_per_s,
            ));
            let p50 = latency.p50_us() as f64 / ceilings.sync_p50_us.max(1) as f64;
            ratios.push(("latency_p50_to_sync_p50", p50));
        }
        ratios
    }

    pub(super) fn json(&self) -> Value {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("workload", json!(self.workload));
        put("messages", json!(self.measured.messages));
        put("seconds", round(self.seconds()));
        put("msgs_per_s", round(self.messages_per_s()));
        put("mb_per_s", round(self.mb_per_s()));
        let latency = self.measured.latency.as_ref();
        put(
            "latency_us",
            latency.map_or(Value::Null, |latency| latency.json()),
        );
        if let Some(latency) = &self.measured.end_to_end {
            put("end_to_end_us", latency.json());
        }
        if let Some(group) = &self.group {
            put("group", group.json());
        }
        if let Some(rebalance) = &self.rebalance {
            put("rebalance", rebalance.json());
        }
        if let Some(queue) = &self.queue {
            put("queue", queue.json());
        }
        let cpu = round(self.cpu_s_per_million());
        put(
            "server",
            json!({ "cpu_s_per_million": cpu, "rss_peak_mb": round(self.rss_peak_mb()) }),
        );
        let ceilings = self.ceilings.as_ref().map(|ceilings| {
            json!({
                "sync_per_s": round(ceilings.sync_per_s),
                "sync_p50_us": ceilings.sync_p50_us,
                "write_mb_s": round(ceilings.write_mb_s),
                "loopback_mb_s": round(ceilings.loopback_mb_s),
                "crc_gb_s": round(ceilings.crc_gb_s),
            })
        });
        put("ceilings", ceilings.unwrap_or(Value::Null));
        let ratios = self.ratios().into_iter();
        let ratios = ratios.map(|(name, ratio)| (name.to_owned(), round(ratio)));
        put("ratios", Value::Object(ratios.collect()));
        put("durability", json!(self.after.durability));
        Value::Object(object)
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let (messages, seconds) = (self.measured.messages, self.seconds());
        let (rate, mb) = (self.messages_per_s(), self.mb_per_s());
        let size = self.size;
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<11}{value}");
        };
        line(
            self.workload,
            format!("{messages} messages of {size} B in {seconds:.2} s"),
        );
        line("rate", format!("{rate:.0} messages/s, {mb:.1} MB/s"));
        if let Some(latency) = &self.measured.latency {
            line("latency", latency.text());
        }
        if let Some(latency) = &self.measured.end_to_end {
            line("end to end", latency.text());
        }
        if let Some(group) = &self.group {
            line("group", group.text());
        }
        if let Some(rebalance) = &self.rebalance {
            line("rebalance", rebalance.text());
        }
        if let Some(queue) = &self.queue {
            line("queue", queue.text());
        }
        let (cpu, rss) = (self.cpu_s_per_million(), self.rss_peak_mb());
        line(
            "server",
            format!("{cpu:.3} CPU-s per million messages, RSS peak {rss:.0} MB"),
        );
        if let Some(it) = &self.ceilings {
            line(
                "ceilings",
                format!(
                    "{:.0} syncs/s (p50 {} us), {:.0} MB/s synced writes, {:.0} MB/s loopback, CRC {:.0} GB/s",
                    it.sync_per_s, it.sync_p50_us, it.write_mb_s, it.loopback_mb_s, it.crc_gb_s
                ),
            );
        }
        let ratios = self.ratios().into_iter();
        let ratios: Vec<_> = ratios
            .map(|(name, ratio)| format!("{name} {ratio:.2}"))
            .collect();
        if !ratios.is_empty() {
            line("ratios", ratios.join(", "));
        }
        line("durability", self.after.durability.clone());
        text
    }
}

/// Three digits behind the point, or none above a thousand.
fn round(value: f64) -> Value {
    let scale = if value.abs() >= 1000.0 { 1.0 } else { 1000.0 };
    json!((value * scale).round() / scale)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::latency::Latency, *};

    #[test]
    fn the_object_has_the_keys_of_the_contract() {
        let mut latency = Latency::new();
        latency.record(Duration::from_micros(500), 1_000_000);
        let report = Report {
            workload: "pub",
            size: 100,
            measured: Measured {
                messages: 1_000_000,
                elapsed: Duration::from_millis(500),
                latency: Some(latency),
                end_to_end: None,
            },
            group: None,
            rebalance: None,
            queue: None,
            before: Stats {
                cpu_us: 1_000_000,
                ..Stats::default()
            },
            after: Stats {
                cpu_us: 1_250_000,
                durability: "synced".into(),
                ..Stats::default()
            },
            ceilings: Some(Ceilings {
                sync_per_s: 2500.0,
                sync_p50_us: 250,
                write_mb_s: 800.0,
                loopback_mb_s: 2000.0,
                crc_gb_s: 30.0,
            }),
        };
        let json = report.json();
        let keys: Vec<_> = json
            .as_object()
            .into_iter()
            .flat_map(Map::keys)
            .cloned()
            .collect();
        let wanted = "workload messages seconds msgs_per_s mb_per_s latency_us server \
                      ceilings ratios durability";
        assert_eq!(keys, wanted.split_whitespace().collect::<Vec<_>>());
        assert_eq!(json["msgs_per_s"], 2_000_000.0);
        assert_eq!(json["server"]["cpu_s_per_million"], 0.25);
        assert_eq!(json["ratios"]["write"], 0.25);
        assert_eq!(json["ratios"]["latency_p50_to_sync_p50"], 2.0);
        assert!(report.text().contains("2000000 messages/s"));
    }
}
