//! Reads Hugging Face's `tokenizer.json`.

use super::bpe::ByteAlphabet;
use super::error::TokenizeError;
use super::hf_check;
use super::hf_encode::{Hf, guarded};
use super::settings::Settings;
use super::spm::{SPACE, byte_token};
use super::tokenizer::{Algorithm, SpacePrefix};
use super::vocab::{Kind, VocabBuilder};
use serde_json::Value;

/// How a file's tokens represent bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// GPT-2's byte alphabet.
    ByteLevel,
    /// Text with `▁` for spaces, and `<0xE2>`.
    SentencePiece,
}

/// Reads a `tokenizer.json`.
pub(super) fn read(bytes: &[u8], settings: &Settings) -> Result<(VocabBuilder, Algorithm), TokenizeError> {
    let invalid = |e: String| TokenizeError::invalid("tokenizer.json", "a Hugging Face tokenizer", e);
    let json: Value = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
    let growth = hf_check::check(&json)?;
    // Serialised again, so that the crate reads exactly what was checked: a repeated field could hide another value.
    let checked = serde_json::to_vec(&json).map_err(|e| invalid(e.to_string()))?;
    let mut tokenizer = guarded(|| {
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(checked)?;
        // Settings from training, which would truncate or pad prompts.
        tokenizer.with_truncation(None)?;
        tokenizer.with_padding(None);
        Ok(tokenizer)
    })?;
    let spelling = spelling(&json)?;

    let mut tokens = Vec::new();
    let entries = tokenizer.get_vocab(true);
    let limit = entries.len().saturating_mul(4).saturating_add(1 << 16);
    let alphabet = ByteAlphabet::new();
    let unknown = json["model"]["unk_token"].as_str();
    for (text, id) in entries {
        let slot = id as usize;
        if slot >= limit {
            let what = format!("id of token {text:?}");
            return Err(TokenizeError::invalid(what, format!("an id below {limit}"), id.to_string()));
        }
        if slot >= tokens.len() {
            // Ids without a token.
            tokens.resize(slot + 1, (Vec::new(), Kind::Unused));
        }
        let bytes = match spelling {
            Spelling::ByteLevel => alphabet.bytes(&text).unwrap_or_else(|| text.as_bytes().to_vec()),
            Spelling::SentencePiece => match byte_token(&text) {
                Some(byte) => {
                    tokens[slot] = (vec![byte], Kind::Byte);
                    continue;
                }
                None => text.replace(SPACE, " ").into_bytes(),
            },
        };
        let kind = if unknown == Some(text.as_str()) { Kind::Unknown } else { Kind::Normal };
        tokens[slot] = (bytes, kind);
    }
    for (id, token) in tokenizer.get_added_tokens_decoder() {
        if let Some(slot) = tokens.get_mut(id as usize) {
            let kind = if token.special { Kind::Control } else { Kind::UserDefined };
            *slot = (token.content.into_bytes(), kind);
        }
    }

    // The tokens that the file itself puts before a text.
    let template = guarded(|| tokenizer.encode_fast("a", true))?;
    // The post-processor has no other task.
    tokenizer.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
    let find = |name: Option<&str>| name.and_then(|name| tokenizer.token_to_id(name));
    let bos = find(settings.bos.as_deref());
    let puts_bos = template.get_ids().first().filter(|_| template.get_ids().len() > 1).copied();
    let first_is_special = puts_bos.filter(|&id| matches!(tokens.get(id as usize), Some((_, Kind::Control))));
    let builder = VocabBuilder {
        bos: bos.or(first_is_special),
        eos: find(settings.eos.as_deref()),
        tokens,
        adds_bos: first_is_special.is_some() && (bos.is_none() || bos == first_is_special),
        eats_space: Default::default(),
        end_tokens: Vec::new(),
        user_defined_apart: true,
    };
    Ok((builder, Algorithm::Hf(Box::new(Hf::new(tokenizer, growth)), space_prefix(&json))))
}

/// All objects of a (possibly nested) component, with their `type`.
fn components<'a>(component: &'a Value, found: &mut Vec<(&'a str, &'a Value)>) {
    if let Some(name) = component["type"].as_str() {
        found.push((name, component));
    }
    for key in ["decoders", "normalizers", "pretokenizers"] {
        for part in component[key].as_array().into_iter().flatten() {
            components(part, found);
        }
    }
}

fn spelling(json: &Value) -> Result<Spelling, TokenizeError> {
    let mut decoders = Vec::new();
    components(&json["decoder"], &mut decoders);
    let has = |name: &str| decoders.iter().any(|(found, _)| *found == name);
    if has("ByteLevel") {
        Ok(Spelling::ByteLevel)
    } else if has("ByteFallback") || has("Metaspace") {
        Ok(Spelling::SentencePiece)
    } else {
        let names: Vec<_> = decoders.iter().map(|(name, _)| *name).collect();
        Err(TokenizeError::Unsupported {
            what: "decoder",
            found: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
            known: "ByteLevel, ByteFallback, Metaspace".to_owned(),
        })
    }
}

fn space_prefix(json: &Value) -> SpacePrefix {
    let mut parts = Vec::new();
    components(&json["normalizer"], &mut parts);
    components(&json["pre_tokenizer"], &mut parts);
    for (name, part) in parts {
        let spaced = match (name, part["prepend_scheme"].as_str()) {
            ("Prepend", _) if part["prepend"] == SPACE => SpacePrefix::EveryFragment,
            ("Metaspace", Some("first")) => SpacePrefix::Start,
            ("Metaspace", Some("never")) => SpacePrefix::Never,
            ("Metaspace", _) if part["add_prefix_space"] == false => SpacePrefix::Never,
            ("Metaspace", _) => SpacePrefix::EveryFragment,
            ("ByteLevel", _) if part["add_prefix_space"] == true => SpacePrefix::EveryFragment,
            _ => continue,
        };
        return spaced;
    }
    SpacePrefix::Never
}
