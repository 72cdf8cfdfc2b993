//! Prompt lookup: drafts the tokens that followed an earlier occurrence of the sequence's last tokens.
//!
//! Needs no model. It predicts answers well that repeat their prompt (edits, summaries, code) or themselves. Saxena, *Prompt
//! Lookup Decoding* (2023); here the longest of several matches is used, and its length determines the confidence.

use crate::TokenId;
use std::collections::HashMap;

/// Shortest match.
const SHORTEST: usize = 2;
/// Longer matches count as this length.
pub(super) const LONGEST: usize = 32;
/// Maximum number of occurrences compared, latest first: bounds the time of a lookup in repetitive text.
const PLACES: usize = 32;
const NONE: u32 = u32::MAX;

/// The positions of each pair of tokens in one sequence. Grows with it.
#[derive(Clone, Debug, Default)]
pub struct Ngram {
    /// The end of each pair's latest occurrence.
    latest: HashMap<[TokenId; SHORTEST], u32>,
    /// By a pair's end: where the same pair ended before, or [`NONE`]. `[tokens + 1]`.
    before: Vec<u32>,
}

impl Ngram {
    /// Appends to `out` up to `most` tokens that may follow `tokens` (prompt and answer), and returns the length of the match;
    /// 0: no match. `tokens` must begin with those of the previous call.
    pub fn propose(&mut self, tokens: &[TokenId], most: usize, out: &mut Vec<TokenId>) -> usize {
        self.index(tokens);
        let end = tokens.len();
        let mut place = self.before.get(end).copied().unwrap_or(NONE);
        let (mut best, mut from) = (0, 0);
        for _ in 0..PLACES {
            if place == NONE || best >= LONGEST {
                break;
            }
            let matched = common_suffix(&tokens[..place as usize], tokens);
            if matched > best {
                (best, from) = (matched, place as usize);
            }
            place = self.before[place as usize];
        }
        if best > 0 {
            let first = out.len();
            // If the match reaches the end, the text repeats itself, and so does the guess.
            for i in 0..most {
                let token = tokens.get(from + i).copied().unwrap_or_else(|| out[first + from + i - end]);
                out.push(token);
            }
        }
        best
    }

    fn index(&mut self, tokens: &[TokenId]) {
        for end in self.before.len()..=tokens.len() {
            let pair = end.checked_sub(SHORTEST).map(|start| [tokens[start], tokens[start + 1]]);
            let before = pair.and_then(|pair| self.latest.insert(pair, end as u32));
            self.before.push(before.unwrap_or(NONE));
        }
    }
}

/// How many tokens two texts have in common at their ends, at most [`LONGEST`].
fn common_suffix(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().rev().zip(b.iter().rev()).take(LONGEST).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn propose(tokens: &[TokenId], most: usize) -> (usize, Vec<TokenId>) {
        let mut out = Vec::new();
        (Ngram::default().propose(tokens, most, &mut out), out)
    }

    #[test]
    fn the_continuation_of_the_longest_match_is_proposed() {
        // 7 8 occurred twice before: after 1, and after 5 as it does now.
        assert_eq!(propose(&[5, 7, 8, 9, 10, 1, 7, 8, 2, 5, 7, 8], 3), (3, vec![9, 10, 1]));
        // Among equal matches the latest counts.
        assert_eq!(propose(&[1, 2, 3, 1, 2, 4, 1, 2], 1), (2, vec![4]));
    }

    #[test]
    fn a_repeating_text_is_continued() {
        assert_eq!(propose(&[1, 2, 3, 1, 2, 3, 1, 2], 7), (5, vec![3, 1, 2, 3, 1, 2, 3]));
        assert_eq!(propose(&[4; 100], 5), (LONGEST, vec![4; 5]));
    }

    #[test]
    fn nothing_is_proposed_without_a_match() {
        for tokens in [&[][..], &[1], &[1, 2], &[1, 2, 3, 2, 1]] {
            assert_eq!(propose(tokens, 4), (0, vec![]));
        }
    }

    proptest! {
        /// The index finds the longest of all matches, whether tokens are added one by one or all at once.
        #[test]
        fn it_finds_the_longest_match(tokens in prop::collection::vec(0u32..4, 2..40)) {
            let mut grown = Ngram::default();
            for end in 0..tokens.len() {
                grown.propose(&tokens[..end], 3, &mut Vec::new());
            }
            let mut out = Vec::new();
            let length = grown.propose(&tokens, 3, &mut out);
            prop_assert_eq!((length, out), propose(&tokens, 3));
            let all = (1..tokens.len()).map(|end| common_suffix(&tokens[..end], &tokens));
            let longest = all.filter(|&n| n >= SHORTEST).max().unwrap_or(0);
            prop_assert_eq!(length, longest);
        }
    }
}
