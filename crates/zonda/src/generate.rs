//! [`Generate`]: one generation, from its settings to its [`Answer`] or its stream of events.

use crate::error::{Error, Result};
use crate::tools::{Separator, Style, ToolCall, ToolChoice, Tools};
use serde_json::Value;
use zonda_engine::tokenize::Message;
use zonda_engine::{
    Engine, Event, FinishReason, Generation, Grammar, Keep, Outcome, Prompt, Request, SamplingParams,
    Speculate, Timing, TokenId, Usage,
};

/// The settings of a generation; [`Generate::send`] or [`Generate::stream`] starts it.
///
/// Without further settings the model answers until it ends or the context is full, with the sampling that its files recommend
/// ([`Engine::sampling`]) or else that of [`SamplingParams::default`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `send` or `stream`"]
pub struct Generate<'m> {
    engine: &'m Engine,
    style: Style,
    request: Request,
    tools: Vec<Value>,
    tool_choice: Option<ToolChoice>,
    parallel_tool_calls: bool,
    separate_reasoning: bool,
}

impl<'m> Generate<'m> {
    pub(crate) fn new(engine: &'m Engine, style: Style, prompt: Prompt) -> Generate<'m> {
        let mut request = Request::new(prompt, usize::MAX);
        request.sampling = engine.sampling().params();
        Generate {
            engine,
            style,
            request,
            tools: Vec::new(),
            tool_choice: None,
            parallel_tool_calls: true,
            separate_reasoning: true,
        }
    }

    fn sampled(mut self, set: impl FnOnce(&mut SamplingParams)) -> Generate<'m> {
        set(&mut self.request.sampling);
        self
    }

    /// Maximum number of tokens of the answer.
    pub fn max_tokens(mut self, tokens: usize) -> Generate<'m> {
        self.request.max_tokens = tokens;
        self
    }

    /// Sampling temperature; 0: always the most probable token.
    pub fn temperature(self, temperature: f32) -> Generate<'m> {
        self.sampled(|sampling| sampling.temperature = temperature)
    }

    /// Keeps the `k` most probable tokens; 0: all.
    pub fn top_k(self, k: usize) -> Generate<'m> {
        self.sampled(|sampling| sampling.top_k = k)
    }

    /// Keeps the most probable tokens that together reach `p`; 1: all.
    pub fn top_p(self, p: f32) -> Generate<'m> {
        self.sampled(|sampling| sampling.top_p = p)
    }

    /// Keeps tokens at least `p` times as probable as the best; 0: all.
    pub fn min_p(self, p: f32) -> Generate<'m> {
        self.sampled(|sampling| sampling.min_p = p)
    }

    /// Makes sampling reproducible. Without it the seed is random; [`Answer::seed`] returns it.
    pub fn seed(self, seed: u64) -> Generate<'m> {
        self.sampled(|sampling| sampling.seed = Some(seed))
    }

    /// All sampling parameters.
    pub fn sampling(self, params: SamplingParams) -> Generate<'m> {
        self.sampled(|sampling| *sampling = params)
    }

    /// Ends the answer where one of these texts appears; it is not part of the answer.
    pub fn stop<S: Into<String>>(mut self, texts: impl IntoIterator<Item = S>) -> Generate<'m> {
        self.request.stop.extend(texts.into_iter().map(Into::into));
        self
    }

    /// Continues where the model would end its answer.
    pub fn ignore_eos(mut self) -> Generate<'m> {
        self.request.ignore_eos = true;
        self
    }

    /// Restricts the answer to JSON that matches this schema (JSON Schema, draft 2020-12).
    pub fn json_schema(self, schema: impl Into<Value>) -> Generate<'m> {
        self.grammar(Grammar::JsonSchema(schema.into()))
    }

    /// Restricts the answer to this grammar: a JSON schema, a regular expression or a Lark grammar.
    pub fn grammar(mut self, grammar: Grammar) -> Generate<'m> {
        self.request.grammar = Some(grammar);
        self
    }

    /// Functions that the model may call: [`Tool`](crate::Tool)s, or tools in the JSON of OpenAI's API.
    pub fn tools<T: Into<Value>>(mut self, tools: impl IntoIterator<Item = T>) -> Generate<'m> {
        self.tools.extend(tools.into_iter().map(Into::into));
        self
    }

    /// Whether the model must, may or must not call tools. By default it may.
    pub fn tool_choice(mut self, choice: ToolChoice) -> Generate<'m> {
        self.tool_choice = Some(choice);
        self
    }

    /// Whether one answer may contain several calls. By default it may.
    pub fn parallel_tool_calls(mut self, parallel: bool) -> Generate<'m> {
        self.parallel_tool_calls = parallel;
        self
    }

    /// Whether what the model thinks before it answers is apart from the text ([`Answer::reasoning`]), which it is otherwise;
    /// `false`: it stays in the text, with its marks.
    pub fn separate_reasoning(mut self, separate: bool) -> Generate<'m> {
        self.separate_reasoning = separate;
        self
    }

    /// When the context is full, discards half of the tokens after the kept prefix, and continues.
    pub fn context_shift(mut self, keep: Keep) -> Generate<'m> {
        self.request.context_shift = Some(keep);
        self
    }

    /// Where the drafts of speculative decoding come from. By default as the model was opened.
    pub fn speculate(mut self, speculate: Speculate) -> Generate<'m> {
        self.request.speculate = Some(speculate);
        self
    }

    /// Changes the engine's request, for settings without a method here.
    pub fn with(mut self, change: impl FnOnce(&mut Request)) -> Generate<'m> {
        change(&mut self.request);
        self
    }

    /// The engine's request. Tools are not part of it: see [`Style::apply`].
    pub fn into_request(self) -> Request {
        self.request
    }

    /// The request with its tools, and the separator of calls, reasoning and text.
    fn prepare(self) -> Result<(&'m Engine, Request, Separator)> {
        let Generate {
            engine,
            style,
            mut request,
            tools,
            tool_choice,
            parallel_tool_calls,
            separate_reasoning,
        } = self;
        let tools = Tools::new(tools, tool_choice, Some(parallel_tool_calls))?;
        let tokenizer = engine.text().map(|text| &*text.tokenizer);
        let parser = style.separating(separate_reasoning).apply(&tools, &mut request, tokenizer)?;
        Ok((engine, request, Separator::new(parser)))
    }

    /// Starts the generation and waits for its end.
    ///
    /// # Errors
    /// As [`Generate::stream`]; [`Error::Generation`] if the backend fails later.
    pub fn send(self) -> Result<Answer> {
        self.stream()?.wait()
    }

    /// Starts the generation and returns its events as they happen.
    ///
    /// # Errors
    /// [`Error::Engine`] if the request is malformed or does not fit, or the queue is full; [`Error::Tools`].
    pub fn stream(self) -> Result<Stream> {
        let (engine, request, mut separator) = self.prepare()?;
        let generation = engine.submit(request)?;
        separator.begin(generation.prompt_end(), engine.text().map(|text| &*text.tokenizer));
        Ok(Stream { generation, separator })
    }

    /// Starts the generation and returns its events as an async stream, for any runtime.
    ///
    /// # Errors
    /// As [`Generate::stream`].
    #[cfg(feature = "async")]
    pub fn stream_async(self) -> Result<crate::AsyncStream> {
        let (engine, request, separator) = self.prepare()?;
        crate::AsyncStream::start(engine, request, separator)
    }
}

/// A finished answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Answer {
    /// Its text, without tool calls and reasoning.
    pub text: String,
    /// What the model thought before it answered; empty if it did not, or if its chat template shows no marks that are known.
    pub reasoning: String,
    /// The functions to call.
    pub tool_calls: Vec<ToolCall>,
    /// Its token ids.
    pub tokens: Vec<TokenId>,
    /// The reason why it ended.
    pub finish_reason: FinishReason,
    /// Token counts of prompt and answer.
    pub usage: Usage,
    /// Times of its events.
    pub timing: Timing,
    /// The seed that was used for sampling.
    pub seed: u64,
}

impl Answer {
    fn new(text: String, separator: Separator, tokens: Vec<TokenId>, outcome: Outcome) -> Answer {
        let Outcome { reason, usage, timing, seed, .. } = outcome;
        let (tool_calls, reasoning) = separator.into_parts();
        Answer { text, reasoning, tool_calls, tokens, finish_reason: reason, usage, timing, seed }
    }

    /// The answer as a message, with its text, its reasoning and its calls, for continuing the conversation.
    pub fn message(&self) -> Message {
        let mut message = Message::assistant(&self.text);
        if !self.reasoning.is_empty() {
            message.extra.insert("reasoning_content".to_owned(), self.reasoning.as_str().into());
        }
        if !self.tool_calls.is_empty() {
            let calls = self.tool_calls.iter().map(ToolCall::to_value).collect();
            message.extra.insert("tool_calls".to_owned(), Value::Array(calls));
        }
        message
    }
}

/// The events of one generation. Dropping it cancels the generation.
#[derive(Debug)]
pub struct Stream {
    generation: Generation,
    separator: Separator,
}

impl Stream {
    /// Waits for the end of the generation.
    ///
    /// # Errors
    /// [`Error::Generation`] if the backend fails.
    pub fn wait(mut self) -> Result<Answer> {
        let mut tokens = Vec::new();
        let mut text = String::new();
        for event in self.by_ref() {
            match event? {
                Event::Tokens { ids, text: piece, .. } => {
                    tokens.extend(ids);
                    text.push_str(&piece);
                }
                Event::Finished(outcome) => {
                    return Ok(Answer::new(text, self.separator, tokens, outcome));
                }
                _ => {}
            }
        }
        Err(Error::Generation("the engine stopped before the answer ended".to_owned()))
    }

    /// Cancels the generation. [`Event::Finished`] is still delivered.
    pub fn cancel(&self) {
        self.generation.cancel();
    }

    /// Only the text, in pieces.
    pub fn text(self) -> impl Iterator<Item = Result<String>> {
        self.filter_map(|event| match event {
            Ok(Event::Tokens { text, .. }) => (!text.is_empty()).then_some(Ok(text)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    }

    /// The tool calls so far. The list is complete when [`Event::Finished`] arrives.
    pub fn tool_calls(&self) -> &[ToolCall] {
        self.separator.calls()
    }

    /// What the model has thought so far; it is not part of the text.
    pub fn reasoning(&self) -> &str {
        self.separator.reasoning()
    }

    /// The engine's own handle, which can wait with a time limit. Its text contains tool calls and reasoning as the model wrote
    /// them.
    pub fn into_generation(self) -> Generation {
        self.generation
    }
}

impl Iterator for Stream {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        let Stream { generation, separator } = self;
        separator.next(|| generation.recv().map(Error::of_event))
    }
}
