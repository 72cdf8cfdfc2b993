//! The vocabulary: each token's bytes and kind, and the search for special tokens in a text. All algorithms use it.

use super::TokenizeError;
use crate::TokenId;
use aho_corasick::{AhoCorasick, MatchKind};
use std::collections::{HashMap, HashSet};

/// The kind of a token: SentencePiece's types, which GGUF adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text.
    Normal,
    /// The token for text that is not in the vocabulary.
    Unknown,
    /// A control token (`<s>`, `[INST]`), never encoded from plain text.
    Control,
    /// Text that is always encoded as one token.
    UserDefined,
    /// Reserved; treated as text.
    Unused,
    /// One byte of a character that is not in the vocabulary.
    Byte,
}

/// A piece of text between special tokens, or such a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'a> {
    Text(&'a str),
    Token(TokenId),
}

/// All tokens of a model.
pub(crate) struct Vocab {
    /// The bytes of all tokens, in order.
    bytes: Vec<u8>,
    /// Where each token's bytes end. `[tokens]`
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    /// Control, unknown and user-defined tokens, by their bytes.
    special: HashMap<Box<[u8]>, TokenId>,
    /// All tokens that split a text into fragments.
    match_all: Option<Matcher>,
    match_user_defined: Option<Matcher>,
    /// See [`VocabBuilder::user_defined_apart`].
    user_defined_apart: bool,
    pub bos: Option<TokenId>,
    pub eos: Option<TokenId>,
    pub adds_bos: bool,
    /// The ids in ascending order.
    pub end_tokens: Vec<TokenId>,
    /// See [`VocabBuilder::eats_space`].
    eats_space: HashSet<TokenId>,
}

/// The properties of a file's tokens, from which a [`Vocab`] is built.
#[derive(Default)]
pub(crate) struct VocabBuilder {
    pub tokens: Vec<(Vec<u8>, Kind)>,
    pub bos: Option<TokenId>,
    pub eos: Option<TokenId>,
    pub adds_bos: bool,
    /// Special tokens that take the white space behind them along (Phi-3).
    pub eats_space: HashSet<TokenId>,
    /// End tokens that the file names, besides EOS; [`END_NAMES`] are found by name.
    pub end_tokens: Vec<TokenId>,
    /// Whether user-defined tokens split a text into fragments, as control tokens do. SentencePiece itself finds them
    /// within a fragment, after adding the space in front.
    pub user_defined_apart: bool,
}

/// Finds tokens in a text.
pub(crate) struct Matcher {
    automaton: AhoCorasick,
    ids: Vec<TokenId>,
}

/// Names of tokens that end a generation whatever the file says about them; from published models, as in llama.cpp.
const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
    "<｜end▁of▁sentence｜>",
    // Fill-in-the-middle tokens: padding, and the start of another file or repository.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

impl VocabBuilder {
    /// Checks ids and builds the matchers.
    pub fn build(mut self) -> Result<Vocab, TokenizeError> {
        let count = self.tokens.len();
        if count == 0 {
            return Err(TokenizeError::invalid("vocabulary", "at least one token", "none"));
        }
        for (what, id) in [("bos token", self.bos), ("eos token", self.eos)]
            .into_iter()
            .chain(self.end_tokens.iter().map(|&id| ("end token", Some(id))))
        {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(TokenizeError::invalid(what, format!("an id below {count}"), id.to_string()));
            }
        }
        self.find_end_tokens();

        let total: usize = self.tokens.iter().map(|(bytes, _)| bytes.len()).sum();
        if total > u32::MAX as usize || count > u32::MAX as usize {
            return Err(TokenizeError::invalid(
                "vocabulary",
                "under 4 GiB of text",
                format!("{total} bytes"),
            ));
        }
        let mut bytes = Vec::with_capacity(total);
        let mut ends = Vec::with_capacity(count);
        let mut kinds = Vec::with_capacity(count);
        let mut special = HashMap::new();
        let (mut all, mut user_defined) = (Vec::new(), Vec::new());
        for (id, (token, kind)) in self.tokens.into_iter().enumerate() {
            let id = id as TokenId;
            bytes.extend_from_slice(&token);
            ends.push(bytes.len() as u32);
            kinds.push(kind);
            let matched = matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined);
            if matched && !token.is_empty() {
                let token = token.into_boxed_slice();
                // If two special tokens have the same name, the first is used.
                special.entry(token.clone()).or_insert(id);
                if kind == Kind::UserDefined {
                    user_defined.push((token.clone(), id));
                }
                if kind != Kind::UserDefined || self.user_defined_apart {
                    all.push((token, id));
                }
            }
        }
        Ok(Vocab {
            bytes,
            ends,
            kinds,
            special,
            match_user_defined: if self.user_defined_apart { Matcher::new(user_defined)? } else { None },
            match_all: Matcher::new(all)?,
            user_defined_apart: self.user_defined_apart,
            bos: self.bos,
            eos: self.eos,
            adds_bos: self.adds_bos,
            end_tokens: self.end_tokens,
            eats_space: self.eats_space,
        })
    }

    /// Adds EOS and the tokens with well-known names to the end tokens. They count as control tokens even if the file
    /// does not mark them so.
    fn find_end_tokens(&mut self) {
        self.end_tokens.extend(self.eos);
        for (id, (bytes, kind)) in self.tokens.iter_mut().enumerate() {
            if END_NAMES.iter().any(|name| name.as_bytes() == bytes.as_slice()) {
                *kind = Kind::Control;
                self.end_tokens.push(id as TokenId);
            }
        }
        // In models with these three names, `<|end|>` ends a part of a message, not the message.
        let named = |name: &str| {
            let find = |&&id: &&TokenId| self.tokens[id as usize].0 == name.as_bytes();
            self.end_tokens.iter().find(find).copied()
        };
        if let (Some(end), Some(_), Some(_)) = (named("<|end|>"), named("<|return|>"), named("<|call|>")) {
            self.end_tokens.retain(|&id| id != end);
        }
        self.end_tokens.sort_unstable();
        self.end_tokens.dedup();
    }
}

/// Maximum length of a special token, in bytes; real ones have a few dozen.
const MAX_SPECIAL: usize = 1024;
/// Maximum length of all special tokens together: the automaton that finds them takes tens of bytes per byte.
const MAX_SPECIALS: usize = 4 << 20;

impl Matcher {
    /// Splits a text at the tokens. The leftmost match wins; of several there, the longest.
    pub fn cut<'a>(&self, text: &'a str) -> Vec<Fragment<'a>> {
        self.cut_but(text, |_, _| false)
    }

    /// As [`Matcher::cut`]; `plain` says which byte ranges are text even if they look like tokens.
    pub fn cut_but<'a>(&self, text: &'a str, plain: impl Fn(usize, usize) -> bool) -> Vec<Fragment<'a>> {
        let mut fragments = Vec::new();
        let mut rest = 0;
        for found in self.automaton.find_iter(text).filter(|found| !plain(found.start(), found.end())) {
            // A token that is not valid UTF-8 could match inside a character; such a match is ignored.
            let (Some(before), true) = (text.get(rest..found.start()), text.is_char_boundary(found.end()))
            else {
                continue;
            };
            if !before.is_empty() {
                fragments.push(Fragment::Text(before));
            }
            fragments.push(Fragment::Token(self.ids[found.pattern().as_usize()]));
            rest = found.end();
        }
        if rest < text.len() {
            fragments.push(Fragment::Text(&text[rest..]));
        }
        fragments
    }

    /// `None` if there are no tokens to find.
    pub fn new(tokens: Vec<(Box<[u8]>, TokenId)>) -> Result<Option<Matcher>, TokenizeError> {
        if tokens.is_empty() {
            return Ok(None);
        }
        if let Some((token, id)) = tokens.iter().find(|(token, _)| token.len() > MAX_SPECIAL) {
            let (what, found) = (format!("special token {id}"), format!("{} bytes", token.len()));
            return Err(TokenizeError::invalid(what, format!("at most {MAX_SPECIAL} bytes"), found));
        }
        let total: usize = tokens.iter().map(|(token, _)| token.len()).sum();
        if total > MAX_SPECIALS {
            let expected = format!("at most {MAX_SPECIALS} bytes in all");
            return Err(TokenizeError::invalid("special tokens", expected, format!("{total} bytes")));
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|(bytes, _)| bytes))
            .map_err(|e| {
                TokenizeError::invalid("special tokens", "a set that can be searched for", e.to_string())
            })?;
        Ok(Some(Matcher { automaton, ids: tokens.into_iter().map(|(_, id)| id).collect() }))
    }
}

impl Vocab {
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The length of the longest token in bytes, at least 1. `spelled`: as SentencePiece spells it, with three bytes for a
    /// space.
    pub fn longest(&self, spelled: bool) -> usize {
        let length = |id| {
            let bytes = self.bytes(id).unwrap_or_default();
            let spaces = bytes.iter().filter(|&&byte| spelled && byte == b' ').count();
            bytes.len() + 2 * spaces
        };
        (0..self.len() as TokenId).map(length).max().unwrap_or(1).max(1)
    }

    /// Whether white space behind some tokens is left out.
    pub fn eats_space(&self) -> bool {
        !self.eats_space.is_empty()
    }

    pub fn bytes(&self, id: TokenId) -> Option<&[u8]> {
        let id = id as usize;
        let end = *self.ends.get(id)? as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] as usize };
        Some(&self.bytes[start..end])
    }

    /// The token that is exactly these bytes; special tokens first.
    pub fn find(&self, bytes: &[u8]) -> Option<TokenId> {
        let scan = || (0..self.len() as TokenId).find(|&id| self.bytes(id) == Some(bytes));
        self.special.get(bytes).copied().or_else(scan)
    }

    pub fn is_special(&self, id: TokenId) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Control | Kind::Unknown))
    }

    /// True for tokens whose bytes are text in which `▁` was replaced by a space.
    pub fn is_text(&self, id: TokenId) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Normal | Kind::Unused))
    }

    /// True if the text after this token is encoded as a separate text, with a space prefix if the model uses one.
    pub fn is_fragment_border(&self, id: TokenId) -> bool {
        match self.kinds.get(id as usize) {
            Some(Kind::Control | Kind::Unknown) => true,
            Some(Kind::UserDefined) => self.user_defined_apart,
            _ => false,
        }
    }

    /// Splits a text at its special tokens: always at user-defined ones, at the others if `parse_special`.
    pub fn fragments<'a>(&self, text: &'a str, parse_special: bool) -> Vec<Fragment<'a>> {
        let matcher = if parse_special { &self.match_all } else { &self.match_user_defined };
        match matcher {
            Some(matcher) => self.without_eaten(matcher.cut(text)),
            None if text.is_empty() => Vec::new(),
            None => vec![Fragment::Text(text)],
        }
    }

    /// Fragments without the white space that special tokens eat.
    fn without_eaten<'a>(&self, mut fragments: Vec<Fragment<'a>>) -> Vec<Fragment<'a>> {
        if self.eats_space.is_empty() {
            return fragments;
        }
        let mut eaten = false;
        for fragment in &mut fragments {
            match fragment {
                Fragment::Token(id) => eaten = self.eats_space.contains(id),
                Fragment::Text(text) if eaten => *text = text.trim_start(),
                Fragment::Text(_) => {}
            }
        }
        fragments.retain(|fragment| *fragment != Fragment::Text(""));
        fragments
    }

    /// Splits a text at its special tokens, except at control tokens with a guard in their bytes or directly after
    /// them. Guards are byte offsets in ascending order.
    pub fn guarded_fragments<'a>(&self, text: &'a str, guards: &[usize]) -> Vec<Fragment<'a>> {
        let plain = |start: usize, end: usize| {
            let at = guards.partition_point(|&guard| guard <= start);
            let broken = guards.get(at).is_some_and(|&guard| guard <= end);
            broken && self.special.get(&text.as_bytes()[start..end]).is_some_and(|&id| self.is_special(id))
        };
        match &self.match_all {
            Some(matcher) => self.without_eaten(matcher.cut_but(text, plain)),
            None => vec![Fragment::Text(text)],
        }
    }

    /// Whether a text contains the name of a control token.
    pub fn names_special(&self, text: &str) -> bool {
        let special =
            |fragment: &Fragment<'_>| matches!(fragment, Fragment::Token(id) if self.is_special(*id));
        self.match_all.as_ref().is_some_and(|matcher| matcher.cut(text).iter().any(special))
    }
}
