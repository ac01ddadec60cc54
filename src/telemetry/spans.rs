//! Spans to an OpenTelemetry collector: OTLP over HTTP, in batches, from a thread of the exporter's own. What
//! the collector does not take is dropped and said in the log; no work waits for it.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider,
};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::Collector;

/// Spans that wait to be sent; more are dropped.
const WAITING_MAX: usize = 8_192;

/// Spans of one request.
const AT_ONCE_MAX: usize = 1_024;

/// How long one request may take, and the last one at the end.
const SEND_LIMIT: Duration = Duration::from_secs(5);

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Takes our own spans, and of events within them what an operator would be told at `warn`.
pub(super) fn layer<S>(
    collector: &Collector,
) -> Result<Box<dyn Layer<S> + Send + Sync + 'static>, String>
where
    S: Subscriber + for<'s> LookupSpan<'s> + Send + Sync,
{
    let endpoint = format!("{}/v1/traces", collector.endpoint.trim_end_matches('/'));
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(&endpoint)
        .with_timeout(SEND_LIMIT)
        .build()
        .map_err(|error| format!("telemetry.otlp_endpoint {endpoint}: {error}"))?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(WAITING_MAX)
        .with_max_export_batch_size(AT_ONCE_MAX)
        .with_scheduled_delay(Duration::from_secs(1))
        .build();
    let processor = BatchSpanProcessor::builder(exporter)
        .with_batch_config(batches)
        .build();
    let ratio = f64::from(collector.sampled_per_mille) / 1_000.0;
    let resource = Resource::builder()
        .with_service_name("tidegate")
        .with_attributes([
            KeyValue::new("service.instance.id", collector.node.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            ratio,
        ))))
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("tidegate");
    PROVIDER
        .set(provider)
        .map_err(|_| "spans are sent already".to_owned())?;
    let layer = tracing_opentelemetry::layer().with_tracer(tracer);
    Ok(layer.with_filter(filter_fn(is_sent)).boxed())
}

/// Libraries have spans and events of their own, with statements and addresses in them.
fn is_sent(metadata: &Metadata<'_>) -> bool {
    let is_ours = metadata.target().starts_with("tidegate");
    let most = if metadata.is_span() {
        Level::DEBUG
    } else {
        Level::WARN
    };
    is_ours && *metadata.level() <= most
}

/// Sends what is left, for as long as one request may take.
pub(super) fn finish() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown_with_timeout(SEND_LIMIT)
    {
        tracing::warn!(%error, "the last spans were not sent");
    }
}
