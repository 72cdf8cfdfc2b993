//! Spans over OTLP (feature `otlp`): requests and generations, sent to the collector that `OTEL_EXPORTER_OTLP_ENDPOINT`
//! names. They use the same HTTP client as downloads.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};
use std::sync::OnceLock;
use tracing_opentelemetry::OpenTelemetryLayer;

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// The layer that exports spans; `None` if no collector is named.
///
/// # Errors
/// If the address or another of OpenTelemetry's variables is malformed.
pub fn layer<S>() -> anyhow::Result<Option<OpenTelemetryLayer<S, Tracer>>>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_none_or(|v| v.is_empty()) {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client(ureq::Agent::new_with_defaults()))
        .build()?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
    let tracer = provider.tracer("zonda");
    PROVIDER.get_or_init(|| provider);
    Ok(Some(tracing_opentelemetry::layer().with_tracer(tracer)))
}

/// Sends what has not been sent yet.
pub fn flush() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown()
    {
        crate::console::note!("warning: the last spans were not sent: {error}");
    }
}

/// Posts spans, on the exporter's own thread.
#[derive(Debug)]
struct Client(ureq::Agent);

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, body.to_vec());
        let mut response = self.0.run(request)?;
        let bytes = response.body_mut().read_to_vec()?;
        Ok(Response::builder().status(response.status()).body(bytes.into())?)
    }
}
