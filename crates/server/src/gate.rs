//! The middleware around all handlers: request id, log line, Host check, API key.

use crate::clients::Client;
use crate::connections::Visit;
use crate::error::ApiError;
use crate::id;
use crate::messages;
use crate::server::Server;
use crate::ui;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tracing::Instrument as _;

/// The header with a request's id, which is logged and returned. A client's own id is kept.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request's id, for its handler.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Paths that need no API key. Their content depends neither on a model's answers nor on the client.
const OPEN: &[&str] = &["/health", "/ready", "/openapi.json"];
/// Paths that are still served while the server shuts down.
const UNTIL_THE_END: &[&str] = &["/metrics", "/v1/models", "/ui/render"];

/// Whether this path needs no API key.
fn open(path: &str) -> bool {
    OPEN.contains(&path) || ui::OPEN.contains(&path)
}

/// The layer around all routes.
pub async fn gate(State(server): State<Arc<Server>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let path = request.extensions().get::<MatchedPath>().map_or("other", |p| p.as_str()).to_owned();
    let method = request.method().clone();
    let span = tracing::info_span!("request", id, %method, path);
    request.extensions_mut().insert(RequestId(id.clone()));
    let handle = async {
        let visit = request.extensions().get::<Visit>().cloned();
        let mut response = match admit(&server, &path, request.headers(), visit.as_ref()) {
            Ok(client) => {
                request.extensions_mut().insert(client);
                next.run(request).await
            }
            Err(error) => error.into_response(),
        };
        let status = response.status();
        if server.draining() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        server.metrics().answered(&path, status.as_u16());
        let ms = started.elapsed().as_secs_f64() * 1e3;
        // Health checks come every few seconds, and requests of the web page several times a second.
        if (open(&path) || path == "/ui/render") && status.is_success() {
            tracing::debug!(status = status.as_u16(), ms, "answered");
        } else {
            tracing::info!(status = status.as_u16(), ms, "answered");
        }
        response
    };
    let mut response = handle.instrument(span).await;
    if path.starts_with(messages::PATH) {
        response = messages::error::dress(response, &id);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The client's id if it is short and printable, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok());
    let usable = |v: &&str| (1..=128).contains(&v.len()) && v.chars().all(|c| c.is_ascii_graphic());
    given.filter(usable).map_or_else(|| id::random("req-"), str::to_owned)
}

/// Checks that a request may reach its handler. Returns the client.
fn admit(
    server: &Server,
    path: &str,
    headers: &HeaderMap,
    visit: Option<&Visit>,
) -> Result<Client, ApiError> {
    let config = server.config();
    if let Some(hosts) = &config.hosts {
        check_host(hosts, headers)?;
    }
    let mut client = visit.map_or(Client::Unknown, |visit| Client::at(visit.address()));
    if !config.keys.is_empty() && !open(path) {
        client = Client::Key(check_key(server, headers)?);
    }
    if server.draining() && !open(path) && !UNTIL_THE_END.contains(&path) {
        return Err(ApiError::draining());
    }
    if let Some(visit) = visit.filter(|_| !open(path)) {
        visit.admit();
    }
    Ok(client)
}

/// Refuses domain names that are not on the list: in a DNS rebinding attack the header names the attacker's domain.
fn check_host(hosts: &[String], headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(host) = headers.get(header::HOST) else { return Ok(()) };
    let host = host.to_str().unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    // An IP address is not a domain name, so it can't be rebound.
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if address.is_ok() || hosts.iter().any(|h| h.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    let message = format!("host: expected one of {}, found {host:?}", hosts.join(", "));
    Err(ApiError::new(StatusCode::FORBIDDEN, "host_not_allowed", message))
}

/// The header in which clients of Anthropic's API send their key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The index of the key that a request carries, as `Authorization: Bearer KEY` or as `x-api-key: KEY`. If it carries both,
/// one valid key is enough.
fn check_key(server: &Server, headers: &HeaderMap) -> Result<usize, ApiError> {
    let refuse = |message: &str| Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message));
    let find = |key: &str| server.config().keys.find(key.trim());
    let plain = headers.get(X_API_KEY);
    if let Some(number) = plain.and_then(|v| v.to_str().ok()).and_then(find) {
        return Ok(number);
    }
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        return refuse(match plain {
            Some(_) => "the API key is not valid on this server",
            None => "an API key is needed: send the header `Authorization: Bearer KEY` (or `x-api-key: KEY`)",
        });
    };
    let bearer = given.to_str().ok().and_then(|v| v.split_once(' '));
    match bearer {
        Some((scheme, _)) if !scheme.eq_ignore_ascii_case("bearer") => {
            refuse("authorization: expected `Bearer KEY`, found another scheme")
        }
        Some((_, key)) => match find(key) {
            Some(number) => Ok(number),
            None => refuse("the API key is not valid on this server"),
        },
        None => refuse("the API key is not valid on this server"),
    }
}
