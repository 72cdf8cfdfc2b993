//! One HTTP GET to the Hub. It follows redirects itself, so that the token is not sent to other hosts and the checksum
//! header of the first answer is read. It applies time limits and turns status codes into errors with advice.

use super::checksum::Expected;
use crate::error::{Detail, Error, Result};
use std::io::ErrorKind;
use std::time::Duration;
use ureq::config::ConfigBuilder;
use ureq::http::{Response, StatusCode, Uri, header};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body};

/// The Hub's address unless `HF_ENDPOINT` names another.
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Time limit for connecting, for the start of an answer, and for each read of its body.
const CONNECT: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(60);
const READ: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 8;

/// A connection pool with an endpoint and a token.
pub struct Client {
    agent: Agent,
    endpoint: String,
    origin: Uri,
    token: Option<String>,
}

/// A successful answer whose body is still to be read.
pub struct Answer {
    /// Status 200 or 206.
    pub response: Response<Body>,
    /// What the headers of the answer, or of the redirects to it, say about the file.
    pub expected: Expected,
    /// Identifies this version of the file: a strong ETag, or the time of its last change.
    pub validator: Option<String>,
}

/// Where to continue a partial download.
#[derive(Clone, Copy, Debug)]
pub struct Continue<'a> {
    /// Number of bytes already downloaded.
    pub from: u64,
    /// The version of these bytes: a server with another version sends the whole file.
    pub validator: Option<&'a str>,
}

/// Why a GET failed.
pub enum Failure {
    /// Temporary: connection lost, server busy.
    Passing {
        /// What happened.
        error: String,
        /// How long the server asks to wait.
        after: Option<Duration>,
    },
    /// The range asked for does not exist (status 416).
    BadRange,
    /// A failure that another attempt would not change.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

/// The settings of all requests: the system's certificates and our user agent. A status is not treated as an error, and
/// redirects are not followed.
pub fn agent_settings() -> ConfigBuilder<AgentScope> {
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::PlatformVerifier).build();
    Agent::config_builder()
        .tls_config(tls)
        .user_agent(concat!("zonda/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
}

impl Client {
    /// A client for `HF_ENDPOINT`, with the given token.
    ///
    /// # Errors
    /// If the endpoint is not an address, or this processor lacks what TLS needs.
    pub fn from_env(token: Option<String>) -> Result<Client> {
        let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|e| !e.is_empty());
        Client::new(endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT), token)
    }

    fn new(endpoint: &str, token: Option<String>) -> Result<Client> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let origin = match endpoint.parse::<Uri>() {
            Ok(uri) if uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")) => uri,
            _ => {
                let message =
                    format!("HF_ENDPOINT is {endpoint:?}; expected an address such as {DEFAULT_ENDPOINT}");
                return Err(advised(message, "correct the variable or unset it"));
            }
        };
        if origin.scheme_str() == Some("https") {
            install_tls()?;
        }
        let agent = agent_settings()
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(READ))
            .build()
            .new_agent();
        Ok(Client { agent, endpoint, origin, token })
    }

    /// The address that paths are appended to, without a trailing slash.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Requests `url`, completely or from an offset.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn get(&self, url: &str, rest: Option<Continue<'_>>) -> Result<Answer, Failure> {
        let mut uri: Uri = url.parse().map_err(|_| Error::download(format!("{url} is not an address")))?;
        let mut expected = Expected::default();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.hop(&uri, rest)?;
            let status = response.status();
            note_linked(&response, &mut expected);
            if status.is_redirection() {
                uri = redirect_target(&uri, &response)?;
                continue;
            }
            return match status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                    let validator = validator(&response);
                    Ok(Answer { response, expected, validator })
                }
                StatusCode::RANGE_NOT_SATISFIABLE => Err(Failure::BadRange),
                _ => Err(refusal(&response, url, self.token.is_some())),
            };
        }
        Err(Failure::Final(Error::download(format!("{url}: more than {MAX_REDIRECTS} redirects"))))
    }

    fn hop(&self, uri: &Uri, rest: Option<Continue<'_>>) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(uri);
        if let Some(token) = self.token.as_ref().filter(|_| same_origin(uri, &self.origin)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(Continue { from, validator }) = rest {
            request = request.header(header::RANGE, format!("bytes={from}-"));
            if let Some(validator) = validator {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        request.call().map_err(|e| match e {
            ureq::Error::Io(io) if !is_passing(io.kind()) => unreachable_host(uri, &io),
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => unreachable_host(uri, &e),
            ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => {
                Failure::Passing { error: format!("{uri}: {e}"), after: None }
            }
            _ => Failure::Final(Error::download(format!("{uri}: {e}"))),
        })
    }
}

fn advised(message: impl Into<String>, advice: &str) -> Error {
    Error::Download(Detail::new(message).advise(advice))
}

/// Makes rustls use a provider that needs no C library.
///
/// # Errors
/// If the processor lacks the instructions that the provider needs.
pub fn install_tls() -> Result<()> {
    // The provider asserts, with a panic, that the processor has AES and AVX2 (or NEON and AES) instructions.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let provider = std::panic::catch_unwind(|| {
        let provider = rustls_graviola::default_provider();
        provider.secure_random.fill(&mut [0]).map(|()| provider)
    });
    std::panic::set_hook(hook);
    let Ok(Ok(provider)) = provider else {
        return Err(advised(
            "this processor lacks the AES and vector instructions that the HTTPS library needs",
            "download the model with another program and give its path",
        ));
    };
    // An error means that a provider is already installed, which is fine.
    let _ = provider.install_default();
    Ok(())
}

/// True if an established connection broke; false if there never was one.
fn is_passing(kind: ErrorKind) -> bool {
    use ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, NotConnected, TimedOut, UnexpectedEof,
    };
    matches!(
        kind,
        BrokenPipe
            | ConnectionAborted
            | ConnectionReset
            | Interrupted
            | NotConnected
            | TimedOut
            | UnexpectedEof
    )
}

fn unreachable_host(uri: &Uri, error: &dyn std::error::Error) -> Failure {
    Failure::Final(advised(
        format!("{}: {error}", uri.authority().map_or("", |a| a.as_str())),
        "check the network, the proxy and HF_ENDPOINT, or give the path of a model that is on this machine",
    ))
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |u: &Uri| u.port_u16().unwrap_or(if u.scheme_str() == Some("http") { 80 } else { 443 });
    a.scheme_str() == b.scheme_str() && a.host() == b.host() && port(a) == port(b)
}

/// Where a redirect points: an address, or a path on the same host. Never from https to http.
fn redirect_target(from: &Uri, response: &Response<Body>) -> Result<Uri> {
    let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
    let location =
        location.ok_or_else(|| Error::download(format!("{from}: a redirect without a readable Location")))?;
    let target = if location.starts_with('/') && !location.starts_with("//") {
        let origin = (from.scheme_str().unwrap_or("https"), from.authority().map_or("", |a| a.as_str()));
        format!("{}://{}{location}", origin.0, origin.1)
    } else {
        location.to_owned()
    };
    let refused = |why: String| Err(Error::download(format!("{from}: {why}")));
    match target.parse::<Uri>() {
        Ok(to) if to.host().is_none() || !matches!(to.scheme_str(), Some("http" | "https")) => {
            refused(format!("redirect to {to}, which is not an address"))
        }
        Ok(to) if from.scheme_str() == Some("https") && to.scheme_str() == Some("http") => {
            refused("refused a redirect from https to http".to_owned())
        }
        Ok(to) => Ok(to),
        Err(why) => refused(format!("redirect to {target:?}: {why}")),
    }
}

/// The Hub describes a large file in the redirect to it: its size and, as an ETag, its SHA-256.
fn note_linked(response: &Response<Body>, expected: &mut Expected) {
    let header = |name| response.headers().get(name)?.to_str().ok();
    if let Some(bytes) = header("x-linked-size").and_then(|s| s.parse().ok()) {
        expected.bytes = Some(bytes);
    }
    if let Some(etag) = header("x-linked-etag") {
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        if is_sha256(&etag) {
            expected.sha256 = Some(etag);
        }
    }
}

/// The value for `If-Range` that identifies this version of the file. A weak ETag does not: such versions may differ in
/// their bytes.
fn validator(response: &Response<Body>) -> Option<String> {
    let header = |name| response.headers().get(name)?.to_str().ok();
    let strong = header(header::ETAG).filter(|etag| etag.starts_with('"'));
    strong.or_else(|| header(header::LAST_MODIFIED)).map(str::to_owned)
}

/// 64 digits of lower-case hex.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The error for an unsuccessful status.
fn refusal(response: &Response<Body>, url: &str, has_token: bool) -> Failure {
    let status = response.status();
    let message = format!("{url}: the server answered {status}");
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if has_token => Failure::Final(advised(
            message,
            "the token (HF_TOKEN) may not read this repository: accept its licence on its page, or use another token; \
             the answer is the same for a repository that does not exist",
        )),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Final(advised(
            message,
            "set HF_TOKEN to a token that may read this repository; the answer is the same for one that does not exist",
        )),
        StatusCode::NOT_FOUND => {
            Failure::Final(advised(message, "check the spelling of the repository and the file"))
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            Failure::Passing { error: message, after: retry_after(response) }
        }
        s if s.is_server_error() => Failure::Passing { error: message, after: retry_after(response) },
        _ => Failure::Final(Error::download(message)),
    }
}

/// `Retry-After` in seconds, at most a minute.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds: u64 = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(60)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn redirect(from: &str, location: &str) -> Result<String> {
        let response = Response::builder()
            .status(302)
            .header("location", location)
            .body(Body::builder().data(""))
            .unwrap();
        Ok(redirect_target(&uri(from), &response)?.to_string())
    }

    #[test]
    fn redirects() {
        let from = "https://hub.example/a/b?c";
        assert_eq!(redirect(from, "/x/y?z").unwrap(), "https://hub.example/x/y?z");
        assert_eq!(redirect(from, "https://cdn.example/f").unwrap(), "https://cdn.example/f");
        for bad in ["http://hub.example/x", "//cdn.example/f", "relative", "ftp://x/y", ""] {
            assert!(redirect(from, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_token_stays_at_home() {
        let home = uri("https://hub.example");
        assert!(same_origin(&uri("https://hub.example:443/x"), &home));
        for other in ["http://hub.example/x", "https://hub.example:8443/x", "https://cdn.hub.example/x"] {
            assert!(!same_origin(&uri(other), &home), "{other}");
        }
    }

    #[test]
    fn endpoints() {
        assert_eq!(Client::new("http://127.0.0.1:1/", None).unwrap().endpoint(), "http://127.0.0.1:1");
        assert!(Client::new(DEFAULT_ENDPOINT, None).is_ok());
        for bad in ["", "hub.example", "ftp://hub.example", "http://"] {
            assert!(Client::new(bad, None).is_err(), "{bad}");
        }
    }
}
