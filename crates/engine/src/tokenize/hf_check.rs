//! Checks a `tokenizer.json` before the crate `tokenizers` reads it.
//!
//! The crate trusts its files: some make it panic when they are read or used, allocate without bound, overflow a
//! thread's stack, or never return. Every known kind of such files is rejected here with its name. Components are
//! recognised by their fields, not by their `type`, since the crate also reads them without one.

use super::error::{TokenizeError, shorten};
use super::hf_map::charsmap;
use serde_json::Value;

/// Maximum number of added tokens, and of their bytes: the automaton that finds them takes microseconds per byte to
/// build. The largest published lists have 66,000 tokens with 0.7 MB.
const ADDED: (usize, usize) = (100_000, 1 << 20);
/// Maximum length of an added token, in bytes.
const ADDED_TOKEN: usize = 1024;
/// Maximum number of normalizers, and of pre-tokenizers.
const COMPONENTS: usize = 128;
/// Maximum length of a text in a component, in bytes: a pattern, its replacement, a prefix.
const FIELD: usize = 16 << 10;
/// Maximum factor by which a text may grow.
const FACTOR: usize = 1024;
/// Maximum number of pieces of a template, and of ids in one piece.
const PIECES: usize = 1024;
/// Maximum length of a token in a Unigram vocabulary, and of all tokens together, in bytes: each byte is a node of a
/// tree.
const UNIGRAM: (usize, usize) = (1024, 8 << 20);
/// Maximum length of a word for a WordPiece vocabulary, in characters; the time grows with its square.
const WORD: u64 = 10_000;
/// Maximum length of a text after normalising, in bytes. Each byte takes 17 bytes of memory.
const NORMALISED: usize = 64 << 20;

/// How much longer the normalised form of a text can be than the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    factor: usize,
    added: usize,
}

impl Growth {
    /// # Errors
    /// If a text of this many bytes could take too much memory.
    pub fn check(&self, bytes: usize) -> Result<(), TokenizeError> {
        let most = bytes.saturating_mul(self.factor).saturating_add(self.added);
        if most <= NORMALISED {
            return Ok(());
        }
        Err(TokenizeError::Tokenizers(format!(
            "a text of {bytes} bytes could become {most} bytes long; expected at most {NORMALISED}"
        )))
    }

    fn and(&mut self, factor: usize, added: usize) {
        self.factor = self.factor.saturating_mul(factor);
        self.added = self.added.saturating_mul(factor).saturating_add(added);
    }
}

fn invalid(what: &str, expected: impl Into<String>, found: impl ToString) -> TokenizeError {
    TokenizeError::invalid(format!("tokenizer.json: {what}"), expected, shorten(&found.to_string()))
}

/// Checks all components. Returns how much the normalizer and the pre-tokenizer can lengthen a text.
pub(super) fn check(json: &Value) -> Result<Growth, TokenizeError> {
    let mut growth = Growth { factor: 1, added: 0 };
    for key in ["normalizer", "pre_tokenizer"] {
        let mut left = COMPONENTS;
        component(key, &json[key], &mut growth, &mut left)?;
    }
    if growth.factor > FACTOR {
        let found = format!("{} times", growth.factor);
        return Err(invalid("normalizer", format!("at most {FACTOR} times the length of a text"), found));
    }
    growth.check(added_tokens(&json["added_tokens"])?)?;
    post_processor(&json["post_processor"])?;
    model(&json["model"])?;
    Ok(growth)
}

/// The bytes of all added tokens.
fn added_tokens(list: &Value) -> Result<usize, TokenizeError> {
    let tokens = list.as_array().map_or(&[][..], Vec::as_slice);
    if tokens.len() > ADDED.0 {
        return Err(invalid("added_tokens", format!("at most {} tokens", ADDED.0), tokens.len()));
    }
    let mut total = 0;
    for token in tokens {
        let bytes = token["content"].as_str().map_or(0, str::len);
        if bytes > ADDED_TOKEN {
            return Err(invalid("added_tokens", format!("tokens of at most {ADDED_TOKEN} bytes"), bytes));
        }
        total += bytes;
    }
    if total > ADDED.1 {
        return Err(invalid("added_tokens", format!("at most {} bytes in all", ADDED.1), total));
    }
    Ok(total)
}

/// Checks a normalizer or pre-tokenizer, and the components in it.
fn component(key: &str, value: &Value, growth: &mut Growth, left: &mut usize) -> Result<(), TokenizeError> {
    match value {
        Value::Array(items) => return items.iter().try_for_each(|item| component(key, item, growth, left)),
        Value::Object(_) => {}
        _ => return Ok(()),
    }
    *left = left
        .checked_sub(1)
        .ok_or_else(|| invalid(key, format!("at most {COMPONENTS} components"), "more"))?;
    let content = text(key, "content", &value["content"])?.unwrap_or_default().len();
    if let Some(pattern) = value.get("pattern") {
        let plain = text(key, "pattern", &pattern["String"])?;
        let regex = text(key, "pattern", &pattern["Regex"])?;
        match (plain.or(pattern.as_str()), regex) {
            (Some(""), _) | (_, Some("")) => return Err(invalid(key, "a pattern", "an empty text")),
            (Some(plain), None) => growth.and(content.div_ceil(plain.len()).max(1), 0),
            // The pattern can match between all characters.
            _ => growth.and(content.saturating_add(1), content),
        }
    }
    if let Some(prepend) = value.get("prepend") {
        match text(key, "prepend", prepend)? {
            Some("") => return Err(invalid(key, "a text to prepend", "an empty one")),
            found => growth.and(1, found.unwrap_or_default().len()),
        }
    }
    if value.get("length").is_some_and(|length| length.as_u64() == Some(0)) {
        return Err(invalid(key, "a length of at least 1", 0));
    }
    if value.get("precompiled_charsmap").is_some() || value["type"] == "Precompiled" {
        growth.and(charsmap(&value["precompiled_charsmap"])?, 0);
    }
    // Bytes per byte: at most 11 for compatibility forms, 3 for canonical ones, 3 for letters in the other case; then
    // `▁` and GPT-2's alphabet.
    let (factor, added) = match value["type"].as_str() {
        Some("NFKC" | "NFKD") => (11, 0),
        Some("NFC" | "NFD" | "Lowercase" | "BertNormalizer") => (3, 0),
        Some("ByteLevel") => (2, 1),
        Some("Metaspace") => (4, 4),
        _ => (1, 0),
    };
    growth.and(factor, added);
    let parts = value.as_object().into_iter().flatten().map(|(_, part)| part);
    parts.filter(|part| part.is_array()).try_for_each(|part| component(key, part, growth, left))
}

/// A field's text, if it is one.
fn text<'a>(what: &str, field: &str, value: &'a Value) -> Result<Option<&'a str>, TokenizeError> {
    match value.as_str() {
        Some(text) if text.len() > FIELD => {
            let expected = format!("a {field} of at most {FIELD} bytes");
            Err(invalid(what, expected, format!("{} bytes", text.len())))
        }
        found => Ok(found),
    }
}

/// A template may only name special tokens that it defines, and only one text.
fn post_processor(value: &Value) -> Result<(), TokenizeError> {
    if let Some(parts) = value["processors"].as_array() {
        return parts.iter().try_for_each(post_processor);
    }
    let what = "post_processor";
    let tokens = &value["special_tokens"];
    for (name, token) in tokens.as_object().into_iter().flatten() {
        let count = |field: &str| token[field].as_array().map_or(0, Vec::len);
        if count("ids") != count("tokens") || count("ids") > PIECES {
            let expected = format!("as many ids as tokens, at most {PIECES}");
            return Err(invalid(what, expected, format!("{} ids for {name:?}", count("ids"))));
        }
    }
    for key in ["single", "pair"] {
        let pieces: Vec<&Value> = value[key].as_array().into_iter().flatten().collect();
        if pieces.len() > PIECES {
            return Err(invalid(what, format!("at most {PIECES} pieces"), pieces.len()));
        }
        for piece in pieces {
            let special = &piece["SpecialToken"]["id"];
            if let Some(id) = special.as_str().filter(|id| tokens.get(id).is_none()) {
                return Err(invalid(what, "pieces from special_tokens", format!("{id:?}")));
            }
            if key == "single" && piece["Sequence"]["id"] == "B" {
                return Err(invalid(what, "one text in `single`", "a second one"));
            }
        }
    }
    Ok(())
}

fn model(value: &Value) -> Result<(), TokenizeError> {
    let what = "model";
    let prefix = text(what, "continuing_subword_prefix", &value["continuing_subword_prefix"])?;
    text(what, "end_of_word_suffix", &value["end_of_word_suffix"])?;
    text(what, "unk_token", &value["unk_token"])?;
    if value["max_input_chars_per_word"].as_u64().is_some_and(|most| most > WORD) {
        let expected = format!("max_input_chars_per_word of at most {WORD}");
        return Err(invalid(what, expected, &value["max_input_chars_per_word"]));
    }
    if let Some(tokens) = value["vocab"].as_object() {
        let longest = tokens.keys().map(String::len).max().unwrap_or(0);
        merges(&value["merges"], prefix.unwrap_or_default(), longest)?;
    }
    let mut total = 0;
    for token in value["vocab"].as_array().into_iter().flatten() {
        let bytes = token[0].as_str().map_or(0, str::len);
        if bytes == 0 || bytes > UNIGRAM.0 {
            return Err(invalid(what, format!("tokens of 1 to {} bytes", UNIGRAM.0), bytes));
        }
        total += bytes;
    }
    if total > UNIGRAM.1 {
        return Err(invalid(what, format!("at most {} bytes of tokens", UNIGRAM.1), total));
    }
    Ok(())
}

/// Checks that the second part of each merge begins with the prefix, and that no merge is longer than the longest
/// token.
fn merges(list: &Value, prefix: &str, longest: usize) -> Result<(), TokenizeError> {
    for (rank, merge) in list.as_array().into_iter().flatten().enumerate() {
        let parts = match merge {
            // The first line of the older text format, which the crate skips.
            Value::String(text) if text.starts_with("#version") => None,
            Value::String(text) => text.split_once(' '),
            pair => pair[0].as_str().zip(pair[1].as_str()),
        };
        // The crate reports other forms as errors.
        let Some((first, second)) = parts else { continue };
        let rest = second.strip_prefix(prefix).ok_or_else(|| {
            invalid("model", format!("the prefix {prefix:?}"), format!("{second:?} in merge {rank}"))
        })?;
        if first.len() + rest.len() > longest {
            let found = format!("merge {rank} of {} bytes", first.len() + rest.len());
            return Err(invalid("model", format!("merges of at most {longest} bytes"), found));
        }
    }
    Ok(())
}
