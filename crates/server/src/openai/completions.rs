//! `/v1/completions`: the continuation of a text, at once or streamed.

use super::answer::{self, Timings, Usage};
use super::chunks::{self, Chunks, chunk};
use super::shared::{self, Limit, Shared};
use crate::error::ApiError;
use crate::extract::{self, Fields, IGNORED_FIELDS};
use crate::generate::Running;
use crate::id;
use crate::models::Loaded;
use crate::server::Server;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response, sse};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;
use zonda_engine::sample::TokenLogprobs;
use zonda_engine::tokenize::Tokenizer;
use zonda_engine::{Event, Prompt, Request, TokenId};

/// A text to continue. Takes the fields of [`Shared`] besides its own.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// The text, token ids, or several of either.
    pub prompt: Prompts,
    /// How many of the most probable tokens to report with each token, 20 at most; 0: only the token's own probability.
    #[serde(default)]
    pub logprobs: Option<u64>,
}

/// All fields of a completion, for the API's description.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // only described, never created
pub struct CompletionBody {
    #[schema(inline)]
    #[serde(flatten)]
    own: CompletionRequest,
    #[serde(flatten)]
    shared: Shared,
}

/// One prompt or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Prompts {
    /// A text.
    Text(String),
    /// Token ids.
    Tokens(Vec<TokenId>),
    /// Texts.
    Texts(Vec<String>),
    /// Token ids of several prompts.
    Batch(Vec<Vec<TokenId>>),
}

impl Prompts {
    fn list(self) -> Vec<Prompt> {
        match self {
            Prompts::Text(text) => vec![Prompt::Text(text)],
            Prompts::Tokens(ids) => vec![Prompt::Tokens(ids)],
            Prompts::Texts(texts) => texts.into_iter().map(Prompt::Text).collect(),
            Prompts::Batch(batch) => batch.into_iter().map(Prompt::Tokens).collect(),
        }
    }
}

/// An answer, or a piece of one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion {
    /// The answer's id.
    pub id: String,
    /// `text_completion`.
    pub object: &'static str,
    /// When it began, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The answers to each prompt in order, `n` of each.
    pub choices: Vec<CompletionChoice>,
    /// Token counts; in the last chunk of a stream if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Timings of the first choice; in a stream, with the end of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// One answer, or a piece of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Its number, from 0.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Probabilities, if asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`, at the end.
    pub finish_reason: Option<&'static str>,
}

/// Probabilities of tokens, in the form of the older API.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// Their log-probabilities.
    pub token_logprobs: Vec<f32>,
    /// The most probable tokens at each place.
    pub top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where each token begins in the answer's text, in characters. A token that begins within a character has the
    /// position of that character.
    pub text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    fn push(&mut self, tokenizer: &Tokenizer, found: &TokenLogprobs, place: &mut TextPlace) {
        let id = found.chosen.id;
        let token = tokenizer.piece(id);
        self.text_offset.push(place.offset);
        if !tokenizer.is_special(id) {
            place.advance(tokenizer.token_bytes(id).unwrap_or_default());
        }
        self.tokens.push(token);
        self.token_logprobs.push(found.chosen.logprob);
        self.top_logprobs.push(found.top.iter().map(|t| (tokenizer.piece(t.id), t.logprob)).collect());
    }

    fn extend(&mut self, more: CompletionLogprobs) {
        self.tokens.extend(more.tokens);
        self.token_logprobs.extend(more.token_logprobs);
        self.top_logprobs.extend(more.top_logprobs);
        self.text_offset.extend(more.text_offset);
    }
}

/// A position in a text whose characters may arrive in parts.
#[derive(Clone, Debug, Default)]
struct TextPlace {
    /// Number of complete characters so far.
    offset: usize,
    /// Bytes of an incomplete character.
    held: Vec<u8>,
}

impl TextPlace {
    fn advance(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        let mut unfinished = 0;
        let length = self.held.len();
        let mut seen = 0;
        for chunk in self.held.utf8_chunks() {
            self.offset += chunk.valid().chars().count();
            seen += chunk.valid().len() + chunk.invalid().len();
            let invalid = chunk.invalid();
            let may_grow = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
            if seen == length && may_grow {
                unfinished = invalid.len();
            } else if !invalid.is_empty() {
                // It is shown as U+FFFD.
                self.offset += 1;
            }
        }
        self.held.drain(..length - unfinished);
    }
}

/// OpenAI's default length.
const DEFAULT_TOKENS: usize = 16;

/// Continue a text
#[utoipa::path(post, path = "/v1/completions", tag = "openai", request_body = CompletionBody, responses(
    (status = 200, body = Completion, description = "Or, with `stream`, server-sent events of Completion and a last `[DONE]`"),
    (status = 400, body = crate::error::ErrorBody, description = "A field is malformed or not supported, or the prompt does not fit"),
    (status = 401, body = crate::error::ErrorBody), (status = 404, body = crate::error::ErrorBody),
    (status = 429, body = crate::error::ErrorBody, description = "The queue is full; Retry-After says when to come back"),
    (status = 504, body = crate::error::ErrorBody, description = "The deadline has passed"),
))]
pub(crate) async fn create(State(server): State<Arc<Server>>, fields: Fields) -> Result<Response, ApiError> {
    let (shared, own, ignored) = shared::read::<CompletionRequest>(&fields)?;
    if fields.get("reasoning_effort").is_some() {
        let message = "this field would change the answer and is supported for chats only";
        return Err(ApiError::unsupported("reasoning_effort", message));
    }
    let (streams, usage) = (shared.streams(), shared.includes_usage());
    let config = server.config();
    let loaded = shared.model(&server, &fields).await?;
    let limit = Limit { field: "max_tokens", asked: shared.max_tokens, default: Some(DEFAULT_TOKENS) };
    if config.log_prompts {
        tracing::info!(prompt = ?own.prompt, "prompt");
    }
    let prompts = own.prompt.list();
    if prompts.is_empty() {
        return Err(ApiError::field("prompt", "expected at least one prompt, found none"));
    }
    let request = |prompt| shared.request(config, &loaded, prompt, limit, own.logprobs);
    let requests = prompts.into_iter().map(request).collect::<Result<Vec<Request>, _>>()?;
    let job = shared.job(config, &fields, loaded, requests)?;
    let turn = Turn {
        id: id::random("cmpl-"),
        created: id::now(),
        model: job.loaded.name.clone(),
        logprobs: own.logprobs.is_some(),
        places: vec![TextPlace::default(); job.answers()],
        per_prompt: shared.n.unwrap_or(1) as usize,
        usage: Usage::default(),
    };
    let running = Running::start(&server, job).await?;
    let mut response = if streams {
        chunks::respond(&server, Stream { turn, running, usage })
    } else {
        Json(turn.whole(running).await?).into_response()
    };
    extract::list(&mut response, IGNORED_FIELDS, &ignored);
    Ok(response)
}

/// One answer in progress.
struct Turn {
    id: String,
    created: u64,
    model: String,
    logprobs: bool,
    /// The position in each choice's text.
    places: Vec<TextPlace>,
    /// Choices of one prompt.
    per_prompt: usize,
    usage: Usage,
}

impl Turn {
    /// Takes an event of one choice.
    fn take(&mut self, index: usize, event: Event, loaded: &Loaded) -> (CompletionChoice, Option<Timings>) {
        let choice =
            |text, logprobs, finish_reason| CompletionChoice { index, text, logprobs, finish_reason };
        match event {
            Event::Tokens { text, logprobs, .. } => {
                let mut found = CompletionLogprobs::default();
                if let Some(text) = loaded.engine.text() {
                    logprobs.iter().for_each(|t| found.push(&text.tokenizer, t, &mut self.places[index]));
                }
                (choice(text, self.logprobs.then_some(found), None), None)
            }
            Event::Finished(outcome) => {
                self.usage.add(&outcome, index.is_multiple_of(self.per_prompt));
                let reason = answer::finish_reason(&outcome.reason);
                (choice(String::new(), None, Some(reason)), Some(Timings::of(&outcome)))
            }
            _ => (choice(String::new(), None, None), None),
        }
    }

    async fn whole(mut self, mut running: Running) -> Result<Completion, ApiError> {
        let empty = |index| CompletionChoice {
            index,
            text: String::new(),
            logprobs: self.logprobs.then(CompletionLogprobs::default),
            finish_reason: None,
        };
        let mut choices: Vec<CompletionChoice> = (0..self.places.len()).map(empty).collect();
        let mut timings = None;
        while let Some(event) = running.next().await {
            let (index, event) = event?;
            let (piece, timed) = self.take(index, event, running.loaded());
            let all = &mut choices[index];
            all.text.push_str(&piece.text);
            if let (Some(all), Some(more)) = (&mut all.logprobs, piece.logprobs) {
                all.extend(more);
            }
            all.finish_reason = piece.finish_reason;
            if index == 0 {
                timings = timed.or(timings);
            }
        }
        let usage = Some(self.usage);
        Ok(Completion { usage, timings, ..self.completion(choices) })
    }

    fn completion(&self, choices: Vec<CompletionChoice>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: None,
            timings: None,
        }
    }
}

/// The answer as chunks.
struct Stream {
    turn: Turn,
    running: Running,
    /// Whether the chunk with token counts is still to be sent.
    usage: bool,
}

impl Chunks for Stream {
    async fn next(&mut self) -> Result<Option<Vec<sse::Event>>, ApiError> {
        let Some(event) = self.running.next().await else {
            let last = std::mem::take(&mut self.usage);
            let counts = Completion { usage: Some(self.turn.usage), ..self.turn.completion(Vec::new()) };
            return Ok(last.then(|| vec![chunk(&counts)]));
        };
        let (index, event) = event?;
        let (piece, timings) = self.turn.take(index, event, self.running.loaded());
        let told = piece.finish_reason.is_some() || !piece.text.is_empty() || piece.logprobs.is_some();
        let made = Completion { timings, ..self.turn.completion(vec![piece]) };
        Ok(Some(if told { vec![chunk(&made)] } else { Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use super::TextPlace;

    #[test]
    fn tokens_within_a_character_count_once() {
        let mut place = TextPlace::default();
        let wind = "風".as_bytes();
        let offsets: Vec<usize> = [&b"a"[..], &wind[..1], &wind[1..2], &wind[2..], b"\xff", b"b"]
            .into_iter()
            .map(|bytes| {
                let at = place.offset;
                place.advance(bytes);
                at
            })
            .collect();
        assert_eq!((offsets, place.offset), (vec![0, 1, 1, 1, 2, 3], 4));
    }
}
