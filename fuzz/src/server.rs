//! Targets for the server: bodies of every endpoint, and the page's Markdown.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use std::cell::OnceCell;
use std::time::Duration;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;
use zonda_engine::mock::{Mock, MockOptions};
use zonda_engine::{Engine, EngineConfig, TextProcessor};
use zonda_server::{Config, ModelSource, Server, app};

const ENDPOINTS: [&str; 5] =
    ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"];

thread_local! {
    static SERVICE: OnceCell<(Runtime, Router)> = const { OnceCell::new() };
}

fn service() -> (Runtime, Router) {
    let source = ModelSource::new("mock", 0, || {
        let open = || Ok(Box::new(Mock::new(MockOptions::default())) as _);
        Engine::start(open, Some(TextProcessor::mock()), EngineConfig::default()).map_err(|e| e.to_string())
    });
    let config = Config { max_tokens: Some(8), deadline: Some(Duration::from_secs(2)), ..Config::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    (runtime, app(Server::new(config, vec![source]).expect("a server")))
}

/// Posts a body and reads the whole answer. The server must not fail by itself.
fn post(path: &str, body: &[u8]) {
    SERVICE.with(|cell| {
        let (runtime, router) = cell.get_or_init(service);
        runtime.block_on(async {
            let request = Request::post(path)
                .header("host", "localhost")
                .header("content-type", "application/json")
                .body(Body::from(body.to_vec()))
                .expect("a request");
            let response = router.clone().oneshot(request).await.expect("an answer");
            let status = response.status();
            let body = response.into_body().collect().await.map(|body| body.to_bytes());
            assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{path}: {body:?}");
        });
    });
}

/// The first byte chooses the endpoint, the rest is the body.
pub fn http(data: &[u8]) {
    let Some((endpoint, body)) = data.split_first() else { return };
    post(ENDPOINTS[usize::from(*endpoint) % ENDPOINTS.len()], body);
}

/// Messages of the chat page.
pub fn markdown(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    post("/ui/render", serde_json::json!({"texts": [text]}).to_string().as_bytes());
}
