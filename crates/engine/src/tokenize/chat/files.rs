//! Finds the chat template of a model.

use super::builtin;
use super::error::TemplateError;
use super::template::{ChatTemplate, DEFAULT, TOOL_USE};
use crate::load::{Format, Metadata, Model};
use crate::tokenize::{TokenizeError, Tokenizer, files, read, tekken};
use serde_json::Value;
use std::path::Path;

impl ChatTemplate {
    /// The template in a GGUF file's metadata (`tokenizer.chat_template`); `None` if there is none.
    pub fn from_gguf(
        metadata: &Metadata,
        tokenizer: &Tokenizer,
    ) -> Result<Option<ChatTemplate>, TemplateError> {
        let Some(source) = metadata.str("tokenizer.chat_template") else { return Ok(None) };
        let mut sources = vec![(DEFAULT, source)];
        let tool_use = metadata.str("tokenizer.chat_template.tool_use");
        sources.extend(tool_use.map(|source| (TOOL_USE, source)));
        ChatTemplate::named(&sources, tokenizer).map(Some)
    }

    /// An opened model's template; `None` if it has none, which is [`TemplateError::Missing`] when a template is needed.
    pub fn for_model(model: &Model, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, TemplateError> {
        match (model.format, model.folder()) {
            (Format::Gguf, _) => ChatTemplate::from_gguf(&model.metadata, tokenizer),
            (_, Some(folder)) => ChatTemplate::from_folder(folder, tokenizer),
            (_, None) => Ok(None),
        }
    }

    /// The template in a model's folder: `chat_template.jinja`, `chat_template.json` or in `tokenizer_config.json`;
    /// for Mistral's own tokenizer files, which have no template, the one for their version. A plain `tokenizer.model`
    /// without Mistral's control tokens shows no version. `None` if there is none.
    pub fn from_folder(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, TemplateError> {
        in_folder(folder, tokenizer)
    }
}

/// The template of a folder: `chat_template.jinja`, `chat_template.json`, or `tokenizer_config.json`; else the
/// built-in one for Mistral's own tokenizer files.
fn in_folder(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, TemplateError> {
    let mut sources = sources(folder)?;
    if let Some(tool_use) = text(&folder.join("additional_chat_templates").join("tool_use.jinja"))? {
        sources.push((TOOL_USE.to_owned(), tool_use));
    }
    let known: Vec<_> = sources
        .iter()
        .filter_map(|(name, source)| {
            let name = if name == "default" { DEFAULT } else { name.as_str() };
            [DEFAULT, TOOL_USE].contains(&name).then_some((name, source.as_str()))
        })
        .collect();
    if known.iter().any(|(name, _)| *name == DEFAULT) {
        return ChatTemplate::named(&known, tokenizer).map(Some);
    }
    mistral(folder, tokenizer)
}

fn sources(folder: &Path) -> Result<Vec<(String, String)>, TemplateError> {
    if let Some(source) = text(&folder.join("chat_template.jinja"))? {
        return Ok(vec![(DEFAULT.to_owned(), source)]);
    }
    for file in ["chat_template.json", "tokenizer_config.json"] {
        let path = folder.join(file);
        let sources = match &read::json(&path).map_err(read_error)?["chat_template"] {
            Value::Null => continue,
            Value::String(source) => vec![(DEFAULT.to_owned(), source.clone())],
            // Several, by name.
            Value::Array(list) => {
                let named = list.iter().filter_map(|item| {
                    Some((item["name"].as_str()?.to_owned(), item["template"].as_str()?.to_owned()))
                });
                named.collect()
            }
            _ => {
                let reason = "chat_template: expected text or a list of named templates".to_owned();
                return Err(TemplateError::File { path, reason });
            }
        };
        return Ok(sources);
    }
    Ok(Vec::new())
}

/// The built-in template for one of Mistral's own tokenizer files: tekken files name a version, the others show it
/// by their name or by the control tokens they have.
fn mistral(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, TemplateError> {
    let tekken = folder.join("tekken.json");
    let found = if tekken.is_file() { Some(tekken) } else { files::find(folder) };
    let Some(path) = found else { return Ok(None) };
    let bytes = read::read(&path).map_err(read_error)?;
    let (name, settings) = match files::kind(&bytes) {
        files::FileKind::Hf => (None, None),
        files::FileKind::Tekken => {
            let head = tekken::head(&bytes);
            let version = head.as_ref().map_or("", |head| head.version());
            let name = builtin::of_mistral(version);
            (name, head.and_then(|head| head.model_settings_builder))
        }
        files::FileKind::SentencePiece => {
            let version = path.extension().and_then(|e| e.to_str()).filter(|e| *e == "v1");
            (version.and_then(builtin::of_mistral).or_else(|| by_control_tokens(tokenizer)), None)
        }
    };
    let template = name.map(|name| ChatTemplate::builtin(name, tokenizer)).transpose()?;
    Ok(template.map(|template| match settings {
        Some(settings) => template.with_default("model_settings", settings),
        None => template,
    }))
}

fn by_control_tokens(tokenizer: &Tokenizer) -> Option<&'static str> {
    let has = |name| tokenizer.token_id(name).is_some_and(|id| tokenizer.is_special(id));
    [("[SYSTEM_PROMPT]", "mistral-v7"), ("[PREFIX]", "mistral-v3"), ("[INST]", "mistral-v2")]
        .into_iter()
        .find_map(|(token, template)| has(token).then_some(template))
}

fn text(path: &Path) -> Result<Option<String>, TemplateError> {
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = read::read(path).map_err(read_error)?;
    let reason =
        |_| TemplateError::File { path: path.to_owned(), reason: "the template is not UTF-8".to_owned() };
    String::from_utf8(bytes).map(Some).map_err(reason)
}

fn read_error(error: TokenizeError) -> TemplateError {
    match error {
        TokenizeError::Io { path, source } => TemplateError::File { path, reason: source.to_string() },
        TokenizeError::File { path, reason } => TemplateError::File { path, reason },
        other => TemplateError::File { path: Path::new("").to_owned(), reason: other.to_string() },
    }
}
