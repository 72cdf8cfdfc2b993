//! `zonda chat`: a conversation on the terminal.

use super::generate::{Figures, Session, Shown, advise_if_too_long, request, show_reasoning};
use crate::args::{
    BackendArgs, ModelArg, ReasoningArgs, SamplingArgs, ShiftArgs, SpeculateArgs, token_limit,
};
use crate::console::note;
use crate::context::Context;
use crate::error::Advice as _;
use crate::output;
use anyhow::Context as _;
use clap::Args;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use zonda::{FinishReason, Message, Prompt, Store};

const HELP: &str = "\
/reset        forget the conversation (the system message stays)
/save FILE    write the conversation to a file
/load FILE    continue a saved conversation
/stats        statistics of the last answer
/help         show this list
/exit         end the chat; so does Ctrl-D
Ctrl-C stops an answer. A line that ends in \\ continues in the next one.
";

/// Chat with a model on the terminal
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  zonda chat -m smollm2-135m --system 'You are brief.'\n\n\
    Ctrl-C stops an answer, Ctrl-D ends the chat. /help lists the commands.")]
pub struct Chat {
    #[command(flatten)]
    model: ModelArg,
    /// System message.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Maximum tokens of an answer; -1: no limit [default: until the model ends or the context is full].
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true, value_parser = token_limit)]
    max_tokens: Option<usize>,
    /// Keep the prompt's KV cache in this file, and reuse the file's: a prefix that both prompts share is not computed again.
    #[arg(long, value_name = "FILE")]
    prompt_cache: Option<PathBuf>,
    #[command(flatten)]
    reasoning: ReasoningArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    backend: BackendArgs,
    #[command(flatten)]
    shift: ShiftArgs,
    #[command(flatten)]
    speculate: SpeculateArgs,
}

/// The file of `/save` and `/load`: messages in the form of OpenAI's API.
#[derive(Serialize, Deserialize)]
struct Saved {
    model: String,
    messages: Vec<Message>,
}

/// A conversation in progress.
struct Conversation {
    session: Session,
    chat: Chat,
    messages: Vec<Message>,
    last: Option<(Figures, &'static str)>,
}

/// A line of input.
#[derive(Debug, PartialEq, Eq)]
enum Input<'a> {
    Nothing,
    Say(&'a str),
    Reset,
    Save(&'a Path),
    Load(&'a Path),
    Stats,
    Help,
    Exit,
    Wrong(String),
}

impl Chat {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let seed = self.sampling.seed;
        let (backend, open, prompts) =
            (self.backend.backend, self.backend.open.options(seed), self.prompt_cache.as_deref());
        let session = Session::start(context, &self.model, backend, open, &self.speculate, prompts)?;
        session.check_text(true)?;
        if !context.quiet {
            let info = session.model.info();
            let (model, limit) = (session.model.name(), session.model.limits().context);
            let isa = if info.isa.is_empty() { String::new() } else { format!(" ({})", info.isa) };
            note!("{model} on {}{isa}, context of {limit} tokens; /help lists the commands", info.name);
        }
        let mut conversation = Conversation { session, messages: Vec::new(), last: None, chat: self };
        conversation.reset();

        let mut editor = DefaultEditor::new().context("the terminal")?;
        let history = history(&context.store()?);
        let _ = editor.load_history(&history); // there is none the first time
        while let Some(line) = read(&mut editor)? {
            let _ = editor.add_history_entry(line.as_str());
            match conversation.take(&line) {
                Ok(true) => {}
                Ok(false) => break,
                // A failed answer or file does not end the conversation.
                Err(error) if error.is::<crate::error::OutputClosed>() => return Err(error),
                Err(error) => drop(crate::error::report(&error)),
            }
        }
        if let Some(folder) = history.parent() {
            let saved = std::fs::create_dir_all(folder)
                .map_err(Into::into)
                .and_then(|()| editor.save_history(&history));
            saved.unwrap_or_else(|e| tracing::warn!("the history was not saved: {e}"));
        }
        Ok(())
    }
}

/// Reads one input, over several lines if they end in `\`. `None`: the end. Ctrl-C at the prompt discards the line.
fn read(editor: &mut DefaultEditor) -> anyhow::Result<Option<String>> {
    let mut text = String::new();
    loop {
        let prompt = if text.is_empty() { "> " } else { ". " };
        match editor.readline(prompt) {
            Ok(line) => match line.strip_suffix('\\') {
                Some(part) => text = text + part + "\n",
                None => return Ok(Some(text + &line)),
            },
            Err(ReadlineError::Interrupted) => text.clear(),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(anyhow::Error::new(error).context("reading a line")),
        }
    }
}

fn parse(line: &str) -> Input<'_> {
    let line = line.trim();
    let (command, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim();
    let file = |input: fn(&Path) -> Input<'_>| {
        if argument.is_empty() {
            Input::Wrong(format!("{command} needs a file name"))
        } else {
            input(Path::new(argument))
        }
    };
    match command {
        "" => Input::Nothing,
        "/reset" => Input::Reset,
        "/save" => file(|path| Input::Save(path)),
        "/load" => file(|path| Input::Load(path)),
        "/stats" => Input::Stats,
        "/help" | "/?" => Input::Help,
        "/exit" | "/quit" | "/bye" => Input::Exit,
        _ if command.starts_with('/') && command[1..].chars().all(|c| c.is_ascii_alphabetic()) => {
            Input::Wrong(format!("{command} is not a command; /help lists the commands"))
        }
        _ => Input::Say(line),
    }
}

impl Conversation {
    /// Executes a line; `false`: the end.
    fn take(&mut self, line: &str) -> anyhow::Result<bool> {
        match parse(line) {
            Input::Nothing => {}
            Input::Say(text) => self.answer(text)?,
            Input::Reset => self.reset(),
            Input::Save(path) => self.save(path)?,
            Input::Load(path) => self.load(path)?,
            Input::Stats => match &self.last {
                Some((figures, reason)) => note!("{} · finish reason: {reason}", figures.line()),
                None => note!("no answer yet"),
            },
            Input::Help => crate::console::write(HELP),
            Input::Wrong(message) => note!("{message}"),
            Input::Exit => return Ok(false),
        }
        Ok(true)
    }

    fn reset(&mut self) {
        self.messages = self.chat.system.iter().map(|s| Message::system(s.as_str())).collect();
        self.last = None;
    }

    fn answer(&mut self, text: &str) -> anyhow::Result<()> {
        self.messages.push(Message::user(text));
        let mut request = request(Prompt::chat(self.messages.clone()), self.chat.max_tokens, self.chat.shift);
        request.sampling = self.chat.sampling.params(self.session.model.engine().sampling());
        let (mut answer, mut reasoning) = (String::new(), String::new());
        let result = self.session.generate(request, self.chat.reasoning.separate(), |piece| match piece {
            Shown::Answer(piece) => {
                if answer.is_empty() && !reasoning.is_empty() {
                    show_reasoning("\n\n");
                }
                answer.push_str(piece);
                output::data(piece)
            }
            Shown::Reasoning(piece) => {
                reasoning.push_str(piece);
                show_reasoning(piece);
                Ok(())
            }
        });
        let outcome = match result {
            Ok((_, outcome)) => outcome,
            Err(error) => {
                self.messages.pop();
                return Err(advise_if_too_long(
                    error,
                    "/reset starts over; `zonda chat` with a larger --ctx holds more, and with --context-shift it discards the middle",
                ));
            }
        };
        output::print("\n")?;
        // A stopped answer stays in the conversation, unless it is empty.
        if answer.is_empty() {
            self.messages.pop();
        } else {
            let mut message = Message::assistant(answer);
            if !reasoning.is_empty() {
                message.extra.insert("reasoning_content".to_owned(), reasoning.into());
            }
            self.messages.push(message);
        }
        match outcome.reason {
            FinishReason::Cancelled => note!("(stopped)"),
            FinishReason::ContextFull => note!(
                "(the context of {} tokens is full, so the answer was cut off; /reset starts over, --ctx makes the context larger, \
                 --context-shift continues in it)",
                self.session.model.limits().context
            ),
            _ => {}
        }
        self.last = Some((Figures::of(&outcome), outcome.reason.as_str()));
        Ok(())
    }

    fn save(&self, path: &Path) -> anyhow::Result<()> {
        let saved = Saved { model: self.session.model.name().to_owned(), messages: self.messages.clone() };
        let text = serde_json::to_string_pretty(&saved)? + "\n";
        zonda_engine::files::write(path, text.as_bytes()).with_context(|| path.display().to_string())?;
        note!("{} messages saved to {}", self.messages.len(), path.display());
        Ok(())
    }

    fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let saved: Saved = serde_json::from_str(&text).with_context(|| path.display().to_string()).advise(
            "expected a file that /save wrote: {\"model\": …, \"messages\": [{\"role\", \"content\"}, …]}",
        )?;
        self.messages = saved.messages;
        self.last = None;
        note!("{} messages loaded from {}", self.messages.len(), path.display());
        Ok(())
    }
}

/// The file with the history of typed lines.
fn history(store: &Store) -> PathBuf {
    store.home().join("chat_history.txt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(parse("  "), Input::Nothing);
        assert_eq!(parse(" hello there "), Input::Say("hello there"));
        assert_eq!(parse("/save  a b.json "), Input::Save(Path::new("a b.json")));
        assert_eq!(parse("/load x"), Input::Load(Path::new("x")));
        assert_eq!(parse("/exit"), Input::Exit);
        assert_eq!(parse("/usr/bin/env is a path"), Input::Say("/usr/bin/env is a path"));
        assert!(matches!(parse("/save"), Input::Wrong(_)));
        assert!(matches!(parse("/sav x"), Input::Wrong(_)));
    }
}
