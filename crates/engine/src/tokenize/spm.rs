//! SentencePiece's BPE: characters are the first symbols, the pair whose token has the best score merges first, and
//! a character without a token is written as bytes (`<0xE2>`). Spaces are written `▁` (U+2581).

use super::TokenizeError;
use super::merge::{Merge, Merger, Rules, SymbolId};
use crate::TokenId;
use std::collections::HashMap;

/// What spaces look like in the vocabulary.
pub(crate) const SPACE: &str = "\u{2581}";

/// A SentencePiece BPE encoder.
pub(crate) struct Spm {
    /// Text tokens by their text, with the merge that makes them. Control and byte tokens are not among them.
    tokens: HashMap<Box<[u8]>, Merge>,
    bytes: [Option<TokenId>; 256],
    unknown: Option<TokenId>,
    /// A text gets a space in front.
    pub space_prefix: bool,
    /// Runs of spaces count as one, and none stand at the ends.
    pub squeeze_spaces: bool,
    /// No token has `▁` after another character, so that words can be merged one by one.
    words_apart: bool,
}

/// The symbol of a character that is no token.
const UNKNOWN: SymbolId = SymbolId::MAX;

impl Rules for Spm {
    fn merge(&self, _: SymbolId, _: SymbolId, bytes: &[u8]) -> Option<Merge> {
        self.tokens.get(bytes).copied()
    }
}

impl Spm {
    /// `tokens` are the text tokens with id and score; `bytes` the byte tokens.
    ///
    /// # Errors
    /// If a score is NaN.
    pub fn new<'a>(
        tokens: impl Iterator<Item = (&'a str, TokenId, f32)>,
        bytes: [Option<TokenId>; 256],
        unknown: Option<TokenId>,
        space_prefix: bool,
        squeeze_spaces: bool,
    ) -> Result<Spm, TokenizeError> {
        let mut map = HashMap::new();
        let mut words_apart = true;
        for (text, id, score) in tokens {
            if score.is_nan() {
                return Err(TokenizeError::invalid(format!("score of token {id}"), "a number", "NaN"));
            }
            words_apart &= !text.trim_start_matches(SPACE).contains(SPACE);
            map.insert(text.as_bytes().into(), Merge { rank: rank(score), into: id });
        }
        Ok(Spm { tokens: map, bytes, unknown, space_prefix, squeeze_spaces, words_apart })
    }

    /// Appends the ids of `text`, with a space in front if `prefix`.
    /// A character without token and bytes is the unknown token, or left out if there is none.
    pub fn encode(&self, text: &str, prefix: bool, ids: &mut Vec<TokenId>) {
        let escaped = self.normalize(text, prefix);
        let mut merger = Merger::default();
        let mut rest = escaped.as_str();
        while !rest.is_empty() {
            let end = if self.words_apart { word_end(rest) } else { rest.len() };
            let (word, after) = rest.split_at(end);
            rest = after;
            let initial = word.char_indices().map(|(at, c)| {
                let symbol = self.tokens.get(&word.as_bytes()[at..at + c.len_utf8()]);
                (symbol.map_or(UNKNOWN, |merge| merge.into), c.len_utf8())
            });
            merger.run(word.as_bytes(), initial, self, |symbol, bytes| {
                if symbol != UNKNOWN {
                    ids.push(symbol);
                    return;
                }
                let bytes = bytes.iter().map(|&byte| self.bytes[byte as usize]);
                if bytes.clone().all(|id| id.is_some()) {
                    ids.extend(bytes.flatten());
                } else {
                    ids.extend(self.unknown);
                }
            });
        }
    }

    /// The text as SentencePiece sees it: spaces squeezed if the model wants that, the prefix put on, and all
    /// spaces written `▁`.
    fn normalize(&self, text: &str, prefix: bool) -> String {
        let squeezed;
        let mut text = text;
        if self.squeeze_spaces {
            squeezed = text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
            text = &squeezed;
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

/// Where the first word of a text ends: before the first `▁` that follows another character.
fn word_end(text: &str) -> usize {
    let spaces = text.len() - text.trim_start_matches(SPACE).len();
    text[spaces..].find(SPACE).map_or(text.len(), |at| spaces + at)
}

/// Scores as merge ranks: the higher the score, the lower the rank. Keeps the order of all finite and infinite
/// floats (flips the sign bit, or all bits of negative numbers, then reverses).
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    !(if bits >> 31 == 1 { !bits } else { bits | 1 << 31 })
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn spm(tokens: &[(&str, f32)], squeeze: bool) -> Spm {
        let mut bytes = [None; 256];
        for (byte, token) in bytes.iter_mut().enumerate() {
            *token = Some(1000 + byte as TokenId);
        }
        let tokens = tokens.iter().enumerate().map(|(id, &(text, score))| (text, id as TokenId, score));
        Spm::new(tokens, bytes, None, true, squeeze).unwrap()
    }

    #[test]
    fn the_best_score_merges_first_and_bytes_fill_gaps() {
        let spm =
            spm(&[("▁", -9.0), ("a", -8.0), ("b", -7.0), ("ab", -1.0), ("▁a", -0.5), ("b▁", -3.0)], false);
        let mut ids = Vec::new();
        spm.encode("ab é", true, &mut ids);
        assert_eq!(ids, [4, 5, 1000 + 0xc3, 1000 + 0xa9]);
    }

    #[test]
    fn spaces_are_squeezed_if_asked() {
        let spm = spm(&[("▁", 0.0), ("a", 0.0)], true);
        let mut ids = Vec::new();
        spm.encode("  a   a ", true, &mut ids);
        assert_eq!(ids, [0, 1, 0, 1]);
        ids.clear();
        spm.encode("  ", true, &mut ids);
        assert!(ids.is_empty());
    }

    #[test]
    fn nan_scores_are_refused() {
        assert!(Spm::new([("a", 0, f32::NAN)].into_iter(), [None; 256], None, true, false).is_err());
    }
}
