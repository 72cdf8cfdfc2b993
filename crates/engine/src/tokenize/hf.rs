//! Hugging Face's `tokenizer.json`, encoded by the crate `tokenizers`, and the small files that lie beside it.

use super::bpe::ByteAlphabet;
use super::spm::{SPACE, byte_token};
use super::vocab::{Kind, VocabBuilder};
use super::{Algorithm, Encode, TokenizeError, files};
use crate::TokenId;
use serde_json::Value;
use std::path::Path;
use std::sync::OnceLock;

/// An encoder for `tokenizer.json`.
pub(crate) struct Hf {
    /// Finds special tokens in the text.
    parsing: Box<tokenizers::Tokenizer>,
    /// The same, taking special tokens for text; made when first needed.
    plain: OnceLock<Box<tokenizers::Tokenizer>>,
    pub space_prefix: SpacePrefix,
}

/// Where a text gets a space in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpacePrefix {
    Never,
    /// At the start of a text only.
    Start,
    /// After each special token, too.
    EveryFragment,
}

impl Hf {
    /// Appends the ids of `text`.
    pub fn encode(&self, text: &str, options: Encode, ids: &mut Vec<TokenId>) -> Result<(), TokenizeError> {
        let tokenizer = if options.parse_special {
            &self.parsing
        } else {
            self.plain.get_or_init(|| {
                let mut plain = self.parsing.clone();
                plain.set_encode_special_tokens(true);
                plain
            })
        };
        let encoding = tokenizer.encode_fast(text, false).map_err(failed)?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

fn failed(error: tokenizers::Error) -> TokenizeError {
    TokenizeError::Tokenizers(error.to_string())
}

/// How the tokens of a file spell bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// GPT-2's byte alphabet.
    ByteLevel,
    /// Text with `▁` for spaces, and `<0xE2>`.
    SentencePiece,
}

/// Reads a `tokenizer.json`.
pub(super) fn read(bytes: &[u8], extras: &Extras) -> Result<(VocabBuilder, Algorithm), TokenizeError> {
    let invalid = |e: String| TokenizeError::invalid("tokenizer.json", "a Hugging Face tokenizer", e);
    let json: Value = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| invalid(e.to_string()))?;
    // Settings of a training run that would cut or fill prompts.
    tokenizer.with_truncation(None).map_err(failed)?;
    tokenizer.with_padding(None);
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
            // Ids that no token has.
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

    let find = |name: Option<&str>| name.and_then(|name| tokenizer.token_to_id(name));
    let bos = find(extras.bos.as_deref());
    // What the file itself puts in front of a text.
    let template = tokenizer.encode_fast("a", true).map_err(failed)?;
    let puts_bos = template.get_ids().first().filter(|_| template.get_ids().len() > 1).copied();
    let first_is_special = puts_bos.filter(|&id| matches!(tokens.get(id as usize), Some((_, Kind::Control))));
    let builder = VocabBuilder {
        bos: bos.or(first_is_special),
        eos: find(extras.eos.as_deref()),
        tokens,
        adds_bos: first_is_special.is_some() && (bos.is_none() || bos == first_is_special),
        end_tokens: Vec::new(),
        user_defined_apart: true,
    };
    let space_prefix = space_prefix(&json);
    let hf = Hf { parsing: Box::new(tokenizer), plain: OnceLock::new(), space_prefix };
    Ok((builder, Algorithm::Hf(Box::new(hf))))
}

/// All objects of a (possibly nested) component, by their `type`.
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

/// What the files beside a tokenizer say: `tokenizer_config.json`, `special_tokens_map.json`,
/// `generation_config.json`, `config.json`. All may be absent.
#[derive(Debug, Default)]
pub(super) struct Extras {
    bos: Option<String>,
    eos: Option<String>,
    adds_bos: Option<bool>,
    /// Ids that end a generation.
    end_tokens: Vec<u64>,
    bos_id: Option<u64>,
    /// Tokens by id, with whether they are special.
    added: Vec<(usize, String, bool)>,
}

impl Extras {
    /// Reads the files that are in the folder.
    pub fn read(folder: &Path) -> Result<Extras, TokenizeError> {
        let config = json(&folder.join("tokenizer_config.json"))?;
        let map = json(&folder.join("special_tokens_map.json"))?;
        let generation = json(&folder.join("generation_config.json"))?;
        let model = json(&folder.join("config.json"))?;
        // A token is its text, or an object that holds it.
        let text = |value: &Value| value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned);
        let named = |key: &str| text(&config[key]).or_else(|| text(&map[key]));
        // One id or a list of them.
        let ids = |value: &Value| -> Vec<u64> {
            value
                .as_array()
                .map_or(std::slice::from_ref(value), Vec::as_slice)
                .iter()
                .filter_map(Value::as_u64)
                .collect()
        };
        let mut end_tokens = ids(&generation["eos_token_id"]);
        if end_tokens.is_empty() {
            end_tokens = ids(&model["eos_token_id"]);
        }
        let added = config["added_tokens_decoder"].as_object().into_iter().flatten();
        let added = added.filter_map(|(id, token)| {
            Some((id.parse().ok()?, token["content"].as_str()?.to_owned(), token["special"] == true))
        });
        Ok(Extras {
            bos: named("bos_token"),
            eos: named("eos_token"),
            adds_bos: config["add_bos_token"].as_bool(),
            bos_id: ids(&generation["bos_token_id"]).first().copied(),
            end_tokens,
            added: added.collect(),
        })
    }

    /// Completes a vocabulary with what the files say.
    pub fn apply(&self, builder: &mut VocabBuilder) -> Result<(), TokenizeError> {
        let mut added: Vec<_> = self.added.iter().collect();
        added.sort();
        for (id, text, special) in added {
            let kind = if *special { Kind::Control } else { Kind::UserDefined };
            let count = builder.tokens.len();
            match builder.tokens.get_mut(*id) {
                Some((_, found @ (Kind::Normal | Kind::Unused | Kind::UserDefined))) if *special => {
                    *found = kind
                }
                Some(_) => {}
                None if *id == count => builder.tokens.push((text.as_bytes().to_vec(), kind)),
                None => {
                    let what = format!("added token {text:?} of tokenizer_config.json");
                    let expected = format!("the next id, {count}");
                    return Err(TokenizeError::invalid(what, expected, id.to_string()));
                }
            }
        }
        let find = |name: &Option<String>| {
            let bytes = name.as_ref()?.as_bytes();
            builder.tokens.iter().position(|(token, _)| token == bytes).map(|id| id as TokenId)
        };
        let (bos, eos) = (find(&self.bos), find(&self.eos));
        builder.bos = bos.or(builder.bos);
        builder.eos = eos.or(builder.eos);
        let count = builder.tokens.len() as u64;
        // Configurations of models whose vocabulary was cut may name ids that are gone; they can't occur.
        builder.end_tokens.extend(self.end_tokens.iter().filter(|&&id| id < count).map(|&id| id as TokenId));
        if builder.eos.is_none() {
            builder.eos = builder.end_tokens.first().copied();
        }
        if builder.bos.is_none() {
            builder.bos = self.bos_id.filter(|&id| id < count).map(|id| id as TokenId);
        }
        builder.adds_bos = self.adds_bos.unwrap_or(builder.adds_bos);
        Ok(())
    }
}

/// A JSON file's content; null if it is absent.
pub(super) fn json(path: &Path) -> Result<Value, TokenizeError> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&files::read(path)?)
        .map_err(|e| TokenizeError::File { path: path.to_owned(), reason: format!("not valid JSON: {e}") })
}
