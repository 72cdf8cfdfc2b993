//! From a GGUF file's tokenizer to the files of a Hugging Face folder: `tokenizer.json`, `tokenizer_config.json` with the
//! chat template, `special_tokens_map.json` and `generation_config.json`.

use crate::error::ConvertError;
use crate::hf_config::ids;
use crate::safetensors_writer::write_json;
use serde_json::{Map, Value as Json, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use zonda_engine::TokenId;
use zonda_engine::load::Metadata;
use zonda_engine::tokenize::{eats_space, preset};

/// GGUF's numbers for kinds of tokens.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// Writes the files; returns the id of the token before each text, if there is one, and the ids of end tokens.
///
/// # Errors
/// If there is no tokenizer, a `tokenizer.json` can't express it, or the files can't be written.
pub(crate) fn write(
    metadata: &Metadata,
    folder: &Path,
) -> Result<(Option<TokenId>, Vec<TokenId>), ConvertError> {
    let source = Source::read(metadata)?;
    let id = |key: &str| source.id(metadata, key);
    let (bos, eos) = (id("bos_token_id")?, id("eos_token_id")?);
    let (unknown, padding) = (id("unknown_token_id")?, id("padding_token_id")?);
    let mut ends: Vec<TokenId> = eos.into_iter().collect();
    for key in ["eot_token_id", "eom_token_id"] {
        ends.extend(id(key)?.filter(|id| !ends.contains(id)));
    }
    let by_default = source.is_sentence_piece || preset(source.pre).is_ok_and(|p| p.adds_bos);
    let add_bos = metadata.bool("tokenizer.ggml.add_bos_token").unwrap_or(by_default);
    let add_eos = metadata.bool("tokenizer.ggml.add_eos_token").unwrap_or(false);

    let tokenizer =
        source.tokenizer_json(metadata, unknown, bos.filter(|_| add_bos), eos.filter(|_| add_eos))?;
    write_json(&folder.join("tokenizer.json"), &tokenizer)?;

    let mut special = Map::new();
    for (key, id) in [("bos_token", bos), ("eos_token", eos), ("unk_token", unknown), ("pad_token", padding)]
    {
        if let Some(id) = id {
            special.insert(key.to_owned(), source.tokens[id as usize].as_str().into());
        }
    }
    write_json(&folder.join("special_tokens_map.json"), &Json::Object(special.clone()))?;

    let mut config = special;
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("add_bos_token".into(), add_bos.into());
    config.insert("add_eos_token".into(), add_eos.into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    if let Some(template) = metadata.str("tokenizer.chat_template") {
        config.insert("chat_template".into(), template.into());
    }
    write_json(&folder.join("tokenizer_config.json"), &Json::Object(config))?;

    let mut generation = Map::new();
    generation.insert("_from_model_config".into(), true.into());
    for (key, value) in [
        ("bos_token_id", bos.map(Json::from)),
        ("eos_token_id", ids(&ends)),
        ("pad_token_id", padding.map(Json::from)),
    ] {
        generation.extend(value.map(|value| (key.to_owned(), value)));
    }
    write_json(&folder.join("generation_config.json"), &Json::Object(generation))?;
    Ok((bos, ends))
}

/// The tokenizer in a GGUF file.
struct Source<'a> {
    is_sentence_piece: bool,
    /// The pre-tokenizer's name; for byte-level BPE.
    pre: &'a str,
    tokens: &'a [String],
    kinds: Cow<'a, [i32]>,
}

impl<'a> Source<'a> {
    fn read(metadata: &'a Metadata) -> Result<Source<'a>, ConvertError> {
        let model = metadata.str("tokenizer.ggml.model").unwrap_or("nothing");
        let is_sentence_piece = match model {
            "llama" => true,
            "gpt2" => false,
            other => {
                return Err(ConvertError::tokenizer("tokenizer.ggml.model", "llama or gpt2", other));
            }
        };
        let strings = metadata.strings("tokenizer.ggml.tokens");
        let tokens = strings
            .ok_or_else(|| ConvertError::tokenizer("tokenizer.ggml.tokens", "an array of strings", "none"))?;
        let kinds = metadata.ints("tokenizer.ggml.token_type").unwrap_or_default();
        if !kinds.is_empty() && kinds.len() != tokens.len() {
            let expected = format!("{} numbers, as many as tokens", tokens.len());
            return Err(ConvertError::tokenizer(
                "tokenizer.ggml.token_type",
                expected,
                kinds.len().to_string(),
            ));
        }
        let pre = metadata.str("tokenizer.ggml.pre").unwrap_or("default");
        Ok(Source { is_sentence_piece, pre, tokens, kinds })
    }

    /// A special token's id; GGUF files may use a number beyond the vocabulary for "none".
    fn id(&self, metadata: &Metadata, key: &str) -> Result<Option<TokenId>, ConvertError> {
        let Some(id) = metadata.u64(&format!("tokenizer.ggml.{key}")) else { return Ok(None) };
        match id {
            id if id < self.tokens.len() as u64 => Ok(Some(id as TokenId)),
            id if id == u64::from(u32::MAX) => Ok(None),
            id => Err(ConvertError::tokenizer(
                key,
                format!("an id below {}", self.tokens.len()),
                id.to_string(),
            )),
        }
    }

    fn kind(&self, id: usize) -> i32 {
        self.kinds.get(id).copied().unwrap_or(1)
    }

    fn tokenizer_json(
        &self,
        metadata: &Metadata,
        unknown: Option<TokenId>,
        bos: Option<TokenId>,
        eos: Option<TokenId>,
    ) -> Result<Json, ConvertError> {
        let eats_space = eats_space(metadata);
        let added: Vec<Json> = (0..self.tokens.len())
            .filter(|&id| matches!(self.kind(id), UNKNOWN | CONTROL | USER_DEFINED))
            .map(|id| {
                json!({
                    "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false,
                    "rstrip": eats_space.contains(&(id as TokenId)),
                    "normalized": false, "special": self.kind(id) != USER_DEFINED,
                })
            })
            .collect();
        let vocab: Map<String, Json> =
            self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
        let merges: Vec<Json> = match self.is_sentence_piece {
            true => sentence_piece_merges(self.tokens, self.scores(metadata)?),
            false => self.listed_merges(metadata)?,
        };
        let unknown_text = unknown.map(|id| self.tokens[id as usize].as_str());
        let (ignore_merges, byte_fallback) = match self.is_sentence_piece {
            true => (false, true),
            false => (self.preset()?.whole_words, false),
        };
        let space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        let (normalizer, pre_tokenizer, decoder) = match self.is_sentence_piece {
            true => sentence_piece_steps(space_prefix),
            false => (Json::Null, self.byte_level_steps()?, byte_level()),
        };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": self.post_processor(bos, eos),
            "decoder": decoder,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": unknown_text.filter(|_| self.is_sentence_piece),
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": self.is_sentence_piece,
                "byte_fallback": byte_fallback,
                "ignore_merges": ignore_merges,
                "vocab": vocab,
                "merges": merges,
            },
        }))
    }

    fn preset(&self) -> Result<&'static zonda_engine::tokenize::Preset, ConvertError> {
        preset(self.pre).map_err(|e| {
            ConvertError::tokenizer("tokenizer.ggml.pre", "a known pre-tokenizer", e.to_string())
        })
    }

    /// `[["a", "b"], …]`; a merge is written `a b` in GGUF.
    fn listed_merges(&self, metadata: &Metadata) -> Result<Vec<Json>, ConvertError> {
        let key = "tokenizer.ggml.merges";
        let merges = metadata
            .strings(key)
            .ok_or_else(|| ConvertError::tokenizer(key, "an array of strings", "none"))?;
        merges
            .iter()
            .map(|merge| {
                let parts = merge.split_once(' ').filter(|(a, b)| !a.is_empty() && !b.is_empty());
                let (a, b) = parts.ok_or_else(|| {
                    ConvertError::tokenizer(key, "two parts with a space between", format!("{merge:?}"))
                })?;
                Ok(json!([a, b]))
            })
            .collect()
    }

    fn scores<'m>(&self, metadata: &'m Metadata) -> Result<&'m [f32], ConvertError> {
        let key = "tokenizer.ggml.scores";
        metadata.floats(key).filter(|scores| scores.len() == self.tokens.len()).ok_or_else(|| {
            ConvertError::tokenizer(
                key,
                format!("{} numbers", self.tokens.len()),
                "none or another number of them",
            )
        })
    }

    /// Splits words by the named expressions, then maps them to the byte alphabet.
    fn byte_level_steps(&self) -> Result<Json, ConvertError> {
        let splits = self.preset()?.stages.iter().map(|pattern| {
            json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false })
        });
        Ok(json!({ "type": "Sequence", "pretokenizers": splits.chain([byte_level()]).collect::<Vec<_>>() }))
    }

    /// Adds the tokens for the beginning (and end) of a text that the model expects.
    fn post_processor(&self, bos: Option<TokenId>, eos: Option<TokenId>) -> Json {
        let token = |id: &TokenId, part: u32| json!({ "SpecialToken": { "id": self.tokens[*id as usize], "type_id": part } });
        let sequence = |name: &str, part: u32| {
            let text = json!({ "Sequence": { "id": name, "type_id": part } });
            let bos = bos.iter().map(move |id| token(id, part));
            let eos = eos.iter().map(move |id| token(id, part));
            bos.chain([text]).chain(eos).collect::<Vec<_>>()
        };
        if bos.is_none() && eos.is_none() {
            return json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
        }
        let special: Map<String, Json> = [bos, eos]
            .into_iter()
            .flatten()
            .map(|id| {
                let text = &self.tokens[id as usize];
                (text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] }))
            })
            .collect();
        let pair: Vec<Json> = sequence("A", 0).into_iter().chain(sequence("B", 1)).collect();
        json!({
            "type": "TemplateProcessing", "single": sequence("A", 0), "pair": pair, "special_tokens": special,
        })
    }
}

fn byte_level() -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false })
}

/// Normaliser, pre-tokenizer and decoder of SentencePiece's BPE: spaces become `▁`, one is prepended, and decoding
/// reverses both.
fn sentence_piece_steps(space_prefix: bool) -> (Json, Json, Json) {
    let escape = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let prepend = json!({ "type": "Prepend", "prepend": "▁" });
    let normalizers = if space_prefix { vec![prepend, escape] } else { vec![escape] };
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if space_prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    (
        json!({ "type": "Sequence", "normalizers": normalizers }),
        Json::Null,
        json!({ "type": "Sequence", "decoders": decoders }),
    )
}

/// The merges equivalent to SentencePiece's scores: every way to make a token from two others, ordered by the score of the
/// result. (SentencePiece merges the pair whose result scores best; a `tokenizer.json` lists pairs.)
fn sentence_piece_merges(tokens: &[String], scores: &[f32]) -> Vec<Json> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, t)| (t.as_str(), id)).collect();
    let mut merges: Vec<(usize, usize, usize)> = Vec::new();
    for (whole, token) in tokens.iter().enumerate() {
        for (at, _) in token.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&token[..at]), ids.get(&token[at..])) {
                merges.push((whole, left, right));
            }
        }
    }
    merges.sort_by(|a, b| {
        scores[b.0].total_cmp(&scores[a.0]).then_with(|| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)))
    });
    merges.into_iter().map(|(_, left, right)| json!([tokens[left], tokens[right]])).collect()
}
