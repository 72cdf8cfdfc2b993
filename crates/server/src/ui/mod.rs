//! The web page at `/` and what it needs besides the API: its files, safe HTML from Markdown, the last bench report.
//!
//! The page consists of plain files that are embedded in the program: it has no build step, and loads nothing from
//! elsewhere. Its policy lets it load only these files, connect only to this server, and run only its own scripts.

mod markdown;
pub(crate) mod report;

pub use report::Reports;

use crate::error::ApiError;
use crate::extract::Fields;
use crate::generate::within;
use crate::server::Server;
use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use report::{Found, Kind};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};
use std::time::UNIX_EPOCH;

/// The page's content security policy. Scripts and styles come only from its files, and text becomes markup only in one
/// place in `markdown.js`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types zonda";

/// A report's policy: it may run its inline scripts and styles. It has no origin, so it can read nothing of this
/// server.
const REPORT_POLICY: &str = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'self'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of the page.
struct File {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    /// The hash of its bytes, quoted (an ETag).
    tag: String,
}

macro_rules! files {
    ($($name:literal: $kind:expr),+ $(,)?) => {
        LazyLock::new(|| vec![$(File::new($name, $kind, include_bytes!(concat!("page/", $name)))),+])
    };
}

static FILES: LazyLock<Vec<File>> = files! {
    "index.html": HTML,
    "base.css": "text/css; charset=utf-8",
    "chat.css": "text/css; charset=utf-8",
    "monitor.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "theme.js": SCRIPT,
    "main.js": SCRIPT,
    "api.js": SCRIPT,
    "store.js": SCRIPT,
    "chat.js": SCRIPT,
    "thread.js": SCRIPT,
    "sidebar.js": SCRIPT,
    "settings.js": SCRIPT,
    "markdown.js": SCRIPT,
    "dom.js": SCRIPT,
    "monitor.js": SCRIPT,
    "metrics.js": SCRIPT,
    "plot.js": SCRIPT,
    "report.js": SCRIPT,
};

impl File {
    fn new(name: &'static str, kind: &'static str, bytes: &'static [u8]) -> File {
        let mut tag = String::from("\"");
        for byte in &Sha256::digest(bytes)[..12] {
            let _ = write!(tag, "{byte:02x}");
        }
        tag.push('"');
        File { name, kind, bytes, tag }
    }

    /// The file, or 304 if the browser has it. The browser asks each time the page loads, so a new program never runs
    /// with old files.
    fn respond(&self, asked: &HeaderMap) -> Response {
        let known = asked.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
        let known =
            known.is_some_and(|v| v.split(',').any(|t| t.trim().trim_start_matches("W/") == self.tag));
        let mut response =
            if known { StatusCode::NOT_MODIFIED.into_response() } else { self.bytes.into_response() };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(tag) = HeaderValue::from_str(&self.tag) {
            headers.insert(header::ETAG, tag);
        }
        guard(headers, POLICY);
        response
    }
}

/// Sets the security headers of everything that the page shows.
fn guard(headers: &mut HeaderMap, policy: &'static str) {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The page's files, which need no key.
pub(crate) const OPEN: [&str; 3] = ["/", "/ui/{file}", "/ui/report/{ticket}"];

/// The page's routes. Those that are not files are below `/ui/`.
pub(crate) fn routes() -> Router<Arc<Server>> {
    Router::new()
        .route("/", get(|asked: HeaderMap| async move { file("index.html", &asked) }))
        .route(
            "/ui/{file}",
            get(|Path(name): Path<String>, asked: HeaderMap| async move { file(&name, &asked) }),
        )
        .route("/ui/render", post(render))
        .route("/ui/report", get(last_report))
        .route("/ui/report/{ticket}", get(report_page))
}

fn file(name: &str, asked: &HeaderMap) -> Response {
    match FILES.iter().find(|f| f.name == name) {
        Some(file) => file.respond(asked),
        None => missing(format!("there is nothing at /ui/{name}")),
    }
}

fn missing(message: String) -> Response {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message).into_response()
}

#[derive(Deserialize)]
struct Texts {
    texts: Vec<String>,
}

#[derive(Serialize)]
struct Rendered {
    html: Vec<String>,
}

/// Maximum size of the texts in one request, in bytes: the conversion takes about fifty times as much memory.
const MAX_MARKDOWN: usize = 1 << 20;

/// Converts Markdown texts to HTML that is safe to show.
async fn render(State(server): State<Arc<Server>>, fields: Fields) -> Result<Json<Rendered>, ApiError> {
    let (Texts { texts }, _) = fields.read::<Texts>()?;
    let bytes: usize = texts.iter().map(String::len).sum();
    if bytes > MAX_MARKDOWN {
        let message = format!("expected at most {MAX_MARKDOWN} bytes in all, found {bytes}");
        return Err(ApiError::field("texts", message));
    }
    // Long texts take a while, so only a few are converted at once, and not on a thread that streams.
    let turn = within(server.config().deadline, fields.arrived, server.rendering().acquire_owned()).await?;
    let made = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        texts.iter().map(|t| markdown::to_html(t)).collect()
    });
    let html = made.await.map_err(|e| ApiError::backend(e.to_string()))?;
    Ok(Json(Rendered { html }))
}

/// The last report, as the page shows it.
#[derive(Default, Serialize)]
struct Report {
    /// The report's path.
    path: Option<String>,
    /// When it was written, in seconds since 1970.
    modified: Option<u64>,
    /// The address of the report, if it is a page of its own.
    url: Option<String>,
    /// HTML that is safe to show.
    html: Option<String>,
    /// The bench record.
    record: Option<serde_json::Value>,
    /// Why there is no report.
    why: Option<String>,
}

async fn last_report(State(server): State<Arc<Server>>) -> Result<Json<Report>, ApiError> {
    let read = move || match server.config().reports.find() {
        Ok(found) => describe(&server, &found),
        Err(why) => Report { why: Some(why), ..Report::default() },
    };
    let report = tokio::task::spawn_blocking(read).await;
    report.map(Json).map_err(|e| ApiError::backend(e.to_string()))
}

fn describe(server: &Server, found: &Found) -> Report {
    let modified = found.modified.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs());
    let mut report = Report { path: Some(found.path.display().to_string()), modified, ..Report::default() };
    let text = || std::fs::read_to_string(&found.path).map_err(|e| e.to_string());
    let shown = match found.kind {
        Kind::Html => {
            report.url = Some(format!("/ui/report/{}", server.ticket()));
            Ok(())
        }
        Kind::Markdown => text().map(|text| report.html = Some(markdown::to_html(&text))),
        Kind::Json => text()
            .and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string()))
            .map(|record| report.record = Some(record)),
    };
    report.why = shown.err().map(|why| format!("{}: {why}.", found.path.display()));
    report
}

/// The report as a page. A frame can't send a key, so the address is secret: only clients with a key learn it.
async fn report_page(State(server): State<Arc<Server>>, Path(ticket): Path<String>) -> Response {
    if ticket != server.ticket() {
        return missing("this report's address belongs to an earlier run of the server".to_owned());
    }
    let read = move || {
        let found = server.config().reports.find()?;
        match found.kind {
            Kind::Html => std::fs::read(&found.path).map_err(|e| format!("{}: {e}", found.path.display())),
            _ => Err("the report is not a page".to_owned()),
        }
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(page)) => {
            let mut response = ([(header::CONTENT_TYPE, HTML)], page).into_response();
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            guard(response.headers_mut(), REPORT_POLICY);
            response
        }
        Ok(Err(why)) => missing(why),
        Err(error) => ApiError::backend(error.to_string()).into_response(),
    }
}
