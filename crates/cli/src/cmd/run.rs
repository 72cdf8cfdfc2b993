//! `zonda run`: one answer, printed as it is generated.

use super::generate::{Figures, Session, Shown, advise_if_too_long, request, show_reasoning};
use crate::args::{
    BackendArgs, JsonArg, ModelArg, ReasoningArgs, SamplingArgs, ShiftArgs, SpeculateArgs, token_limit,
};
use crate::console::note;
use crate::context::Context;
use crate::error::{Interrupted, Usage};
use crate::output;
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use zonda::{FinishReason, Message, Prompt};

/// Generate an answer to a prompt
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    zonda run -m smollm2-135m 'What is a warm wind called?'\n  \
    git diff | zonda run -m model.gguf --temp 0 -n 200 --system 'Write a commit message.'\n  \
    zonda run -m model.gguf --raw 'Once upon a time' --json")]
pub struct Run {
    #[command(flatten)]
    model: ModelArg,
    /// The prompt; if absent or `-`, it is read from standard input.
    prompt: Option<String>,
    /// Maximum tokens to generate; -1: no limit [default: until the model ends or the context is full].
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true, value_parser = token_limit)]
    max_tokens: Option<usize>,
    /// Continue the prompt as it is, without the chat template.
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// System message.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// End the answer where this text appears; the text is not printed. May be repeated.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Continue where the model would end its answer.
    #[arg(long)]
    ignore_eos: bool,
    /// Keep the prompt's KV cache in this file, and reuse the file's: a prefix that both prompts share is not computed again.
    #[arg(long, value_name = "FILE")]
    prompt_cache: Option<PathBuf>,
    #[command(flatten)]
    reasoning: ReasoningArgs,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    backend: BackendArgs,
    #[command(flatten)]
    shift: ShiftArgs,
    #[command(flatten)]
    speculate: SpeculateArgs,
}

impl Run {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let prompt = prompt_text(self.prompt)?;
        let seed = self.sampling.seed;
        let (backend, open, prompts) =
            (self.backend.backend, self.backend.open.options(seed), self.prompt_cache.as_deref());
        let session = Session::start(context, &self.model, backend, open, &self.speculate, prompts)?;
        let model = &session.model;
        session.check_text(!self.raw)?;
        let prompt = if self.raw {
            Prompt::Text(prompt)
        } else {
            let system = self.system.into_iter().map(Message::system);
            Prompt::chat(system.chain([Message::user(prompt)]).collect())
        };
        let mut request = request(prompt, self.max_tokens, self.shift);
        request.sampling = self.sampling.params(model.engine().sampling());
        request.stop = self.stop;
        request.ignore_eos = self.ignore_eos;

        let (mut text, mut reasoning) = (String::new(), String::new());
        let shows_reasoning = !self.json.json && !context.quiet;
        let result = session.generate(request, self.reasoning.separate(), |piece| match piece {
            Shown::Answer(piece) => {
                if text.is_empty() && !reasoning.is_empty() && shows_reasoning {
                    show_reasoning("\n\n");
                }
                text.push_str(piece);
                if self.json.json { Ok(()) } else { output::data(piece) }
            }
            Shown::Reasoning(piece) => {
                reasoning.push_str(piece);
                if shows_reasoning {
                    show_reasoning(piece);
                }
                Ok(())
            }
        });
        let (tokens, outcome) = result.map_err(|e| {
            advise_if_too_long(
                e,
                "shorten the prompt, give a larger --ctx, or let --context-shift discard its middle",
            )
        })?;
        let figures = Figures::of(&outcome);
        if self.json.json {
            let mut document = json!({ "text": text, "reasoning": reasoning, "tokens": tokens });
            let more = [
                serde_json::to_value(figures)?,
                json!({
                    "finish_reason": outcome.reason.as_str(),
                    "backend": model.backend(),
                    "backend_info": model.info(),
                    "model": model.name(),
                    "load_ms": model.load_time().as_secs_f64() * 1e3,
                    "seed": outcome.seed,
                    "draft_model": model.engine().draft_info(),
                }),
            ];
            for object in more {
                document
                    .as_object_mut()
                    .context("an object")?
                    .extend(object.as_object().cloned().unwrap_or_default());
            }
            output::json(&document)?;
        } else {
            if !text.ends_with('\n') {
                output::print("\n")?;
            }
            if !context.quiet {
                let info = model.info();
                let isa = if info.isa.is_empty() { String::new() } else { format!(" {}", info.isa) };
                note!("{} · {}{isa}, {} threads", figures.line(), info.name, info.threads);
            }
        }
        match outcome.reason {
            FinishReason::Cancelled => Err(Interrupted.into()),
            FinishReason::ContextFull => {
                let limit = model.limits().context;
                tracing::warn!(
                    "the context of {limit} tokens is full, so the answer was cut off; --ctx makes the context larger, --context-shift continues in it"
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The prompt from the command line or standard input.
fn prompt_text(argument: Option<String>) -> anyhow::Result<String> {
    if let Some(text) = argument.filter(|t| t != "-") {
        return Ok(text);
    }
    if std::io::stdin().is_terminal() {
        return Err(Usage("no prompt: give one as an argument or on standard input".to_owned()).into());
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("standard input")?;
    let text = String::from_utf8(bytes).context("the prompt on standard input: expected UTF-8")?;
    // A pipe's last newline is not part of the prompt.
    Ok(text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t)).to_owned())
}
