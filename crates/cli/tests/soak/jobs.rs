//! What clients ask for, and what the answers have to be.

use super::client::Client;
use serde_json::{Value, json};
use std::time::Duration;

/// The tokens with which the mock of the soak fails: bytes that no text has, so only prompts of token ids have them.
pub const FAULTS: &str = "error:252,panic:253,nan:254,slow:255";

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

/// What the answer to a job has to be.
#[derive(Clone, Debug)]
pub enum Expect {
    /// Status 200, and the same every time.
    Same,
    /// As `Same`, in a stream whose text is that of the whole answer.
    Stream,
    /// As `Same`; while other models are in use also status 503.
    Swap,
    /// The client leaves after so many bytes.
    Cut(usize),
    /// One of these statuses, with an error.
    Refused(&'static [u16]),
    /// Status 200, or 504 because of the request's own deadline.
    Deadline,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its kind in the summary.
    pub kind: &'static str,
    pub path: &'static str,
    pub body: String,
    pub expect: Expect,
}

/// What came of a job.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub status: u16,
    /// What has to be the same every time.
    pub answer: Option<Value>,
    /// To the first text of a stream.
    pub first: Option<Duration>,
}

/// All jobs for a model; `swapped` are names of models of which one fits beside it.
pub fn jobs(model: &str, mock: bool, swapped: &[&str]) -> Vec<Job> {
    let mut jobs = Vec::new();
    let mut add = |kind, path, body: Value, expect| {
        let mut body = body;
        if body["model"].is_null() {
            body["model"] = model.into();
        }
        jobs.push(Job { kind, path, body: body.to_string(), expect });
    };
    let words = ["the wind", "a river", "seven stones", "the old house", "water", "morning light"];
    let ask = |i: usize, text: String| {
        // Half of the conversations begin alike, so that prefixes are shared.
        let system =
            if i.is_multiple_of(2) { "You are brief and kind." } else { "Answer as a sailor would." };
        json!([{"role": "system", "content": system}, {"role": "user", "content": text}])
    };
    for i in 0..12 {
        let subject = words[i % words.len()];
        let text = format!("Tell me about {subject} ").repeat(1 + i * i / 4);
        let sampling = match i % 3 {
            0 => json!({"temperature": 0}),
            1 => json!({"seed": i, "temperature": 0.9, "top_p": 0.9}),
            _ => json!({"seed": i, "repeat_penalty": 1.1, "presence_penalty": 0.3}),
        };
        let with = |more: Value| merged(&[&sampling, &more]);
        let tokens = 6 + i * 3;
        add(
            "completion",
            TEXT,
            with(json!({"prompt": text, "max_tokens": tokens, "logprobs": 1})),
            Expect::Same,
        );
        let chat = with(json!({"messages": ask(i, text.clone()), "max_tokens": tokens}));
        add("chat", CHAT, chat.clone(), Expect::Same);
        add("chat stream", CHAT, merged(&[&chat, &json!({"stream": true})]), Expect::Stream);
        let text_stream = with(json!({"prompt": text, "max_tokens": tokens, "stream": true}));
        add("text stream", TEXT, text_stream, Expect::Stream);
        add("tokenize", "/tokenize", json!({"content": text, "with_pieces": true}), Expect::Same);
        let endless =
            json!({"prompt": text, "max_tokens": 600, "stream": true, "ignore_eos": true, "seed": i});
        add("cut", TEXT, endless.clone(), Expect::Cut(20 + 40 * i));
        let late = merged(&[&endless, &json!({"stream": false, "timeout": 0.02 * (i + 1) as f64})]);
        add("deadline", TEXT, late, Expect::Deadline);
    }
    for n in [2, 3, 4] {
        let body = json!({"messages": ask(n, "Name a colour.".into()), "n": n, "seed": n, "max_tokens": 9});
        add("n", CHAT, body, Expect::Same);
    }
    let schema = json!({"type": "object", "properties": {
        "name": {"enum": ["sea", "wind", "stone"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["name", "count"], "additionalProperties": false});
    let tool = json!([{"type": "function", "function": {"name": "look", "parameters": schema}}]);
    let formats = [
        json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}),
        json!({"type": "grammar", "syntax": "regex", "definition": "[a-c]{3}(-[0-9]{2}){1,4}"}),
        json!({"type": "grammar", "syntax": "lark", "definition": "start: word (\" \" word){2}\nword: /[a-z]{2,5}/"}),
    ];
    for (i, format) in formats.iter().enumerate() {
        for seed in 0..3 {
            let body = json!({"messages": ask(i, "Describe it.".into()), "response_format": format,
                "seed": seed, "max_tokens": 60});
            add(["schema", "regex", "lark"][i], CHAT, body, Expect::Same);
        }
    }
    for seed in 0..3 {
        let body = json!({"messages": ask(1, "What do you see?".into()), "tools": tool, "tool_choice": "required",
            "seed": seed, "max_tokens": 60});
        add("tool", CHAT, body, Expect::Same);
    }
    for (path, body, expect) in [
        (TEXT, json!({"prompt": "x", "max_tokens": -1}), Expect::Refused(&[400, 422])),
        (TEXT, json!({"prompt": [1, 2, 99_999_999], "max_tokens": 1}), Expect::Refused(&[400])),
        (TEXT, json!({"prompt": "x", "model": "absent"}), Expect::Refused(&[404])),
        (CHAT, json!({"messages": [{"role": "nobody"}]}), Expect::Refused(&[400, 422])),
        (CHAT, json!({"messages": ask(0, "x".into()), "n": 100_000}), Expect::Refused(&[400, 429])),
        (CHAT, json!({"messages": ask(0, "x ".repeat(40_000))}), Expect::Refused(&[400])),
        (
            CHAT,
            json!({"messages": ask(0, "x".into()), "response_format":
                {"type": "grammar", "syntax": "lark", "definition": "start: absent"}}),
            Expect::Refused(&[400]),
        ),
        ("/v1/absent", json!({}), Expect::Refused(&[404])),
    ] {
        add("bad", path, body, expect);
    }
    for (i, name) in swapped.iter().cycle().take(6).enumerate() {
        let prompt: Vec<usize> = (0..5 + i).map(|t| (t * 7 + i) % 160).collect();
        let body = json!({"model": name, "prompt": prompt, "max_tokens": 4 + i, "seed": i, "logprobs": 1});
        add("swap", TEXT, body, Expect::Swap);
    }
    if mock {
        // Tokens with which the mock fails, among others of the same batch.
        for (token, expect) in [
            (252, Expect::Refused(&[500])),
            (253, Expect::Refused(&[500])),
            (254, Expect::Refused(&[500])),
            (255, Expect::Same),
        ] {
            for at in [1, 40] {
                let mut prompt: Vec<u32> = (0..50).map(|i| 300 + i * at % 200).collect();
                prompt[at as usize] = token;
                let body = json!({"prompt": prompt, "max_tokens": 8, "seed": 1});
                add("fault", TEXT, body, expect.clone());
            }
        }
    }
    jobs.push(Job {
        kind: "bad",
        path: CHAT,
        body: "{\"messages\": [".into(),
        expect: Expect::Refused(&[400]),
    });
    jobs
}

fn merged(parts: &[&Value]) -> Value {
    let fields = parts.iter().filter_map(|part| part.as_object()).flatten();
    Value::Object(fields.map(|(name, value)| (name.clone(), value.clone())).collect())
}

impl Job {
    /// Whether its answer is compared with that of a fresh run.
    pub fn has_one_answer(&self) -> bool {
        matches!(self.expect, Expect::Same | Expect::Stream | Expect::Swap)
    }

    /// Asks, and checks everything but the answer itself.
    ///
    /// # Errors
    /// What was wrong.
    pub fn run(&self, client: &Client) -> Result<Outcome, String> {
        let body = self.body.as_bytes();
        let wrong =
            |status: u16, text: &str| Err(format!("{} {}: status {status}: {text}", self.kind, self.body));
        match self.expect {
            Expect::Stream => {
                let chat = self.path == CHAT;
                let piece = |event: &Value| -> Option<String> {
                    let choice = &event["choices"][0];
                    let text = if chat { &choice["delta"]["content"] } else { &choice["text"] };
                    text.as_str().map(str::to_owned)
                };
                let (status, streamed) = client.stream(self.path, body, piece)?;
                if status != 200 || !streamed.done || streamed.error.is_some() {
                    return wrong(status, &format!("{streamed:?}"));
                }
                Ok(Outcome { status, answer: Some(streamed.text.into()), first: streamed.first })
            }
            Expect::Cut(after) => match client.cut(self.path, body, after)? {
                200 => Ok(Outcome { status: 200, ..Outcome::default() }),
                status => wrong(status, "expected 200"),
            },
            Expect::Same | Expect::Swap | Expect::Refused(_) | Expect::Deadline => {
                let (status, text) = client.ask(self.path, body)?;
                let parsed: Value = serde_json::from_str(&text).unwrap_or_default();
                let failed = parsed["error"]["message"].is_string();
                match &self.expect {
                    Expect::Refused(statuses) if statuses.contains(&status) && failed => {}
                    Expect::Deadline if status == 504 && failed => {}
                    Expect::Swap if status == 503 && failed => {}
                    Expect::Deadline if status == 200 => {}
                    Expect::Same | Expect::Swap if status == 200 => {
                        return Ok(Outcome { status, answer: Some(lasting(parsed)), first: None });
                    }
                    _ => return wrong(status, &text),
                }
                Ok(Outcome { status, ..Outcome::default() })
            }
        }
    }
}

/// The part of an answer that is the same every time: without names, times and what was cached.
fn lasting(mut answer: Value) -> Value {
    if answer["tokens"].is_array() {
        return answer;
    }
    let mut choices = answer["choices"].take();
    for choice in choices.as_array_mut().into_iter().flatten() {
        for call in choice["message"]["tool_calls"].as_array_mut().into_iter().flatten() {
            call["id"] = Value::Null;
        }
    }
    choices
}
