//! A server with mocks that handles requests without a socket.

#![allow(dead_code)] // each test binary uses its part

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use std::sync::Arc;
use tower::ServiceExt as _;
use zonda_engine::mock::{Mock, MockOptions};
use zonda_engine::tokenize::{ChatTemplate, Tokenizer};
use zonda_engine::{Engine, EngineConfig, TextProcessor};
use zonda_server::{Config, ModelSource, Server, app};

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// Asserts an error in OpenAI's format with this status and `says` in its message.
    #[track_caller]
    pub fn fails(&self, status: u16, says: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let error = self.json()["error"].clone();
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(says), "expected {says:?} in {message:?}");
        assert!(error["type"].is_string() && error["code"].is_string(), "{error}");
        error
    }

    /// The data of a stream's events, without comments. The last is `[DONE]`.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let mut data: Vec<&str> = self.text().lines().filter_map(|l| l.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        data.iter().map(|d| serde_json::from_str(d).unwrap()).collect()
    }

    /// The events of a stream whose events have names, each with its data. The data says the name too.
    #[track_caller]
    pub fn named_events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let mut name = "";
        let mut events = Vec::new();
        for line in self.text().lines() {
            if let Some(given) = line.strip_prefix("event: ") {
                name = given;
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data: Value = serde_json::from_str(data).unwrap();
                assert_eq!(data["type"], name);
                events.push(data);
            }
        }
        events
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }
}

pub fn engine(options: MockOptions, config: EngineConfig) -> Engine {
    Engine::start(move || Ok(Box::new(Mock::new(options)) as _), Some(TextProcessor::mock()), config).unwrap()
}

/// A source of mocks.
pub fn source(name: &str, options: MockOptions, config: EngineConfig) -> ModelSource {
    ModelSource::new(name, 1000, move || Ok(engine(options.clone(), config)))
}

pub fn server_with(config: Config, options: MockOptions, engine: EngineConfig) -> Arc<Server> {
    Server::new(config, vec![source("mock", options, engine)]).unwrap()
}

pub fn server() -> Arc<Server> {
    server_with(Config::default(), MockOptions::default(), EngineConfig::default())
}

/// A server whose model thinks: its template opens `<think>` if `enable_thinking` is true, and reads no effort.
pub fn thinker() -> Arc<Server> {
    thinker_with(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: {% if enable_thinking %}<think>\n{% endif %}",
        Config::default(),
    )
}

/// A server whose model thinks, with this template.
pub fn thinker_with(template: &'static str, config: Config) -> Arc<Server> {
    let open = move || {
        let tokenizer = Tokenizer::mock();
        let template = ChatTemplate::new(template, &tokenizer).unwrap();
        let text = TextProcessor { tokenizer: Arc::new(tokenizer), template: Some(Arc::new(template)) };
        let mock = || Ok(Box::new(Mock::new(MockOptions::default())) as _);
        Ok(Engine::start(mock, Some(text), EngineConfig::default()).unwrap())
    };
    Server::new(config, vec![ModelSource::new("thinker", 1000, open)]).unwrap()
}

/// The form of an answer that thinks: `<think>hm …</think>yes`.
pub fn thought() -> Value {
    serde_json::json!({"type": "grammar", "syntax": "regex", "definition": "<think>\nhm, [a-z]{3}\n</think>\n\nyes"})
}

pub async fn send(server: &Arc<Server>, request: Request<Body>) -> Answer {
    let response = app(server.clone()).oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { status: head.status, headers: head.headers, body }
}

pub async fn get(server: &Arc<Server>, path: &str) -> Answer {
    send(server, Request::get(path).body(Body::empty()).unwrap()).await
}

pub fn request(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("content-type", "application/json").body(body.into()).unwrap()
}

pub async fn post(server: &Arc<Server>, path: &str, body: Value) -> Answer {
    send(server, request(path, body.to_string())).await
}

pub async fn chat(server: &Arc<Server>, body: Value) -> Answer {
    let mut body = body;
    if body.get("messages").is_none() {
        body["messages"] = serde_json::json!([{"role": "user", "content": "how are you"}]);
    }
    post(server, "/v1/chat/completions", body).await
}

pub async fn complete(server: &Arc<Server>, body: Value) -> Answer {
    let mut body = body;
    if body.get("prompt").is_none() {
        body["prompt"] = "the warm water".into();
    }
    post(server, "/v1/completions", body).await
}
