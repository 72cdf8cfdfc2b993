//! One request: the stream of server-sent events, each delivery with its time.

use super::plan::{Api, LoadPlan};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Longest line of a stream, in bytes. Longer lines are not events of this API.
const MAX_LINE: u64 = 8 << 20;

/// Why a server gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status, if there was one.
    pub status: Option<u16>,
    /// The server's message, or the transport error.
    pub why: String,
}

/// Sends requests. Used from many threads.
pub trait Transport: Sync {
    /// Posts a JSON body; returns the streamed body of an answer with status 200.
    ///
    /// # Errors
    /// If the request fails or has another status.
    fn post(&self, path: &str, body: &str) -> Result<Box<dyn Read + Send>, Refusal>;
}

/// How one request went.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The whole answer arrived.
    Complete,
    /// The answer ended as it should, but its text was hidden, such as that of a model that only thought: nothing to measure.
    Hidden,
    /// The request was refused, or its answer was cut off.
    Failed(Refusal),
    /// The user interrupted the measurement.
    Interrupted,
}

/// One request and its result. Times are in ms; those of the answer count from when the request was due.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Its number, from 0.
    pub index: usize,
    /// When it was due, from the beginning of the load.
    pub due_ms: f64,
    /// How long after that it was sent: the client's own delay.
    pub late_ms: f64,
    /// When each delivery of text arrived.
    pub deliveries_ms: Vec<f64>,
    /// When its answer ended.
    pub end_ms: f64,
    /// Prompt tokens, by the server's count.
    pub prompt_tokens: Option<usize>,
    /// Prompt tokens that came from the server's cache.
    pub cached_tokens: Option<usize>,
    /// Generated tokens, by the server's count.
    pub generated: Option<usize>,
    /// Tokens of reasoning among them, by the server's count.
    pub reasoning: usize,
    /// Whether a delivery had text of the reasoning; otherwise it was hidden.
    pub shows_reasoning: bool,
    /// Why the answer ended.
    pub finish_reason: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Asked {
    /// Time to the first delivery.
    pub fn ttft_ms(&self) -> Option<f64> {
        self.deliveries_ms.first().copied()
    }

    /// Time to the last delivery.
    pub fn total_ms(&self) -> Option<f64> {
        self.deliveries_ms.last().copied()
    }

    /// (last − first) / (tokens − 1), where the tokens are those whose text was delivered.
    pub fn tpt_ms(&self) -> Option<f64> {
        let hidden = if self.shows_reasoning { 0 } else { self.reasoning };
        let tokens = self.generated?.checked_sub(hidden).filter(|n| *n > 1)?;
        Some((self.total_ms()? - self.ttft_ms()?) / (tokens - 1) as f64)
    }

    /// Gaps between deliveries.
    pub fn gaps_ms(&self) -> impl Iterator<Item = f64> {
        self.deliveries_ms.windows(2).map(|pair| pair[1] - pair[0])
    }
}

/// Sends request `index`, which was due at `due`, and reads its answer.
pub fn ask(
    transport: &dyn Transport,
    plan: &LoadPlan,
    index: usize,
    began: Instant,
    due: Instant,
    stop: &AtomicBool,
) -> Asked {
    let ms = |from: Instant| from.elapsed().as_secs_f64() * 1e3;
    let body = plan.body(index).to_string();
    let mut asked = Asked {
        index,
        due_ms: due.saturating_duration_since(began).as_secs_f64() * 1e3,
        late_ms: ms(due),
        deliveries_ms: Vec::with_capacity(plan.max_tokens.min(4096)),
        end_ms: 0.0,
        prompt_tokens: None,
        cached_tokens: None,
        generated: None,
        reasoning: 0,
        shows_reasoning: false,
        finish_reason: None,
        outcome: Outcome::Complete,
    };
    let answer = transport.post(plan.api.path(), &body);
    asked.outcome = match answer.and_then(|answer| follow(&mut asked, plan.api, answer, due, stop)) {
        Ok(outcome) => outcome,
        Err(refusal) => Outcome::Failed(refusal),
    };
    asked.end_ms = ms(due);
    asked
}

/// Reads events until `[DONE]`.
fn follow(
    asked: &mut Asked,
    api: Api,
    answer: Box<dyn Read + Send>,
    due: Instant,
    stop: &AtomicBool,
) -> Result<Outcome, Refusal> {
    let broken = |why: String| Refusal { status: Some(200), why };
    let mut reader = BufReader::new(answer);
    let mut line = Vec::new();
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(Outcome::Interrupted);
        }
        line.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        let now = due.elapsed().as_secs_f64() * 1e3;
        match read {
            Ok(0) => return Err(broken("the stream ended before [DONE]".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(broken(format!("the stream broke off: {error}"))),
        }
        let Some(data) = line.strip_prefix(b"data:") else { continue };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return match (asked.deliveries_ms.is_empty(), asked.finish_reason.is_some()) {
                (false, _) => Ok(Outcome::Complete),
                (true, true) => Ok(Outcome::Hidden),
                (true, false) => Err(broken("the answer had no text".to_owned())),
            };
        }
        let event: Value = serde_json::from_slice(data)
            .map_err(|error| broken(format!("an event that is not JSON: {error}")))?;
        if let Some(error) = event.get("error").filter(|e| !e.is_null()) {
            return Err(broken(error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned)));
        }
        note(asked, api, &event, now);
    }
}

/// Records an event: when its text arrived, the finish reason, token counts.
fn note(asked: &mut Asked, api: Api, event: &Value, now: f64) {
    let choice = &event["choices"][0];
    let texts = match api {
        // Reasoning models send their reasoning first; servers differ in the name of its field.
        Api::Chat => ["content", "reasoning_content", "reasoning"].map(|name| &choice["delta"][name]),
        Api::Completions => [&choice["text"], &Value::Null, &Value::Null],
    };
    let has_text = |text: &&Value| text.as_str().is_some_and(|text| !text.is_empty());
    if texts.iter().any(has_text) {
        asked.deliveries_ms.push(now);
    }
    asked.shows_reasoning |= texts[1..].iter().any(has_text);
    if let Some(reason) = choice["finish_reason"].as_str() {
        asked.finish_reason = Some(reason.to_owned());
    }
    let count = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    if let Some(usage) = event.get("usage").filter(|u| u.is_object()) {
        asked.prompt_tokens = count(&usage["prompt_tokens"]).or(asked.prompt_tokens);
        asked.generated = count(&usage["completion_tokens"]).or(asked.generated);
        let reasoning = &usage["completion_tokens_details"]["reasoning_tokens"];
        asked.reasoning = count(reasoning).unwrap_or(asked.reasoning);
        asked.cached_tokens = count(&usage["prompt_tokens_details"]["cached_tokens"]).or(asked.cached_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::plan;
    use super::*;

    struct Says(Result<&'static str, Refusal>);

    impl Transport for Says {
        fn post(&self, path: &str, body: &str) -> Result<Box<dyn Read + Send>, Refusal> {
            assert_eq!(path, "/v1/chat/completions");
            assert!(body.contains("\"stream\":true"), "{body}");
            self.0.clone().map(|text| Box::new(text.as_bytes()) as _)
        }
    }

    fn outcome(says: Result<&'static str, Refusal>) -> Asked {
        let now = Instant::now();
        ask(&Says(says), &plan(), 0, now, now, &AtomicBool::new(false))
    }

    #[test]
    fn deliveries_counts_and_the_end_are_recorded() {
        let asked = outcome(Ok(": alive\n\n\
            data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\n\
            data:{\"choices\":[{\"delta\":{\"content\":\"b\"},\"finish_reason\":\"length\"}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\
                \"prompt_tokens_details\":{\"cached_tokens\":5}}}\n\n\
            data: [DONE]\n\n"));
        assert_eq!(asked.outcome, Outcome::Complete);
        assert_eq!(asked.deliveries_ms.len(), 2);
        assert_eq!((asked.prompt_tokens, asked.cached_tokens, asked.generated), (Some(9), Some(5), Some(3)));
        assert_eq!(asked.finish_reason.as_deref(), Some("length"));
        let (first, last) = (asked.ttft_ms().unwrap(), asked.total_ms().unwrap());
        assert!(first <= last && last <= asked.end_ms);
        assert_eq!(asked.tpt_ms(), Some((last - first) / 2.0));
    }

    #[test]
    fn any_response_of_a_server_gives_a_row() {
        let refused = Refusal { status: Some(429), why: "full".to_owned() };
        assert_eq!(outcome(Err(refused.clone())).outcome, Outcome::Failed(refused));
        for (text, says) in [
            ("", "before [DONE]"),
            ("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n", "before [DONE]"),
            ("data: [DONE]\n", "no text"),
            ("data: {\n", "not JSON"),
            ("data: {\"error\":{\"message\":\"the backend failed\"}}\n", "the backend failed"),
            ("data: {\"error\":7}\n", "7"),
            ("data: []\ndata: 3\ndata: {\"choices\":{}}\ndata: [DONE]\n", "no text"),
        ] {
            match outcome(Ok(text)).outcome {
                Outcome::Failed(refusal) => assert!(refusal.why.contains(says), "{says} in {refusal:?}"),
                other => panic!("{text:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_answer_whose_text_is_hidden_is_an_answer() {
        let asked = outcome(Ok(
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n",
        ));
        assert_eq!((asked.outcome, asked.generated), (Outcome::Hidden, Some(2)));
    }

    /// Hidden tokens came before the first delivery, so they are no part of the time per token.
    #[test]
    fn the_time_per_token_is_that_of_delivered_tokens() {
        let tokens = |reasoning: &str| {
            let mut asked =
                outcome(Ok("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n"));
            for event in [
                format!("{{\"choices\":[{{\"delta\":{{{reasoning}}}}}]}}"),
                "{\"choices\":[],\"usage\":{\"completion_tokens\":12,\"completion_tokens_details\":{\"reasoning_tokens\":9}}}"
                    .to_owned(),
            ] {
                note(&mut asked, Api::Chat, &serde_json::from_str(&event).unwrap(), 0.0);
            }
            asked.deliveries_ms = vec![100.0, 200.0];
            asked.tpt_ms()
        };
        assert_eq!(tokens(""), Some(50.0), "3 tokens were delivered");
        assert_eq!(tokens("\"reasoning\":\"hm\""), Some(100.0 / 11.0));
    }

    #[test]
    fn a_requested_stop_is_not_a_failure() {
        let now = Instant::now();
        let asked = ask(&Says(Ok("data: [DONE]\n")), &plan(), 0, now, now, &AtomicBool::new(true));
        assert_eq!(asked.outcome, Outcome::Interrupted);
    }
}
