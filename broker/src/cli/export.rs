//! Sends the spans of requests to a collector of OpenTelemetry (OTLP over gRPC).
//!
//! Requests only put their spans into a bounded queue; a thread of its own sends them in batches.
//! What finds the queue full, or a collector that does not answer, is dropped, and the log says so
//! once. Nothing of this exists unless a collector is configured. The variables that the standard names are
//! read too: `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};

/// How long one batch may take; what waits meanwhile waits in the queue.
const SEND_TIME: Duration = Duration::from_secs(5);
/// How long the end of the node waits for the last batches.
const FLUSH_TIME: Duration = Duration::from_secs(3);

/// A running export.
pub(super) struct Export(SdkTracerProvider);

impl Export {
    /// Starts it. The connection is made when there is something to send, and again whenever it
    /// breaks; it lives on the present runtime.
    pub(super) fn start(endpoint: &str) -> anyhow::Result<Self> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(SEND_TIME)
            .build()
            .with_context(|| format!("otlp_endpoint {endpoint}"))?;
        let resource = Resource::builder()
            .with_service_name("aqueduct")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(LogOnce::new(exporter, endpoint))
            .with_resource(resource)
            .build();
        opentelemetry::global::set_tracer_provider(provider.clone());
        Ok(Self(provider))
    }

    /// Sends what waits, for a bounded time. Blocks.
    pub(super) fn finish(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH_TIME) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// An exporter whose failures are logged when they begin and when they end, not for each batch.
#[derive(Debug)]
struct LogOnce<E> {
    exporter: E,
    endpoint: String,
    /// Spans lost since sending began to fail; 0 while it works.
    lost: AtomicU64,
}

impl<E> LogOnce<E> {
    fn new(exporter: E, endpoint: &str) -> Self {
        Self {
            exporter,
            endpoint: endpoint.to_owned(),
            lost: AtomicU64::new(0),
        }
    }
}

impl<E: SpanExporter> SpanExporter for LogOnce<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        match self.exporter.export(batch).await {
            Err(error) => {
                if self.lost.fetch_add(count, Relaxed) == 0 {
                    let endpoint = &self.endpoint;
                    tracing::warn!(%error, endpoint, "spans cannot be sent and are dropped");
                }
            }
            Ok(()) => {
                let lost = self.lost.swap(0, Relaxed);
                if lost > 0 {
                    let endpoint = &self.endpoint;
                    tracing::info!(lost, endpoint, "spans are sent again");
                }
            }
        }
        // What went wrong has been said.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
