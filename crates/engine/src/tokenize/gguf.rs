//! Tokenizers in the metadata of GGUF files (`tokenizer.ggml.*`), with llama.cpp's rules.

use super::bpe::{Bpe, ByteAlphabet};
use super::charsmap::{CharsMap, Normalizer};
use super::error::{TokenizeError, shorten};
use super::pretokenize::preset;
use super::splitter::Splitter;
use super::spm::{Spm, SpmOptions, byte_token, not_a_byte};
use super::tokenizer::{Algorithm, SpacePrefix, Tokenizer};
use super::unigram::Unigram;
use super::vocab::{Kind, VocabBuilder};

use crate::TokenId;
use crate::load::{Metadata, Value};
use std::collections::{HashMap, HashSet};

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
/// Keys of the tokens that end a turn or a message.
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Whether the metadata contains a tokenizer.
pub(super) fn has_vocabulary(metadata: &Metadata) -> bool {
    metadata.get(MODEL).is_some_and(|model| *model != Value::String("none".to_owned()))
}

/// Reads a tokenizer from a GGUF file's metadata.
pub(super) fn read(metadata: &Metadata) -> Result<Tokenizer, TokenizeError> {
    let model = metadata.str(MODEL).ok_or(TokenizeError::Missing { key: MODEL })?;
    let texts = strings(metadata, TOKENS)?.ok_or(TokenizeError::Missing { key: TOKENS })?;
    let kinds = kinds(metadata, texts.len())?;
    check_unique(texts)?;
    match model {
        "gpt2" => byte_level(metadata, texts, &kinds),
        "llama" => sentence_piece(metadata, texts, &kinds),
        "t5" => unigram(metadata, texts, &kinds),
        other => Err(TokenizeError::Unsupported {
            what: "tokenizer model",
            found: other.to_owned(),
            known: "llama (SentencePiece BPE), gpt2 (byte-level BPE), t5 (SentencePiece Unigram)".to_owned(),
        }),
    }
}

/// A tokenizer of a kind that is not read here: `pieces` are its tokens' bytes, `[tokens]`, and `splitter` has its algorithm.
pub(super) fn read_with(
    metadata: &Metadata,
    pieces: Vec<Vec<u8>>,
    splitter: Box<dyn Splitter>,
) -> Result<Tokenizer, TokenizeError> {
    let texts = strings(metadata, TOKENS)?.ok_or(TokenizeError::Missing { key: TOKENS })?;
    if pieces.len() != texts.len() {
        return Err(wrong_length(TOKENS, pieces.len(), texts.len()));
    }
    check_unique(texts)?;
    let kinds = kinds(metadata, texts.len())?;
    // WordPiece begins every word with a space. The others' defaults are those of llama.cpp.
    let word_piece = metadata.str(MODEL) == Some("bert");
    let spaced = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(false);
    let prefix = if word_piece || spaced { SpacePrefix::EveryFragment } else { SpacePrefix::Never };
    let adds_bos = word_piece || metadata.str(MODEL) == Some("gemma4");
    let tokens = pieces.into_iter().zip(kinds).collect();
    finish(metadata, tokens, adds_bos, Algorithm::Other(splitter, prefix))
}

fn byte_level(metadata: &Metadata, texts: &[String], kinds: &[Kind]) -> Result<Tokenizer, TokenizeError> {
    let preset = preset(metadata.str("tokenizer.ggml.pre").unwrap_or("default"))?;
    let alphabet = ByteAlphabet::new();
    let mut tokens = Vec::with_capacity(texts.len());
    let mut by_bytes = HashMap::with_capacity(texts.len());
    for (id, (text, &kind)) in texts.iter().zip(kinds).enumerate() {
        let written = alphabet.bytes(text);
        if let (Some(bytes), Kind::Normal | Kind::Unused | Kind::UserDefined) = (&written, kind)
            && !bytes.is_empty()
        {
            by_bytes.insert(bytes.clone().into_boxed_slice(), id as TokenId);
        }
        let literal = || text.as_bytes().to_vec();
        let bytes = match kind {
            Kind::Normal | Kind::Unused => written.unwrap_or_else(literal),
            Kind::Byte => vec![byte_token(text).ok_or_else(|| not_a_byte(id, text))?],
            Kind::Control | Kind::Unknown | Kind::UserDefined => literal(),
        };
        tokens.push((bytes, kind));
    }
    let merges = strings(metadata, MERGES)?.ok_or(TokenizeError::Missing { key: MERGES })?;
    let merges = merges.iter().enumerate().map(|(i, merge)| parse_merge(i, merge, &alphabet));
    let merges = merges.collect::<Result<Vec<_>, _>>()?;
    let bpe = Bpe::new(preset.compile()?, by_bytes, tokens.len(), Some(merges), preset.whole_words);
    finish(metadata, tokens, preset.adds_bos, Algorithm::Bpe(Box::new(bpe)))
}

/// Every token's score.
fn scores<'a>(metadata: &'a Metadata, texts: &[String]) -> Result<&'a [f32], TokenizeError> {
    match metadata.get(SCORES) {
        None => Err(TokenizeError::Missing { key: SCORES }),
        Some(Value::Floats(scores)) if scores.len() == texts.len() => Ok(scores),
        Some(Value::Floats(scores)) => Err(wrong_length(SCORES, texts.len(), scores.len())),
        Some(_) => Err(TokenizeError::invalid(SCORES, "an array of f32", "another type")),
    }
}

fn unigram(metadata: &Metadata, texts: &[String], kinds: &[Kind]) -> Result<Tokenizer, TokenizeError> {
    let map: Vec<u8> = match metadata.get(CHARSMAP) {
        None => Vec::new(),
        Some(Value::Array(bytes)) => bytes
            .iter()
            .map(|byte| match *byte {
                Value::U8(byte) => Ok(byte),
                Value::I8(byte) => Ok(byte as u8),
                _ => Err(TokenizeError::invalid(CHARSMAP, "an array of bytes", "another type")),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(TokenizeError::invalid(CHARSMAP, "an array of bytes", "another type")),
    };
    let normalizer = Normalizer {
        charsmap: CharsMap::read(&map)?,
        squeeze_spaces: metadata.bool("tokenizer.ggml.remove_extra_whitespaces").unwrap_or(false),
    };
    let prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(false);
    let (unknown, scores) = (id(metadata, UNKNOWN, texts.len())?, scores(metadata, texts)?);
    let (tokens, unigram) = Unigram::new(texts, kinds, scores, unknown, prefix, normalizer)?;
    finish(metadata, tokens, false, Algorithm::Unigram(Box::new(unigram)))
}

fn sentence_piece(metadata: &Metadata, texts: &[String], kinds: &[Kind]) -> Result<Tokenizer, TokenizeError> {
    let scores = scores(metadata, texts)?;
    let options = SpmOptions {
        unknown: id(metadata, UNKNOWN, texts.len())?,
        space_prefix: metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true),
        squeeze_spaces: metadata.bool("tokenizer.ggml.remove_extra_whitespaces").unwrap_or(false),
        finds_user_defined: false,
    };
    let (tokens, spm) = Spm::new(texts, kinds, scores, options)?;
    finish(metadata, tokens, true, Algorithm::Spm(Box::new(spm)))
}

/// Reads the special ids, and builds the vocabulary for either algorithm.
fn finish(
    metadata: &Metadata,
    tokens: Vec<(Vec<u8>, Kind)>,
    adds_bos: bool,
    algorithm: Algorithm,
) -> Result<Tokenizer, TokenizeError> {
    let count = tokens.len();
    let mut end_tokens = Vec::new();
    for key in ENDS {
        end_tokens.extend(id(metadata, key, count)?);
    }
    let builder = VocabBuilder {
        tokens,
        bos: id(metadata, BOS, count)?,
        eos: id(metadata, EOS, count)?,
        adds_bos: metadata.bool("tokenizer.ggml.add_bos_token").unwrap_or(adds_bos),
        eats_space: eats_space(metadata),
        end_tokens,
        user_defined_apart: true,
    };
    Ok(Tokenizer { vocab: builder.build()?, algorithm })
}

/// The special tokens that take the white space behind them along. Phi-3's do, and its GGUF files don't say it: llama.cpp goes by
/// the model's name, too. Empty for other models.
pub fn eats_space(metadata: &Metadata) -> HashSet<TokenId> {
    let name = metadata.str("general.name").unwrap_or_default().to_lowercase();
    let (Some(texts), Some(kinds)) = (metadata.strings(TOKENS), metadata.ints(TYPES)) else {
        return HashSet::new();
    };
    if metadata.str(MODEL) != Some("llama") || !["phi-3", "phi3"].iter().any(|phi| name.contains(phi)) {
        return HashSet::new();
    }
    let special = |text: &str, kind: i32| match text {
        "<unk>" | "<s>" | "<|endoftext|>" => false,
        "</s>" => true,
        _ => matches!(kind, 2..=4), // unknown, control, user-defined
    };
    let tokens = texts.iter().zip(&*kinds).enumerate();
    tokens.filter(|(_, (text, kind))| special(text, **kind)).map(|(id, _)| id as TokenId).collect()
}

fn kinds(metadata: &Metadata, count: usize) -> Result<Vec<Kind>, TokenizeError> {
    let types = match (metadata.get(TYPES), metadata.ints(TYPES)) {
        (None, _) => return Ok(vec![Kind::Normal; count]),
        (_, Some(types)) => types,
        _ => return Err(TokenizeError::invalid(TYPES, "an array of integers", "another type")),
    };
    if types.len() != count {
        return Err(wrong_length(TYPES, count, types.len()));
    }
    let kind = |(i, &number): (usize, &i32)| match number {
        // 0 is "undefined", which some converters write for plain text.
        0 | 1 => Ok(Kind::Normal),
        2 => Ok(Kind::Unknown),
        3 => Ok(Kind::Control),
        4 => Ok(Kind::UserDefined),
        5 => Ok(Kind::Unused),
        6 => Ok(Kind::Byte),
        other => Err(TokenizeError::invalid(format!("type of token {i}"), "0 to 6", other.to_string())),
    };
    types.iter().enumerate().map(kind).collect()
}

/// Rejects two tokens with the same text, since only one could be encoded. Empty texts, which some files use as
/// padding, may repeat.
pub(super) fn check_unique(texts: &[String]) -> Result<(), TokenizeError> {
    let mut seen = HashMap::with_capacity(texts.len());
    for (id, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        if let Some(first) = seen.insert(text.as_str(), id) {
            let found = format!("{:?} again (token {first})", shorten(text));
            return Err(TokenizeError::invalid(format!("token {id}"), "a unique text", found));
        }
    }
    Ok(())
}

fn parse_merge(i: usize, merge: &str, alphabet: &ByteAlphabet) -> Result<(Vec<u8>, Vec<u8>), TokenizeError> {
    // Only in vocabularies that are not byte-level may a part itself begin with a space.
    let parts = merge.split_once(' ').filter(|(a, b)| !a.is_empty() && !b.is_empty() && !b.contains(' '));
    let bytes = |text: &str| alphabet.bytes(text).unwrap_or_else(|| text.as_bytes().to_vec());
    let (left, right) = parts.ok_or_else(|| {
        let found = format!("{:?}", shorten(merge));
        TokenizeError::invalid(format!("merge {i}"), "two parts with a space between", found)
    })?;
    Ok((bytes(left), bytes(right)))
}

fn strings<'a>(metadata: &'a Metadata, key: &'static str) -> Result<Option<&'a [String]>, TokenizeError> {
    match metadata.get(key) {
        None => Ok(None),
        Some(Value::Strings(strings)) => Ok(Some(strings)),
        Some(_) => Err(TokenizeError::invalid(key, "an array of strings", "another type")),
    }
}

/// An optional token id in the metadata. Some converters write 0xFFFFFFFF for "none".
fn id(metadata: &Metadata, key: &'static str, count: usize) -> Result<Option<TokenId>, TokenizeError> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let expected = || format!("an id below {count}");
    match metadata.u64(key) {
        Some(id) if id < count as u64 => Ok(Some(id as TokenId)),
        Some(id) if id == u64::from(u32::MAX) => Ok(None),
        Some(id) => Err(TokenizeError::invalid(key, expected(), id.to_string())),
        None if value.as_i64() == Some(-1) => Ok(None),
        None => Err(TokenizeError::invalid(
            key,
            expected(),
            format!("{value:?}").chars().take(80).collect::<String>(),
        )),
    }
}

fn wrong_length(key: &'static str, expected: usize, found: usize) -> TokenizeError {
    TokenizeError::invalid(key, format!("{expected} elements, as many as tokens"), found.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::Encode;

    #[test]
    fn special_tokens_of_phi_3_eat_the_space_behind_them() {
        let pieces = ["<unk>", "<s>", "</s>", "\u{2581}", "a", "\n", "<|user|>", "<|endoftext|>"];
        let encode = |name: &str, text: &str| {
            let mut metadata = Metadata::default();
            let mut put = |key: &str, value: Value| metadata.0.insert(key.to_owned(), value);
            put("general.name", Value::String(name.to_owned()));
            put(MODEL, Value::String("llama".to_owned()));
            put(TOKENS, Value::Strings(pieces.map(str::to_owned).to_vec()));
            put(TYPES, Value::Ints(vec![2, 3, 3, 1, 1, 1, 3, 3]));
            put(SCORES, Value::Floats(vec![0.0; pieces.len()]));
            put("tokenizer.ggml.add_space_prefix", Value::Bool(false));
            let options = Encode { add_bos: false, parse_special: true };
            read(&metadata).unwrap().encode(text, options).unwrap()
        };
        let text = "<|user|>\n a</s> \n<|endoftext|>\na";
        assert_eq!(encode("Phi 3 mini", text), [6, 5, 3, 4, 2, 3, 5, 7, 5, 4]);
        assert_eq!(encode("Phi-3-mini-128k", text), [6, 4, 2, 7, 5, 4]);
        assert_eq!(encode("phi3", "\na\n"), [5, 4, 5]);
    }
}
