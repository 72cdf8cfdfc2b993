//! SentencePiece's BPE: the first symbols are characters, the pair whose token has the best score merges first, and a
//! character without a token is written as bytes (`<0xE2>`). Spaces are written as `▁` (U+2581).

use super::TokenizeError;
use super::bounds::{Least, Watch};
use super::error::shorten;
use super::merge::{Merge, Merger, Rules, SymbolId};
use super::vocab::{Fragment, Kind, Matcher};
use crate::TokenId;
use std::collections::HashMap;

/// The character for a space in the vocabulary.
pub(crate) const SPACE: &str = "\u{2581}";

/// A SentencePiece BPE encoder.
pub(crate) struct Spm {
    /// Text tokens by their text, with the merge that creates them, without control and byte tokens.
    tokens: HashMap<Box<[u8]>, Merge>,
    bytes: [Option<TokenId>; 256],
    options: SpmOptions,
    /// Symbols that are found in the text before any merge.
    user_defined: Option<Matcher>,
    /// Whether no token has `▁` after another character, so that words can be merged one by one.
    words_apart: bool,
}

/// Options of a SentencePiece model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SpmOptions {
    /// The token for characters that have neither a token nor byte tokens.
    pub unknown: Option<TokenId>,
    /// Whether a space is added before a text.
    pub space_prefix: bool,
    /// Whether runs of spaces count as one and spaces at the ends are removed.
    pub squeeze_spaces: bool,
    /// Whether user-defined tokens are found within a text and do not split it: see
    /// [`super::vocab::VocabBuilder::user_defined_apart`].
    pub finds_user_defined: bool,
}

/// The symbol of a character without a token.
const UNKNOWN: SymbolId = SymbolId::MAX;

impl Rules for Spm {
    fn merge(&self, _: SymbolId, _: SymbolId, bytes: &[u8]) -> Option<Merge> {
        self.tokens.get(bytes).copied()
    }
}

/// Each token's bytes and kind.
type Tokens = Vec<(Vec<u8>, Kind)>;

impl Spm {
    /// Builds the encoder from the vocabulary's pieces: texts as in the file (`▁` for spaces), kinds and scores, all of
    /// one length. Also returns the tokens' bytes.
    ///
    /// # Errors
    /// If a score is NaN, or the name of a byte token is not `<0x00>` to `<0xFF>`.
    pub fn new(
        texts: &[String],
        kinds: &[Kind],
        scores: &[f32],
        options: SpmOptions,
    ) -> Result<(Tokens, Spm), TokenizeError> {
        let mut tokens = HashMap::with_capacity(texts.len());
        let mut bytes = [None; 256];
        let mut out = Vec::with_capacity(texts.len());
        let mut user_defined = Vec::new();
        let mut words_apart = true;
        for (id, ((text, &kind), &score)) in texts.iter().zip(kinds).zip(scores).enumerate() {
            let token = id as TokenId;
            let spaced = || text.replace(SPACE, " ").into_bytes();
            out.push(match kind {
                Kind::Normal | Kind::Unused => (spaced(), kind),
                Kind::UserDefined if options.finds_user_defined => (spaced(), kind),
                Kind::Control | Kind::Unknown | Kind::UserDefined => (text.as_bytes().to_vec(), kind),
                Kind::Byte => {
                    let byte = byte_token(text).ok_or_else(|| not_a_byte(id, text))?;
                    bytes[byte as usize].get_or_insert(token);
                    (vec![byte], kind)
                }
            });
            if text.is_empty() {
                continue;
            }
            if kind == Kind::UserDefined && options.finds_user_defined {
                user_defined.push((text.as_bytes().into(), token));
            } else if matches!(kind, Kind::Normal | Kind::Unused | Kind::UserDefined) {
                if score.is_nan() {
                    return Err(TokenizeError::invalid(format!("score of token {id}"), "a number", "NaN"));
                }
                words_apart &= !text.trim_start_matches(SPACE).contains(SPACE);
                tokens.insert(text.as_bytes().into(), Merge { rank: rank(score), into: token });
            }
        }
        let user_defined = Matcher::new(user_defined)?;
        Ok((out, Spm { tokens, bytes, options, user_defined, words_apart }))
    }

    /// Whether a space is added before a text.
    pub fn space_prefix(&self) -> bool {
        self.options.space_prefix
    }

    /// Appends the ids of `text`, with a space in front if `prefix`. A character with neither a token nor byte tokens
    /// becomes the unknown token, or is skipped if there is none.
    ///
    /// # Errors
    /// If `watch` ends it.
    pub fn encode(
        &self,
        text: &str,
        prefix: bool,
        watch: &Watch<'_>,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TokenizeError> {
        let text = self.normalize(text, prefix);
        let Some(matcher) = &self.user_defined else { return self.merge_words(&text, watch, ids) };
        for fragment in matcher.cut(&text) {
            match fragment {
                Fragment::Text(text) => self.merge_words(text, watch, ids)?,
                Fragment::Token(id) => ids.push(id),
            }
        }
        Ok(())
    }

    /// The lower bound on the tokens of a text; `None` if characters may be left out. `longest` is the length of the longest
    /// token, of any kind, in the vocabulary's spelling.
    pub fn least(&self, longest: usize) -> Option<Least> {
        if self.options.unknown.is_none() && self.bytes.iter().any(Option::is_none) {
            return None;
        }
        let mut kept = [true; 256];
        if self.options.squeeze_spaces {
            // Also the `▁` at the end of a text.
            b" ".iter().chain(SPACE.as_bytes()).for_each(|&byte| kept[byte as usize] = false);
        }
        // An unknown token stands for one character.
        Some(Least::new(longest.max(char::MAX.len_utf8()), kept))
    }

    fn merge_words(
        &self,
        text: &str,
        watch: &Watch<'_>,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TokenizeError> {
        let mut merger = Merger::default();
        let mut rest = text;
        while !rest.is_empty() {
            watch.step()?;
            let end = if self.words_apart { word_end(rest) } else { rest.len() };
            let (word, after) = rest.split_at(end);
            rest = after;
            let initial = word.char_indices().map(|(at, c)| {
                let symbol = self.tokens.get(&word.as_bytes()[at..at + c.len_utf8()]);
                (symbol.map_or(UNKNOWN, |merge| merge.into), c.len_utf8())
            });
            merger.run(word.as_bytes(), initial, self, watch, |symbol, bytes| {
                if symbol != UNKNOWN {
                    ids.push(symbol);
                    return;
                }
                let bytes = bytes.iter().map(|&byte| self.bytes[byte as usize]);
                if bytes.clone().all(|id| id.is_some()) {
                    ids.extend(bytes.flatten());
                } else {
                    ids.extend(self.options.unknown);
                }
            })?;
        }
        Ok(())
    }

    /// The text in SentencePiece's form: spaces reduced if the model requires it, the prefix added, and all spaces
    /// written as `▁`.
    fn normalize(&self, text: &str, prefix: bool) -> String {
        let squeezed;
        let mut text = text;
        if self.options.squeeze_spaces {
            squeezed = text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
            // At the end of a text, SentencePiece can't distinguish `▁` from a space.
            text = squeezed.trim_end_matches([' ', '\u{2581}']);
        }
        let mut out = String::with_capacity(text.len() + text.len() / 4 + SPACE.len());
        if prefix && !text.is_empty() {
            out.push_str(SPACE);
        }
        for (i, part) in text.split(' ').enumerate() {
            if i > 0 {
                out.push_str(SPACE);
            }
            out.push_str(part);
        }
        out
    }
}

/// The byte that `<0xE2>` names.
pub(super) fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let valid = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    if valid { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// The error for a byte token whose name is not a byte.
pub(super) fn not_a_byte(id: usize, text: &str) -> TokenizeError {
    TokenizeError::invalid(format!("byte token {id}"), "<0x00> to <0xFF>", format!("{:?}", shorten(text)))
}

/// Where the first word of a text ends: before the first `▁` that follows another character.
fn word_end(text: &str) -> usize {
    let spaces = text.len() - text.trim_start_matches(SPACE).len();
    text[spaces..].find(SPACE).map_or(text.len(), |at| spaces + at)
}

/// Converts scores to merge ranks: a higher score has a lower rank. It keeps the order of all finite and infinite
/// floats (it flips the sign bit, or all bits of negative numbers, then reverses the order).
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    !(if bits >> 31 == 1 { !bits } else { bits | 1 << 31 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::Bounds;

    #[test]
    fn ranks_order_scores_backwards() {
        let scores = [f32::INFINITY, 3.0, 0.5, 0.0, -1e-9, -2.0, -1e9, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|w| rank(w[0]) < rank(w[1])));
        assert_eq!(rank(0.0), rank(-0.0));
    }

    #[test]
    fn words_end_before_the_next_space() {
        assert_eq!(word_end("▁▁ab▁c"), "▁▁ab".len());
        assert_eq!(word_end("▁▁"), "▁▁".len());
        assert_eq!(word_end("ab"), 2);
    }

    /// 256 byte tokens, then `tokens`.
    fn spm(tokens: &[(&str, f32)], options: SpmOptions) -> Spm {
        let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), Kind::Byte, 0.0));
        let text = tokens.iter().map(|&(text, score)| {
            let kind = if text.starts_with('[') { Kind::UserDefined } else { Kind::Normal };
            (text.to_owned(), kind, score)
        });
        let all: Vec<_> = bytes.chain(text).collect();
        let texts: Vec<_> = all.iter().map(|(text, _, _)| text.clone()).collect();
        let kinds: Vec<_> = all.iter().map(|&(_, kind, _)| kind).collect();
        let scores: Vec<_> = all.iter().map(|&(_, _, score)| score).collect();
        Spm::new(&texts, &kinds, &scores, options).unwrap().1
    }

    /// Encodes; ids count from the first token that is not a byte.
    fn encode(spm: &Spm, text: &str) -> Vec<i64> {
        let mut ids = Vec::new();
        spm.encode(text, spm.space_prefix(), &Watch::new(&Bounds::NONE), &mut ids).unwrap();
        ids.into_iter().map(|id| i64::from(id) - 256).collect()
    }

    const PREFIX: SpmOptions =
        SpmOptions { unknown: None, space_prefix: true, squeeze_spaces: false, finds_user_defined: false };

    #[test]
    fn the_best_score_merges_first_and_bytes_fill_gaps() {
        let tokens = [("▁", -9.0), ("a", -8.0), ("b", -7.0), ("ab", -1.0), ("▁a", -0.5), ("b▁", -3.0)];
        assert_eq!(encode(&spm(&tokens, PREFIX), "ab é"), [4, 5, 0xc3 - 256, 0xa9 - 256]);
    }

    #[test]
    fn spaces_are_squeezed_if_asked() {
        let spm = spm(&[("▁", 0.0), ("a", 0.0)], SpmOptions { squeeze_spaces: true, ..PREFIX });
        assert_eq!(encode(&spm, "  a   a "), [0, 1, 0, 1]);
        assert!(encode(&spm, "  ").is_empty());
    }

    #[test]
    fn user_defined_tokens_are_found_after_the_prefix_is_put_on() {
        let tokens = [("▁", 0.0), ("a", 0.0), ("[a", 0.0), ("[", 0.0)];
        let spm = spm(&tokens, SpmOptions { finds_user_defined: true, ..PREFIX });
        assert_eq!(encode(&spm, "[a[ a"), [0, 2, 3, 0, 1]);
    }

    #[test]
    fn nan_scores_are_refused() {
        assert!(Spm::new(&["a".to_owned()], &[Kind::Normal], &[f32::NAN], PREFIX).is_err());
    }
}
