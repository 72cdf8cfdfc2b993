//! SentencePiece's Unigram: of all ways to cut a text into tokens, the one whose scores have the greatest sum (Viterbi). A
//! character without a token is written as bytes if the vocabulary has them, else it is the unknown token, one for a run.

use super::TokenizeError;
use super::bounds::{Least, Watch};
use super::charsmap::Normalizer;
use super::spm::{SPACE, byte_token, not_a_byte};
use super::vocab::Kind;
use crate::TokenId;
use std::collections::HashMap;

/// How much worse than the worst token an unknown character is, as in SentencePiece.
const UNKNOWN_PENALTY: f32 = 10.0;

/// A SentencePiece Unigram encoder.
pub(crate) struct Unigram {
    /// Text tokens and their scores by their text. Control and byte tokens are not among them.
    tokens: HashMap<Box<[u8]>, (TokenId, f32)>,
    /// The longest of them, in bytes.
    longest: usize,
    bytes: [Option<TokenId>; 256],
    unknown: Option<TokenId>,
    unknown_score: f32,
    normalizer: Normalizer,
    space_prefix: bool,
}

/// Pieces of a text, each with its token; `None` for a character that has none.
type Cut<'a> = Vec<(&'a str, Option<TokenId>)>;

/// Each token's bytes and kind.
type Tokens = Vec<(Vec<u8>, Kind)>;

impl Unigram {
    /// From the vocabulary's pieces: texts as the file has them (`▁` for spaces), kinds and scores, all of one length. Returns
    /// the tokens' bytes too.
    ///
    /// # Errors
    /// If a score is not finite, or a byte token is not called `<0x00>` to `<0xFF>`.
    pub fn new(
        texts: &[String],
        kinds: &[Kind],
        scores: &[f32],
        unknown: Option<TokenId>,
        space_prefix: bool,
        normalizer: Normalizer,
    ) -> Result<(Tokens, Unigram), TokenizeError> {
        let normal =
            || kinds.iter().zip(scores).filter(|(kind, _)| **kind == Kind::Normal).map(|(_, score)| *score);
        let (least, most) = normal().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), score| {
            (least.min(score), most.max(score))
        });
        let mut tokens: HashMap<Box<[u8]>, _> = HashMap::with_capacity(texts.len());
        let mut bytes = [None; 256];
        let mut out = Vec::with_capacity(texts.len());
        for (id, ((text, &kind), &score)) in texts.iter().zip(kinds).zip(scores).enumerate() {
            let token = id as TokenId;
            out.push(match kind {
                Kind::Normal | Kind::Unused | Kind::UserDefined => {
                    (text.replace(SPACE, " ").into_bytes(), kind)
                }
                Kind::Control | Kind::Unknown => (text.as_bytes().to_vec(), kind),
                Kind::Byte => {
                    let byte = byte_token(text).ok_or_else(|| not_a_byte(id, text))?;
                    bytes[byte as usize].get_or_insert(token);
                    (vec![byte], kind)
                }
            });
            if text.is_empty() || !matches!(kind, Kind::Normal | Kind::UserDefined) {
                continue;
            }
            if !score.is_finite() {
                let what = format!("score of token {id}");
                return Err(TokenizeError::invalid(what, "a finite number", score.to_string()));
            }
            // User-defined tokens win over any cut of their text.
            let score = if kind == Kind::UserDefined { text.len() as f32 * most - 0.1 } else { score };
            tokens.insert(text.as_bytes().into(), (token, score));
        }
        let longest = tokens.keys().map(|text| text.len()).max().unwrap_or(0);
        let unknown_score = if least.is_finite() { least - UNKNOWN_PENALTY } else { -UNKNOWN_PENALTY };
        Ok((out, Unigram { tokens, longest, bytes, unknown, unknown_score, normalizer, space_prefix }))
    }

    /// Whether a text gets a space in front.
    pub fn space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Appends the ids of `text`, with a space in front if `prefix`.
    ///
    /// # Errors
    /// If `watch` ends it, or the normalised text is longer than [`super::MAX_TEXT`].
    pub fn encode(
        &self,
        text: &str,
        prefix: bool,
        watch: &Watch<'_>,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TokenizeError> {
        let text = self.normalizer.normalize(text, prefix, watch)?;
        let mut after_unknown = false;
        for (piece, id) in self.best(&text, watch)? {
            if let Some(id) = id {
                ids.push(id);
                after_unknown = false;
                continue;
            }
            let bytes = piece.bytes().map(|byte| self.bytes[byte as usize]);
            if bytes.clone().all(|id| id.is_some()) {
                ids.extend(bytes.flatten());
            } else if !after_unknown {
                ids.extend(self.unknown);
                after_unknown = true;
            }
        }
        Ok(())
    }

    /// The lower bound on the tokens of a text; `None` if a token may stand for any number of bytes. `longest` is as in
    /// [`super::spm::Spm::least`].
    pub fn least(&self, longest: usize) -> Option<Least> {
        let plain = self.normalizer.charsmap.is_none() && !self.normalizer.squeeze_spaces;
        let bytes = self.bytes.iter().all(Option::is_some);
        (plain && bytes).then(|| Least::new(longest, [true; 256]))
    }

    /// The best cut of a text.
    fn best<'a>(&self, text: &'a str, watch: &Watch<'_>) -> Result<Cut<'a>, TokenizeError> {
        /// The best way to a position: its score, where its last piece begins, and that piece's token.
        #[derive(Clone, Copy)]
        struct Way {
            score: f32,
            start: usize,
            token: Option<TokenId>,
        }
        let mut ways: Vec<Option<Way>> = vec![None; text.len() + 1];
        ways[0] = Some(Way { score: 0.0, start: 0, token: None });
        for (start, first) in text.char_indices() {
            watch.step()?;
            // Each character has at least the unknown token, so that every one is reached.
            let Some(Way { score: before, .. }) = ways[start] else { continue };
            let mut offer = |end: usize, score: f32, token: Option<TokenId>| {
                let way = &mut ways[end];
                if way.is_none_or(|way| before + score > way.score) {
                    *way = Some(Way { score: before + score, start, token });
                }
            };
            let mut single = false;
            let most = (start + self.longest).min(text.len());
            let ends = text[start..].char_indices().map(|(at, c)| start + at + c.len_utf8());
            for end in ends.take_while(|&end| end <= most) {
                watch.step()?;
                if let Some(&(id, score)) = self.tokens.get(&text.as_bytes()[start..end]) {
                    offer(end, score, Some(id));
                    single |= end == start + first.len_utf8();
                }
            }
            if !single {
                offer(start + first.len_utf8(), self.unknown_score, None);
            }
        }
        let mut pieces = Vec::new();
        let mut end = text.len();
        while let Some(way) = ways[end].filter(|_| end > 0) {
            pieces.push((&text[way.start..end], way.token));
            end = way.start;
        }
        pieces.reverse();
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::Bounds;

    fn unigram(tokens: &[(&str, Kind, f32)]) -> Unigram {
        let texts: Vec<_> = tokens.iter().map(|(text, ..)| (*text).to_owned()).collect();
        let kinds: Vec<_> = tokens.iter().map(|(_, kind, _)| *kind).collect();
        let scores: Vec<_> = tokens.iter().map(|(.., score)| *score).collect();
        Unigram::new(&texts, &kinds, &scores, Some(0), true, Normalizer::default()).unwrap().1
    }

    #[test]
    fn the_best_sum_wins_and_unknown_runs_are_one_token() {
        let unigram = unigram(&[
            ("<unk>", Kind::Unknown, 0.0),
            ("▁", Kind::Normal, -2.0),
            ("a", Kind::Normal, -3.0),
            ("ab", Kind::Normal, -5.5),
            ("b", Kind::Normal, -3.0),
            ("▁ab", Kind::Normal, -9.0),
            ("[x]", Kind::UserDefined, 0.0),
        ]);
        let encode = |text: &str| {
            let mut ids = Vec::new();
            unigram.encode(text, true, &Watch::new(&Bounds::NONE), &mut ids).unwrap();
            ids
        };
        assert_eq!(encode("ab"), [1, 3]);
        assert_eq!(encode("aéüb"), [1, 2, 0, 4]);
        assert_eq!(encode("a[x]"), [1, 2, 6]);
        assert!(encode("").is_empty());
    }

    #[test]
    fn scores_must_be_finite() {
        let texts = ["a".to_owned()];
        for score in [f32::NAN, f32::INFINITY] {
            assert!(
                Unigram::new(&texts, &[Kind::Normal], &[score], None, true, Normalizer::default()).is_err()
            );
        }
    }
}
