//! Reads a request's body within limits of size and time, parses it as JSON, and names unknown fields.

use crate::clients::Client;
use crate::error::ApiError;
use crate::generate::within;
use crate::server::Server;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// The response header that lists the request's fields that were ignored.
pub const IGNORED_FIELDS: HeaderName = HeaderName::from_static("x-zonda-ignored-fields");

/// The response header that lists the types of tools that were ignored.
pub const IGNORED_TOOLS: HeaderName = HeaderName::from_static("x-zonda-ignored-tools");

/// The JSON object of a request's body, its client, and the time when it was complete.
#[derive(Debug)]
pub(crate) struct Fields {
    /// An object.
    value: Value,
    pub client: Client,
    pub arrived: Instant,
}

/// Maximum number of values in a body: a value of two bytes takes tens of bytes once it is parsed.
const MAX_VALUES: usize = 500_000;
/// Bodies longer than this, in bytes, are parsed on a blocking thread.
const LONG: usize = 64 << 10;

impl Fields {
    /// The object's field; `null` counts as absent.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.value.get(name).filter(|v| !v.is_null())
    }

    /// Reads the fields that `T` has. Returns the paths of all other fields too.
    ///
    /// # Errors
    /// If a field is malformed; the error names it.
    pub fn read<T: DeserializeOwned>(&self) -> Result<(T, BTreeSet<String>), ApiError> {
        let mut ignored = BTreeSet::new();
        let mut track = serde_path_to_error::Track::new();
        let outer = serde_path_to_error::Deserializer::new(&self.value, &mut track);
        let result = serde_ignored::deserialize(outer, |path| {
            // Paths through an `Option` contain a `?`.
            ignored.insert(path.to_string().replace(".?", ""));
        });
        match result {
            Ok(read) => Ok((read, ignored)),
            Err(error) => Err(ApiError::field(track.path().to_string(), error.to_string())),
        }
    }
}

impl FromRequest<Arc<Server>> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Fields, ApiError> {
        check_type(request.headers())?;
        let client = request.extensions().get::<Client>().cloned().unwrap_or_default();
        let config = server.config();
        let body = tokio::time::timeout(config.body_timeout, collect(request.into_body(), config.max_body));
        let body = body.await.map_err(|_| {
            let limit = config.body_timeout.as_secs_f64();
            let message = format!("the request's body was not complete after {limit} s");
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
        })??;
        let arrived = Instant::now();
        let value = if body.len() <= LONG {
            parse(&body)?
        } else {
            let turn = within(config.deadline, arrived, server.preparing().acquire_owned()).await?;
            let parsed = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                parse(&body)
            });
            parsed.await.map_err(|e| ApiError::backend(e.to_string()))??
        };
        Ok(Fields { value, client, arrived })
    }
}

/// The JSON object in a body.
fn parse(body: &[u8]) -> Result<Value, ApiError> {
    let values = count_values(body);
    if values > MAX_VALUES {
        let message = format!("the body: expected at most {MAX_VALUES} values, found {values}");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
    }
    match serde_json::from_slice(body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(other) => {
            Err(ApiError::bad_request(format!("the body: expected a JSON object, found {}", kind(&other))))
        }
        Err(error) => Err(ApiError::bad_request(format!("the body is not valid JSON: {error}"))),
    }
}

/// An upper bound on the values in a JSON text: the number of commas, colons and opening brackets outside of strings.
fn count_values(body: &[u8]) -> usize {
    let (mut count, mut inside, mut escaped) = (1, false, false);
    for &byte in body {
        match (inside, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => inside = !inside,
            (false, b',' | b':' | b'[' | b'{') => count += 1,
            _ => {}
        }
    }
    count
}

/// Requires a JSON content type: a web page of another origin can send other types without a preflight.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("none");
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let message = format!("content-type: expected application/json, found {given}");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
}

/// Reads the whole body. A body that is too long is read on and discarded, up to 8 times the limit: a client that is
/// still sending would see a broken connection instead of the answer.
async fn collect(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut kept = BytesMut::new();
    let mut length = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::bad_request(format!("the body ended early: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length <= limit {
            kept.extend_from_slice(&data);
        } else {
            kept = BytesMut::new();
            if length > limit.saturating_mul(8) {
                break;
            }
        }
    }
    if length <= limit {
        return Ok(kept.freeze());
    }
    let message = format!("the body: expected at most {limit} bytes, found more");
    Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Adds a header that lists names, if there are any: at most 32, each cut to 64 characters; characters that a header can't hold
/// become `?`.
pub fn list(response: &mut Response, header: HeaderName, names: &BTreeSet<String>) {
    if names.is_empty() {
        return;
    }
    let clean = |c: char| if c.is_ascii_graphic() && c != ',' { c } else { '?' };
    let list: Vec<String> = names.iter().take(32).map(|f| f.chars().take(64).map(clean).collect()).collect();
    if let Ok(value) = HeaderValue::from_str(&list.join(", ")) {
        response.headers_mut().insert(header, value);
    }
}
