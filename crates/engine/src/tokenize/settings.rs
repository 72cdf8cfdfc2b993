//! [`Settings`]: the special tokens set in the JSON files beside a tokenizer.

use super::error::TokenizeError;
use super::read::json;
use super::vocab::{Kind, VocabBuilder};
use crate::TokenId;
use serde_json::Value;
use std::path::Path;

/// The settings in the files beside a tokenizer: `tokenizer_config.json`, `special_tokens_map.json`,
/// `generation_config.json`, `config.json`. Any of them may be missing.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub bos: Option<String>,
    pub eos: Option<String>,
    adds_bos: Option<bool>,
    /// Ids that end a generation.
    end_tokens: Vec<u64>,
    bos_id: Option<u64>,
    /// Added tokens: id, text, and whether they are special.
    added: Vec<(usize, String, bool)>,
}

impl Settings {
    /// Reads the files that exist in the folder.
    pub fn read(folder: &Path) -> Result<Settings, TokenizeError> {
        let config = json(&folder.join("tokenizer_config.json"))?;
        let map = json(&folder.join("special_tokens_map.json"))?;
        let generation = json(&folder.join("generation_config.json"))?;
        let model = json(&folder.join("config.json"))?;
        // A token is either its text or an object that contains it.
        let text = |value: &Value| value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned);
        let named = |key: &str| text(&config[key]).or_else(|| text(&map[key]));
        // A single id or a list of ids.
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
        Ok(Settings {
            bos: named("bos_token"),
            eos: named("eos_token"),
            adds_bos: config["add_bos_token"].as_bool(),
            bos_id: ids(&generation["bos_token_id"]).first().copied(),
            end_tokens,
            added: added.collect(),
        })
    }

    /// Applies the settings to a vocabulary.
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
        // If a vocabulary was reduced, its configuration may contain ids that no longer exist.
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
