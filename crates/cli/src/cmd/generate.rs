//! What `run` and `chat` share: opening an engine for a model, streaming a generation, its figures.

use crate::Context;
use crate::args::{ModelArg, OpenArgs};
use crate::backends::{self, BackendKind};
use crate::error::{Advice as _, Usage, advised};
use crate::interrupt;
use crate::output::Spinner;
use serde::Serialize;
use std::time::{Duration, Instant};
use zonda_engine::schedule::ScheduleError;
use zonda_engine::{
    Engine, EngineError, Event, FinishReason, Outcome, Prompt, Request, RequestError, TokenId,
};

/// How often Ctrl-C is looked for while no token comes.
const POLL: Duration = Duration::from_millis(50);

/// An engine and what it was started for.
pub struct Session {
    /// The running backend.
    pub engine: Engine,
    /// The backend's name.
    pub backend: BackendKind,
    /// The model as the user named it.
    pub model: String,
    /// From the model's name to an engine that takes requests.
    pub load: Duration,
    quiet: bool,
}

impl Session {
    /// Finds the model and starts its engine.
    ///
    /// # Errors
    /// If there is no such model, or no backend runs it.
    pub fn start(
        context: &Context,
        model: &ModelArg,
        backend: Option<BackendKind>,
        open: &OpenArgs,
        seed: Option<u64>,
    ) -> anyhow::Result<Session> {
        let located = context.store()?.locate(&model.model)?;
        let kind = backends::choose(backend, &located)?;
        let began = Instant::now();
        let spinner = Spinner::start(format!("loading {}", located.name), context.quiet);
        let files = backends::open_model(&located)?;
        let text = backends::text_of(files.as_deref())?;
        let engine = backends::start(kind, files, text, &open.options(seed))?;
        drop(spinner);
        Ok(Session {
            engine,
            backend: kind,
            model: located.name,
            load: began.elapsed(),
            quiet: context.quiet,
        })
    }

    /// Refuses a model without tokenizer, or without the chat template that a conversation needs.
    ///
    /// # Errors
    /// Says which is missing.
    pub fn check_text(&self, chat: bool) -> anyhow::Result<()> {
        match self.engine.text() {
            None => Err(advised(
                format!("{} comes without a tokenizer", self.model),
                "put tokenizer.json, tokenizer.model or tekken.json into its folder; \
                 `zonda logits` and `zonda bench` take token ids",
            )),
            Some(text) if chat && text.template.is_none() => Err(advised(
                format!("{} comes without a chat template", self.model),
                "use `zonda run --raw`, which continues the text as it is",
            )),
            Some(_) => Ok(()),
        }
    }

    /// Generates, hands each piece of text to `show`, and stops early on Ctrl-C. Returns the tokens and how it ended;
    /// a backend that failed is an error.
    ///
    /// # Errors
    /// If the request is refused, the backend fails, or `show` does.
    pub fn generate(
        &self,
        request: Request,
        mut show: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<(Vec<TokenId>, Outcome)> {
        let _graceful = interrupt::graceful();
        let mut generation = self.engine.submit(request).map_err(refusal)?;
        let mut tokens = Vec::new();
        let mut cancelled = false;
        let mut waiting = Some(Spinner::start("reading the prompt", self.quiet));
        while !generation.ended() {
            if interrupt::pressed() && !cancelled {
                generation.cancel();
                cancelled = true;
            }
            match generation.recv_timeout(POLL) {
                None => {}
                Some(Event::Tokens { ids, text, .. }) => {
                    waiting = None;
                    tokens.extend(ids);
                    if !text.is_empty() {
                        show(&text)?;
                    }
                }
                Some(Event::Finished(outcome)) => {
                    drop(waiting);
                    if let FinishReason::Error(why) = &outcome.reason {
                        return Err(anyhow::anyhow!("{why}"))
                            .advise("the model or the backend is at fault: `zonda inspect` shows the model");
                    }
                    return Ok((tokens, outcome));
                }
            }
        }
        Err(anyhow::anyhow!("the engine stopped before the generation ended"))
    }
}

/// A request that makes no sense is wrong usage; any other is refused for what is in it.
fn refusal(error: EngineError) -> anyhow::Error {
    match error {
        EngineError::Request(
            RequestError::Sampling(_) | RequestError::EmptyStop { .. } | RequestError::NoTokensWanted,
        ) => Usage(error.to_string()).into(),
        _ => error.into(),
    }
}

/// Adds advice to the refusal of a prompt that is longer than the context; leaves other errors as they are.
pub fn advise_if_too_long(error: anyhow::Error, advice: &str) -> anyhow::Error {
    match error.downcast_ref() {
        Some(EngineError::Request(RequestError::Schedule(ScheduleError::PromptTooLong { .. }))) => {
            Err::<(), _>(error).advise(advice).unwrap_err()
        }
        _ => error,
    }
}

/// The default request of `run` and `chat`: `limit` is in tokens, `None`: until the model ends or the context is full.
pub fn request(prompt: Prompt, limit: Option<usize>) -> Request {
    Request::new(prompt, limit.unwrap_or(usize::MAX))
}

/// The figures of one generation, as DESIGN defines them. Missing is `None`, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Tokens of the prompt, template and BOS included.
    pub prompt_tokens: usize,
    /// Those of them that the prefix cache held.
    pub cached_tokens: usize,
    /// Generated tokens, end of sequence not counted.
    pub completion_tokens: usize,
    /// First token delivered − t0.
    pub ttft_ms: Option<f64>,
    /// (last − first) / (N − 1).
    pub tpt_ms: Option<f64>,
    /// Last token delivered − t0.
    pub total_ms: Option<f64>,
    /// Uncached prompt tokens per second of prefill computation.
    pub prefill_tps: Option<f64>,
    /// 1 / tpt.
    pub decode_tps: Option<f64>,
}

impl Figures {
    /// The figures of a generation.
    pub fn of(outcome: &Outcome) -> Figures {
        let (usage, timing) = (&outcome.usage, &outcome.timing);
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let rate = |n: f64, seconds: f64| (n > 0.0 && seconds > 0.0).then_some(n / seconds);
        let gaps = usage.completion_tokens.checked_sub(1).filter(|&n| n > 0).map(|n| n as f64);
        let decode = timing.first.zip(timing.last).map(|(first, last)| (last - first).as_secs_f64());
        let uncached = usage.prompt_tokens.saturating_sub(usage.cached_tokens) as f64;
        Figures {
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            completion_tokens: usage.completion_tokens,
            ttft_ms: timing.ttft().map(ms),
            tpt_ms: gaps.zip(decode).map(|(n, d)| d * 1e3 / n),
            total_ms: timing.total().map(ms),
            prefill_tps: rate(uncached, timing.prefill.as_secs_f64()),
            decode_tps: gaps.zip(decode).and_then(|(n, d)| rate(n, d)),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let show = |value: Option<f64>, unit: &str| value.map(|v| format!("{v:.1} {unit}"));
        let cached =
            if self.cached_tokens > 0 { format!(" ({} cached)", self.cached_tokens) } else { String::new() };
        let parts = [
            Some(format!("{} prompt tokens{cached}", self.prompt_tokens)),
            show(self.prefill_tps, "tokens/s prefill"),
            Some(format!("{} tokens", self.completion_tokens)),
            show(self.decode_tps, "tokens/s decode"),
            show(self.ttft_ms, "ms to the first token"),
            show(self.total_ms, "ms in all"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonda_engine::{Timing, Usage};

    fn outcome(tokens: usize) -> Outcome {
        let t0 = Instant::now();
        let at = |ms| Some(t0 + Duration::from_millis(ms));
        let (first, last) =
            if tokens == 0 { (None, None) } else { (at(100), at(100 + 10 * (tokens as u64 - 1))) };
        Outcome {
            reason: FinishReason::Length,
            usage: Usage { prompt_tokens: 50, cached_tokens: 10, completion_tokens: tokens },
            timing: Timing { t0, prefill: Duration::from_millis(80), first, last },
            seed: 0,
        }
    }

    #[test]
    fn figures_follow_their_definitions() {
        let f = Figures::of(&outcome(11));
        let close = |a: Option<f64>, b: f64| (a.unwrap() - b).abs() < 1e-9;
        assert!(close(f.ttft_ms, 100.0) && close(f.tpt_ms, 10.0) && close(f.total_ms, 200.0), "{f:?}");
        assert!(close(f.prefill_tps, 500.0) && close(f.decode_tps, 100.0), "{f:?}");
        assert!(close(f.total_ms, f.ttft_ms.unwrap() + 10.0 * f.tpt_ms.unwrap()));
    }

    #[test]
    fn what_does_not_exist_is_none() {
        let one = Figures::of(&outcome(1));
        assert_eq!((one.tpt_ms, one.decode_tps), (None, None));
        assert!(one.ttft_ms.is_some());
        let none = Figures::of(&outcome(0));
        assert_eq!((none.ttft_ms, none.total_ms), (None, None));
    }
}
