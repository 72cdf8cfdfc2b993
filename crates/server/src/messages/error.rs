//! Errors in Anthropic's form, and the header with a request's id.

use crate::error::ApiError;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The header with a request's id, under Anthropic's name.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessagesError {
    /// `error`.
    pub r#type: &'static str,
    /// What went wrong.
    pub error: MessagesErrorDetail,
    /// The request's id; absent in streams, whose header has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessagesErrorDetail {
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error`, `api_error`, …
    pub r#type: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// The error's body, also for the middle of a stream.
pub(crate) fn body(error: &ApiError, request_id: Option<&str>) -> MessagesError {
    let kind = match error.status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
        StatusCode::GATEWAY_TIMEOUT => "timeout_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    };
    MessagesError {
        r#type: "error",
        error: MessagesErrorDetail { r#type: kind, message: error.message.clone() },
        request_id: request_id.map(str::to_owned),
    }
}

/// Gives a response the form of this API: its error, if it is one, and the header with the request's id.
pub(crate) fn dress(mut response: Response, request_id: &str) -> Response {
    if let Some(error) = response.extensions().get::<ApiError>() {
        let mut new = (error.status, axum::Json(body(error, Some(request_id)))).into_response();
        for (name, value) in response.headers() {
            if *name != header::CONTENT_TYPE && *name != header::CONTENT_LENGTH {
                new.headers_mut().insert(name, value.clone());
            }
        }
        response = new;
    }
    if let Ok(value) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_anthropics_types() {
        for (status, kind) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (404, "not_found_error"),
            (413, "request_too_large"),
            (422, "invalid_request_error"),
            (429, "rate_limit_error"),
            (500, "api_error"),
            (503, "overloaded_error"),
            (504, "timeout_error"),
        ] {
            let error = ApiError::new(StatusCode::from_u16(status).unwrap(), "code", "why");
            assert_eq!(body(&error, None).error.r#type, kind, "{status}");
        }
    }
}
