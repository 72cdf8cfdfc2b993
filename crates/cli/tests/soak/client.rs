//! A client of one thread: requests on a connection that is kept, streams that are read or cut.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _};
use std::time::{Duration, Instant};
use ureq::Agent;
use ureq::http::Response;

/// No answer may take longer: the longest one here takes some seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// The largest answer, in bytes.
const LARGEST: u64 = 4 << 20;

/// A client and its connections.
pub struct Client {
    agent: Agent,
    url: String,
}

/// A stream that was read to its end.
#[derive(Debug)]
pub struct Streamed {
    /// The texts of its events, joined.
    pub text: String,
    /// From the request to the first text.
    pub first: Option<Duration>,
    /// The last event before `[DONE]` that is an error.
    pub error: Option<Value>,
    /// Whether it ended with `[DONE]`.
    pub done: bool,
}

impl Client {
    pub fn new(url: &str) -> Client {
        let config = Agent::config_builder();
        let config = config.http_status_as_error(false).timeout_global(Some(PATIENCE)).proxy(None);
        Client { agent: config.build().into(), url: url.to_owned() }
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<Response<ureq::Body>, String> {
        let url = format!("{}{path}", self.url);
        let sent = self.agent.post(url).header("content-type", "application/json").send(body);
        sent.map_err(|e| format!("{path}: {e}"))
    }

    /// Status and body of the answer.
    pub fn ask(&self, path: &str, body: &[u8]) -> Result<(u16, String), String> {
        text(self.post(path, body)?)
    }

    /// The text at a path.
    pub fn get(&self, path: &str) -> Result<(u16, String), String> {
        let url = format!("{}{path}", self.url);
        text(self.agent.get(url).call().map_err(|e| format!("{path}: {e}"))?)
    }

    /// Reads a stream to its end; `text` finds the text in an event.
    pub fn stream(
        &self,
        path: &str,
        body: &[u8],
        text: impl Fn(&Value) -> Option<String>,
    ) -> Result<(u16, Streamed), String> {
        let began = Instant::now();
        let response = self.post(path, body)?;
        let status = response.status().as_u16();
        let mut streamed = Streamed { text: String::new(), first: None, error: None, done: false };
        let reader = BufReader::new(response.into_body().into_reader().take(LARGEST));
        for line in reader.lines() {
            let line = line.map_err(|e| format!("{path}: {e}"))?;
            let Some(data) = line.strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                streamed.done = true;
                continue;
            }
            let event: Value = serde_json::from_str(data).map_err(|e| format!("{path}: {e}: {data}"))?;
            if event["error"].is_object() {
                streamed.error = Some(event["error"].clone());
            }
            if let Some(piece) = text(&event).filter(|piece| !piece.is_empty()) {
                streamed.first.get_or_insert_with(|| began.elapsed());
                streamed.text.push_str(&piece);
            }
        }
        Ok((status, streamed))
    }

    /// Reads some bytes of the answer and closes the connection.
    pub fn cut(&self, path: &str, body: &[u8], after: usize) -> Result<u16, String> {
        let response = self.post(path, body)?;
        let status = response.status().as_u16();
        let mut some = vec![0; after];
        response.into_body().into_reader().read_exact(&mut some).map_err(|e| format!("{path}: {e}"))?;
        Ok(status)
    }
}

fn text(response: Response<ureq::Body>) -> Result<(u16, String), String> {
    let status = response.status().as_u16();
    let mut text = String::new();
    let body = response.into_body().into_reader().take(LARGEST).read_to_string(&mut text);
    body.map_err(|e| format!("{status}: {e}"))?;
    Ok((status, text))
}
