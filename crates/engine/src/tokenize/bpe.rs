//! Byte-level BPE: every byte is a symbol, and merges stay within words. Pairs are ranked by a list of merges (GGUF, Hugging
//! Face) or by the id of the merged token (tiktoken's files, such as Mistral's tekken).

use super::bounds::{Least, Watch};
use super::error::TokenizeError;
use super::merge::{Merge, Merger, Rules, SymbolId};
use super::pretokenize::PreTokenizer;
use crate::TokenId;
use std::collections::HashMap;

/// A byte-level BPE encoder.
pub(crate) struct Bpe {
    pre: PreTokenizer,
    /// Text tokens by their bytes, without control tokens.
    tokens: HashMap<Box<[u8]>, TokenId>,
    /// The symbol of each byte.
    bytes: [SymbolId; 256],
    /// Symbols from this number on are not tokens: intermediate results of merges, and bytes that the vocabulary lacks.
    first_extra: SymbolId,
    ranking: Ranking,
    /// Whether a word that is itself a token becomes that token, even if merges would not produce it.
    whole_words: bool,
}

enum Ranking {
    /// By listed pairs of symbols.
    Pairs(HashMap<(SymbolId, SymbolId), Merge>),
    /// By the id of the token that a pair becomes.
    Tokens,
}

impl Rules for Bpe {
    fn merge(&self, left: SymbolId, right: SymbolId, bytes: &[u8]) -> Option<Merge> {
        match &self.ranking {
            Ranking::Pairs(pairs) => pairs.get(&(left, right)).copied(),
            Ranking::Tokens => self.tokens.get(bytes).map(|&id| Merge { rank: id, into: id }),
        }
    }
}

impl Bpe {
    /// `tokens` are the text tokens; ids are below `vocab_size`. `merges` are pairs of byte strings, best first;
    /// without merges, tokens are ranked by id.
    pub fn new(
        pre: PreTokenizer,
        tokens: HashMap<Box<[u8]>, TokenId>,
        vocab_size: usize,
        merges: Option<Vec<(Vec<u8>, Vec<u8>)>>,
        whole_words: bool,
    ) -> Bpe {
        let first_extra = vocab_size as SymbolId;
        let mut extra: HashMap<Box<[u8]>, SymbolId> = HashMap::new();
        let mut symbol = |bytes: &[u8]| match tokens.get(bytes) {
            Some(&id) => id,
            None => {
                let next = first_extra + extra.len() as SymbolId;
                *extra.entry(bytes.into()).or_insert(next)
            }
        };
        let bytes = std::array::from_fn(|byte| symbol(&[byte as u8]));
        let ranking = match merges {
            None => Ranking::Tokens,
            Some(merges) => {
                let mut pairs = HashMap::with_capacity(merges.len());
                for (rank, (left, right)) in merges.into_iter().enumerate() {
                    let into = symbol(&[left.as_slice(), &right].concat());
                    let merge = Merge { rank: rank as u32, into };
                    pairs.entry((symbol(&left), symbol(&right))).or_insert(merge);
                }
                Ranking::Pairs(pairs)
            }
        };
        Bpe { pre, tokens, bytes, first_extra, ranking, whole_words }
    }

    /// Appends the ids of `text`. Bytes that the vocabulary lacks are skipped, as in llama.cpp and the crate
    /// `tokenizers` (SmolLM2's vocabulary lacks 21, such as 0x04).
    ///
    /// # Errors
    /// If `watch` ends it.
    pub fn encode(&self, text: &str, watch: &Watch<'_>, ids: &mut Vec<TokenId>) -> Result<(), TokenizeError> {
        let mut merger = Merger::default();
        self.pre.split(text, |word| {
            watch.step()?;
            let word = word.as_bytes();
            if self.whole_words
                && let Some(&id) = self.tokens.get(word)
            {
                ids.push(id);
                return Ok(());
            }
            let initial = word.iter().map(|&byte| (self.bytes[byte as usize], 1));
            merger.run(word, initial, self, watch, |symbol, bytes| {
                if symbol < self.first_extra {
                    ids.push(symbol);
                } else {
                    let symbols = bytes.iter().map(|&byte| self.bytes[byte as usize]);
                    ids.extend(symbols.filter(|&symbol| symbol < self.first_extra));
                }
            })
        })
    }

    /// The lower bound on the tokens of a text, for a vocabulary whose longest token, of any kind, has `longest` bytes.
    pub fn least(&self, longest: usize) -> Least {
        Least::new(longest, std::array::from_fn(|byte| self.bytes[byte] < self.first_extra))
    }
}

/// The 256 characters that byte-level vocabularies use for bytes, in byte order (GPT-2's table): printable Latin-1
/// characters stand for themselves, the others are numbered from U+0100 on.
pub fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => byte as u8 as char,
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    })
}

/// Converts vocabulary text back to bytes.
pub(crate) struct ByteAlphabet(HashMap<char, u8>);

impl ByteAlphabet {
    pub fn new() -> ByteAlphabet {
        ByteAlphabet(byte_alphabet().into_iter().enumerate().map(|(byte, c)| (c, byte as u8)).collect())
    }

    /// The bytes that `text` stands for; `None` if it contains a character outside the alphabet.
    pub fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|c| self.0.get(&c).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::Bounds;

    #[test]
    fn the_alphabet_writes_every_byte_once() {
        let alphabet = ByteAlphabet::new();
        assert_eq!(alphabet.0.len(), 256);
        assert_eq!(alphabet.bytes("ĠtheĊ").unwrap(), b" the\n");
        assert_eq!(alphabet.bytes("a b"), None);
    }

    fn bpe(tokens: &[&str], merges: &[(&str, &str)]) -> Bpe {
        let ids = tokens.iter().enumerate().map(|(id, t)| (t.as_bytes().into(), id as TokenId)).collect();
        let merges = merges.iter().map(|(a, b)| (a.as_bytes().to_vec(), b.as_bytes().to_vec())).collect();
        Bpe::new(PreTokenizer::gpt2().unwrap(), ids, tokens.len(), Some(merges), false)
    }

    #[test]
    fn the_best_ranked_pair_merges_first_and_leftmost() {
        let bpe = bpe(&["a", "b", "ab", "aab", "aa"], &[("a", "b"), ("a", "ab"), ("a", "a")]);
        let mut ids = Vec::new();
        bpe.encode("aaaab", &Watch::new(&Bounds::NONE), &mut ids).unwrap();
        assert_eq!(ids, [4, 3]);
    }

    #[test]
    fn steps_that_are_no_tokens_fall_apart_into_bytes() {
        let bpe = bpe(&["a", "b", "c", "abc"], &[("a", "b"), ("ab", "c")]);
        let mut ids = Vec::new();
        bpe.encode("abcab", &Watch::new(&Bounds::NONE), &mut ids).unwrap();
        assert_eq!(ids, [3, 0, 1]);
        ids.clear();
        bpe.encode("a c", &Watch::new(&Bounds::NONE), &mut ids).unwrap();
        assert_eq!(ids, [0, 2], "there is no token for a space");
    }
}
