//! [`ChatTemplate`]: a conversation rendered as the prompt text that its model was trained on.

use super::builtin;
use super::error::TemplateError;
use super::program::Program;
use super::{functions, guards, mistral};
use crate::tokenize::Tokenizer;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`; templates may know others.
    pub role: String,
    /// The text; empty where there is none (`null` in JSON), as in messages that only call tools.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub content: String,
    /// Other fields that templates read: `tool_calls`, `tool_call_id`, `name`, `reasoning_content`.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message of text alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into(), extra: serde_json::Map::new() }
    }

    /// An instruction to the model.
    pub fn system(content: impl Into<String>) -> Message {
        Message::new("system", content)
    }

    /// A message of the user.
    pub fn user(content: impl Into<String>) -> Message {
        Message::new("user", content)
    }

    /// A message of the model.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new("assistant", content)
    }

    /// The result of a tool call that the model made.
    pub fn tool(call_id: impl Into<String>, content: impl Into<String>) -> Message {
        let mut message = Message::new("tool", content);
        message.extra.insert("tool_call_id".to_owned(), call_id.into().into());
        message
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.unwrap_or_default())
}

/// A template's inputs besides the messages.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// End the prompt where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// Functions the model may call, in the form of OpenAI's API.
    pub tools: Vec<serde_json::Value>,
    /// Documents for retrieval-augmented templates.
    pub documents: Vec<serde_json::Value>,
    /// Further variables, such as `enable_thinking`.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// Whether names of control tokens in messages, tools and documents become these tokens. If off, they are text, so
    /// that the author of a message can't end it or write one in another role.
    pub parse_special: bool,
}

impl Default for RenderOptions {
    fn default() -> RenderOptions {
        RenderOptions {
            add_generation_prompt: true,
            tools: Vec::new(),
            documents: Vec::new(),
            extra: serde_json::Map::new(),
            parse_special: false,
        }
    }
}

/// A model's chat template, ready to render. Share it in an `Arc`.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    program: Program,
    /// The program for requests with tools, if the model has a separate one.
    tool_use: Option<Program>,
    source: String,
    bos: String,
    eos: String,
    /// Variables that render options may replace.
    defaults: serde_json::Map<String, serde_json::Value>,
}

pub(super) const DEFAULT: &str = "chat_template";
pub(super) const TOOL_USE: &str = "tool_use";

impl ChatTemplate {
    /// A template from its source; `tokenizer` provides `bos_token` and `eos_token`.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, TemplateError> {
        ChatTemplate::named(&[(DEFAULT, source)], tokenizer)
    }

    /// From `(name, source)` pairs, which must include `DEFAULT` and may include `TOOL_USE`.
    pub(super) fn named(
        sources: &[(&str, &str)],
        tokenizer: &Tokenizer,
    ) -> Result<ChatTemplate, TemplateError> {
        ChatTemplate::compiled(sources, tokenizer, Program::compile)
    }

    /// A template that Zonda knows, by name; see [`BUILTIN_TEMPLATES`](super::BUILTIN_TEMPLATES).
    pub fn builtin(name: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, TemplateError> {
        let source = builtin::source(name).ok_or_else(|| TemplateError::Unknown { name: name.to_owned() })?;
        ChatTemplate::compiled(&[(DEFAULT, &source)], tokenizer, Program::compile_here)
    }

    /// Sets a variable for conversations whose options do not.
    pub(super) fn with_default(mut self, name: &str, value: serde_json::Value) -> ChatTemplate {
        self.defaults.insert(name.to_owned(), value);
        self
    }

    /// The mock backend's template.
    pub fn mock() -> ChatTemplate {
        ChatTemplate::builtin("chatml", &Tokenizer::mock()).expect("the built-in template parses")
    }

    fn compiled(
        sources: &[(&str, &str)],
        tokenizer: &Tokenizer,
        program: fn(&'static str, String) -> Result<Program, TemplateError>,
    ) -> Result<ChatTemplate, TemplateError> {
        let compile = |name: &'static str| {
            let source = sources.iter().find(|(found, _)| *found == name);
            source.map(|(_, source)| program(name, functions::prepare(source))).transpose()
        };
        let mut environment = functions::environment();
        mistral::install(&mut environment);
        let token = |id: Option<crate::TokenId>| id.map(|id| tokenizer.piece(id)).unwrap_or_default();
        Ok(ChatTemplate {
            environment,
            program: compile(DEFAULT)?.ok_or(TemplateError::Missing)?,
            tool_use: compile(TOOL_USE)?,
            source: sources.iter().find(|(name, _)| *name == DEFAULT).map_or("", |(_, s)| s).to_owned(),
            bos: token(tokenizer.bos()),
            eos: token(tokenizer.eos()),
            defaults: serde_json::Map::new(),
        })
    }

    /// Whether its prompts contain the model's settings, of which `json_schema` may be one (Mistral's v15).
    pub fn has_settings(&self) -> bool {
        self.defaults.contains_key("model_settings")
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt text of a conversation. Encode it with [`Tokenizer::encode_prompt`], without a BOS: the template writes one if
    /// the model wants it.
    ///
    /// # Errors
    /// If the template fails on this conversation, refuses it, or exceeds its limits of time and memory.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, TemplateError> {
        self.render_unless(messages, options, &|| false)
    }

    /// As [`ChatTemplate::render`]. `abandoned` is checked every few milliseconds; once it returns true, the result is
    /// an error.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_unless(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        abandoned: &dyn Fn() -> bool,
    ) -> Result<String, TemplateError> {
        self.render_within(messages, options, abandoned, guards::TIME)
    }

    /// As [`ChatTemplate::render_unless`], in at most this time.
    pub(super) fn render_within(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        abandoned: &dyn Fn() -> bool,
        time: Duration,
    ) -> Result<String, TemplateError> {
        let tool_use = self.tool_use.as_ref().filter(|_| !options.tools.is_empty());
        let program = tool_use.unwrap_or(&self.program);
        // `none` and not an empty list: templates ask `if tools is not none`.
        let list = |items: &[serde_json::Value]| match items {
            [] => Value::from(()),
            items => Value::from(Serde(items)),
        };
        let given = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => options.add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => list(&options.tools),
            documents => list(&options.documents),
        };
        let (extra, defaults) = (Serde(&options.extra), Serde(&self.defaults));
        let variables = context! { ..given, ..Value::from(extra), ..Value::from(defaults) };
        program.run(&self.environment, variables, abandoned, time)
    }
}
