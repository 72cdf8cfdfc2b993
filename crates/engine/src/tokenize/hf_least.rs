//! Which bytes of a text are certainly part of a token, for a `tokenizer.json`: see [`Least`](super::bounds::Least).
//!
//! Only kinds of which this is known are answered: byte-level BPE and SentencePiece's BPE with byte tokens, without normalizers
//! and pre-tokenizers that shorten a text. What counts is what the crate has read, not what the file says.

use super::bpe::byte_alphabet;
use serde_json::Value;
use tokenizers::models::ModelWrapper;

/// Which bytes of a text are certainly part of a token.
pub(super) struct Kept {
    /// By byte.
    pub bytes: [bool; 256],
    /// Whether the tokens are spelled as SentencePiece spells them, with three bytes for a space.
    pub spelled: bool,
}

/// The bytes that are always part of some token; `None` if that is not known.
pub(super) fn kept(tokenizer: &tokenizers::Tokenizer) -> Option<Kept> {
    let ModelWrapper::BPE(model) = tokenizer.get_model() else { return None };
    let added = tokenizer.get_added_tokens_decoder();
    let affix = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    if !affix(&model.continuing_subword_prefix)
        || !affix(&model.end_of_word_suffix)
        || added.values().any(|token| token.lstrip || token.rstrip)
        || !tokenizer.get_normalizer().is_none_or(|part| keeps_length(serde_json::to_value(part).ok()))
    {
        return None;
    }
    let splitter = tokenizer.get_pre_tokenizer().map(serde_json::to_value).transpose().ok()?;
    let mut byte_level = false;
    if !splitter.is_none_or(|part| keeps_text(&part, &mut byte_level)) {
        return None;
    }
    let has = |token: &str| tokenizers::Model::token_to_id(model, token).is_some();
    if byte_level {
        let bytes = byte_alphabet().map(|c| has(c.encode_utf8(&mut [0; 4])));
        return Some(Kept { bytes, spelled: false });
    }
    let all = model.byte_fallback && (0..=u8::MAX).all(|byte| has(&format!("<0x{byte:02X}>")));
    all.then_some(Kept { bytes: [true; 256], spelled: true })
}

/// Whether a normalizer makes no text shorter.
fn keeps_length(part: Option<Value>) -> bool {
    fn keeps(part: &Value) -> bool {
        match part["type"].as_str() {
            Some("Sequence") => part["normalizers"].as_array().is_some_and(|parts| parts.iter().all(keeps)),
            Some("Prepend") => true,
            Some("Replace") => {
                let (from, to) = (part["pattern"]["String"].as_str(), part["content"].as_str());
                matches!((from, to), (Some(from), Some(to)) if to.len() >= from.len())
            }
            _ => false,
        }
    }
    part.is_some_and(|part| keeps(&part))
}

/// Whether a pre-tokenizer leaves out nothing. Sets `byte_level` if it writes bytes in GPT-2's alphabet.
fn keeps_text(part: &Value, byte_level: &mut bool) -> bool {
    match part["type"].as_str() {
        Some("Sequence") => part["pretokenizers"]
            .as_array()
            .is_some_and(|parts| parts.iter().all(|part| keeps_text(part, byte_level))),
        Some("Split") => part["behavior"].as_str().is_some_and(|behavior| behavior != "Removed"),
        Some("ByteLevel") => !std::mem::replace(byte_level, true),
        Some("Digits") => true,
        // Writes spaces as another character, of any length.
        Some("Metaspace") => part["replacement"] == super::spm::SPACE,
        _ => false,
    }
}
