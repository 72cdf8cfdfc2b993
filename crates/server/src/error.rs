//! [`ApiError`]: an error with its HTTP status, as JSON in OpenAI's format.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;
use zonda_engine::schedule::ScheduleError;
use zonda_engine::tokenize::TemplateError;
use zonda_engine::{EngineError, RequestError};

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What was expected and what was found.
    pub message: String,
    /// The field at fault.
    pub param: Option<String>,
    /// A machine-readable name of the error.
    pub code: &'static str,
    /// How long to wait before the next attempt.
    pub retry_after: Option<Duration>,
}

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// A sentence for people.
    pub message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error`, `server_error`, …
    pub r#type: &'static str,
    /// The field at fault.
    pub param: Option<String>,
    /// A machine-readable name of the error.
    pub code: &'static str,
}

impl From<zonda::tools::ToolError> for ApiError {
    fn from(error: zonda::tools::ToolError) -> ApiError {
        let make = if error.unsupported { ApiError::unsupported } else { ApiError::field };
        make(error.param, error.message)
    }
}

impl ApiError {
    /// An error with a status, a code and a sentence.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, message: message.into(), param: None, code, retry_after: None }
    }

    /// 400: the request is invalid.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// 400: a field is invalid.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        let param = param.into();
        ApiError {
            param: Some(param.clone()),
            ..ApiError::bad_request(format!("{param}: {}", message.into()))
        }
    }

    /// 400: a field that would change the answer and that this server does not support.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { code: "unsupported", ..ApiError::field(param, message) }
    }

    /// The same error with other names of fields: `names` has what they are called here and what they are to be called. A
    /// request that was translated gets the names that its client knows.
    #[must_use]
    pub fn renamed(mut self, names: &[(&str, &str)]) -> ApiError {
        let Some(param) = self.param.take() else { return self };
        let rename = |(from, to): &(&str, &str)| {
            let rest = param.strip_prefix(from)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{to}{rest}"))
        };
        let renamed = names.iter().find_map(rename).unwrap_or_else(|| param.clone());
        if let Some(rest) = self.message.strip_prefix(&param) {
            self.message = format!("{renamed}{rest}");
        }
        self.param = Some(renamed);
        self
    }

    /// 500: the backend failed.
    pub fn backend(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "backend_failed", message)
    }

    /// 503: the server is shutting down.
    pub fn draining() -> ApiError {
        let message = "the server is shutting down and takes no new requests";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message)
    }

    /// 504: the deadline has passed.
    pub fn deadline(limit: Duration) -> ApiError {
        let message = format!("the answer was not complete after {} s", limit.as_secs_f64());
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message)
    }

    /// The error's kind, by its status.
    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::NOT_IMPLEMENTED => "not_implemented_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The error's body, also for the middle of a stream.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: self.message.clone(),
                r#type: self.kind(),
                param: self.param.clone(),
                code: self.code,
            },
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> ApiError {
        let message = error.to_string();
        match error {
            EngineError::Request(error) => error.into(),
            EngineError::QueueFull { .. } => {
                ApiError::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)
            }
            EngineError::Stopped => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "engine_stopped", message),
            _ => ApiError::backend(message),
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> ApiError {
        let message = error.to_string();
        match error {
            RequestError::Sampling(e) => {
                ApiError::field(e.field, format!("expected {}, found {}", e.expected, e.found))
            }
            RequestError::Grammar(e) => ApiError::unsupported("response_format", e.to_string()),
            RequestError::NoTokensWanted => ApiError::field("max_tokens", "expected at least 1, found 0"),
            RequestError::EmptyStop { .. } => {
                ApiError { param: Some("stop".to_owned()), ..ApiError::bad_request(message) }
            }
            RequestError::EndlessGrammar => {
                ApiError { param: Some("ignore_eos".to_owned()), ..ApiError::bad_request(message) }
            }
            RequestError::NoDraftModel => ApiError::field(
                "speculate",
                "expected false or \"ngram\", as there is no draft model, found \"draft\"",
            ),
            RequestError::Schedule(
                ScheduleError::PromptTooLong { .. } | ScheduleError::PromptFarTooLong { .. },
            ) => ApiError {
                code: "context_length_exceeded",
                ..ApiError::bad_request(
                    message + "; `context_shift` (--context-shift) drops the middle of a longer one",
                )
            },
            RequestError::Schedule(ScheduleError::KeepTooLong { .. }) => ApiError {
                code: "context_length_exceeded",
                param: Some("n_keep".to_owned()),
                ..ApiError::bad_request(message)
            },
            RequestError::Template(TemplateError::Thread(_)) => ApiError::backend(message),
            RequestError::Template(_) => {
                ApiError { param: Some("messages".to_owned()), ..ApiError::bad_request(message) }
            }
            _ => ApiError::bad_request(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        // For APIs with another form of errors.
        response.extensions_mut().insert(self.clone());
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil() as u64));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
