//! Mistral's tekken files (`tekken.json`): byte-level BPE with tiktoken's ranks. A token's rank is its id minus the
//! number of special tokens, which come first.

use super::bpe::Bpe;
use super::error::TokenizeError;
use super::pretokenize::PreTokenizer;
use super::tokenizer::Algorithm;
use super::vocab::{Kind, VocabBuilder};
use crate::TokenId;
use base64::Engine;
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Deserialize)]
struct File {
    config: Config,
    vocab: Vec<RankedToken>,
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    /// Total number of ids; the file may list more tokens than are used.
    default_vocab_size: usize,
    default_num_special_tokens: usize,
    version: String,
}

#[derive(Deserialize)]
struct RankedToken {
    rank: usize,
    /// Base64.
    token_bytes: String,
}

#[derive(Deserialize)]
struct Special {
    rank: usize,
    token_str: String,
}

/// The special tokens of files without a list: versions up to v7.
const SPECIAL: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

/// Reads a tekken file.
pub(super) fn read(bytes: &[u8]) -> Result<(VocabBuilder, Algorithm), TokenizeError> {
    let file: File = serde_json::from_slice(bytes)
        .map_err(|e| TokenizeError::invalid("tekken.json", "a tekken tokenizer", e.to_string()))?;
    let size = file.config.default_vocab_size;
    let specials = file.config.default_num_special_tokens;
    let used = size
        .checked_sub(specials)
        .filter(|&used| used <= file.vocab.len() && specials <= size)
        .ok_or_else(|| {
            let expected = format!("{specials} special tokens and at most {} others", file.vocab.len());
            TokenizeError::invalid("default_vocab_size", expected, size.to_string())
        })?;

    let mut tokens = special_tokens(file.special_tokens, specials)?;
    let mut by_bytes = HashMap::with_capacity(used);
    for (rank, entry) in file.vocab.into_iter().take(used).enumerate() {
        if entry.rank != rank {
            let what = format!("rank of entry {rank}");
            return Err(TokenizeError::invalid(what, rank.to_string(), entry.rank.to_string()));
        }
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&entry.token_bytes)
            .map_err(|e| TokenizeError::invalid(format!("bytes of rank {rank}"), "base64", e.to_string()))?;
        if by_bytes.insert(bytes.clone().into_boxed_slice(), tokens.len() as TokenId).is_some() {
            let found = format!("{:?} again", String::from_utf8_lossy(&bytes));
            return Err(TokenizeError::invalid(format!("bytes of rank {rank}"), "unique bytes", found));
        }
        tokens.push((bytes, Kind::Normal));
    }
    let pre = PreTokenizer::new(&[&file.config.pattern])?;
    let bpe = Bpe::new(pre, by_bytes, tokens.len(), None, true);
    let find =
        |name: &str| tokens.iter().position(|(bytes, _)| bytes == name.as_bytes()).map(|id| id as TokenId);
    let builder = VocabBuilder {
        bos: find("<s>"),
        eos: find("</s>"),
        tokens,
        adds_bos: true,
        eats_space: Default::default(),
        end_tokens: Vec::new(),
        user_defined_apart: true,
    };
    Ok((builder, Algorithm::Bpe(Box::new(bpe))))
}

/// What a tekken file says besides its tokens.
#[derive(Deserialize)]
pub(super) struct Head {
    config: Config,
    /// Settings that prompts of v15 contain, with their values and defaults.
    pub model_settings_builder: Option<serde_json::Value>,
}

impl Head {
    /// The version ("v3", "v7", …), which determines the chat format.
    pub fn version(&self) -> &str {
        &self.config.version
    }
}

/// Reads a tekken file without its tokens; `None`: the bytes are no tekken file.
pub(super) fn head(bytes: &[u8]) -> Option<Head> {
    serde_json::from_slice(bytes).ok()
}

/// Ids 0 to `count`: the listed tokens, then fillers.
fn special_tokens(listed: Option<Vec<Special>>, count: usize) -> Result<Vec<(Vec<u8>, Kind)>, TokenizeError> {
    /// A hundred times more than in any published file.
    const MOST: usize = 1 << 17;
    let listed = listed.unwrap_or_else(|| {
        let special = |(rank, &name): (usize, &&str)| Special { rank, token_str: name.to_owned() };
        SPECIAL.iter().enumerate().map(special).collect()
    });
    if count > MOST || listed.len() > count {
        let expected = format!("{} to {MOST}", listed.len());
        return Err(TokenizeError::invalid("default_num_special_tokens", expected, count.to_string()));
    }
    let filler = |id: usize| (format!("<SPECIAL_{id}>").into_bytes(), Kind::Control);
    let mut tokens: Vec<_> = (0..count).map(filler).collect();
    for Special { rank, token_str } in listed {
        let kind = if token_str == "<unk>" { Kind::Unknown } else { Kind::Control };
        let what = || format!("rank of special token {token_str:?}");
        let slot = tokens
            .get_mut(rank)
            .ok_or_else(|| TokenizeError::invalid(what(), format!("below {count}"), rank.to_string()))?;
        *slot = (token_str.into_bytes(), kind);
    }
    Ok(tokens)
}
