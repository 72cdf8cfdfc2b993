//! [`Detokenizer`]: token ids to text, one at a time. Incomplete characters are held back.

use super::tokenizer::Tokenizer;
use crate::TokenId;

/// Turns a stream of token ids into text. Returned text is final.
///
/// A token may end inside a character: its bytes are held back until the character is complete. Invalid bytes become U+FFFD, as
/// in [`String::from_utf8_lossy`]. The results of all pushes and the finish together equal [`Tokenizer::decode`] of all ids.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    /// Bytes of an incomplete character.
    held: Vec<u8>,
    position: Position,
    keep_special: bool,
    /// Control tokens that always appear by name.
    kept: Vec<TokenId>,
}

/// The position of the next token, for the space that SentencePiece puts in front of a text.
#[derive(Clone, Copy, Debug, Default)]
enum Position {
    /// At the start of a text.
    #[default]
    Start,
    /// Right after this token.
    After(TokenId),
}

impl Detokenizer {
    /// For a new text.
    pub fn new() -> Detokenizer {
        Detokenizer::default()
    }

    /// For the continuation of a prompt: a leading space belongs to the text, unless the prompt ends with a control
    /// token, as chat prompts of SentencePiece models do.
    pub fn after(prompt: &[TokenId]) -> Detokenizer {
        let position = prompt.last().map_or(Position::Start, |&id| Position::After(id));
        Detokenizer { position, ..Detokenizer::default() }
    }

    /// Sets whether control tokens appear by name; by default they are omitted.
    pub fn keep_special(self, keep: bool) -> Detokenizer {
        Detokenizer { keep_special: keep, ..self }
    }

    /// Sets control tokens that always appear by name.
    pub fn keep(self, kept: Vec<TokenId>) -> Detokenizer {
        Detokenizer { kept, ..self }
    }

    /// Takes the next token and returns the text that is now final, which may be empty. An id outside the vocabulary is
    /// ignored.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: TokenId) -> String {
        let Some(mut bytes) = tokenizer.token_bytes(id) else { return String::new() };
        let before = match self.position {
            Position::Start => None,
            Position::After(id) => Some(id),
        };
        if tokenizer.is_text(id) && tokenizer.prefixes_space_after(before) {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.position = Position::After(id);
        if self.keep_special || !tokenizer.is_special(id) || self.kept.contains(&id) {
            self.held.extend_from_slice(bytes);
        }
        self.certain()
    }

    /// Ends the text: bytes still held back become U+FFFD. The next push starts a new text.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        self.position = Position::Start;
        text
    }

    /// Removes and returns the held bytes except an incomplete character.
    fn certain(&mut self) -> String {
        let mut text = String::with_capacity(self.held.len());
        let mut unfinished = 0;
        for chunk in self.held.utf8_chunks() {
            text.push_str(chunk.valid());
            unfinished = chunk.invalid().len();
            if unfinished > 0 {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        // The last chunk is incomplete, not invalid, if it is at the end and is the beginning of some character.
        let start = self.held.len() - unfinished;
        if unfinished > 0 && std::str::from_utf8(&self.held[start..]).is_err_and(|e| e.error_len().is_none())
        {
            text.truncate(text.len() - char::REPLACEMENT_CHARACTER.len_utf8());
        } else {
            unfinished = 0;
        }
        self.held.drain(..self.held.len() - unfinished);
        text
    }
}

impl Tokenizer {
    /// The text of a token sequence; invalid UTF-8 becomes U+FFFD.
    ///
    /// It inverts [`Tokenizer::encode`]: the space that SentencePiece puts in front of a text is removed.
    /// With `skip_special`, control tokens are omitted. Ids outside the vocabulary produce no text.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> String {
        let mut detokenizer = Detokenizer::new().keep_special(!skip_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&detokenizer.push(self, id));
        }
        text.push_str(&detokenizer.finish());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::Encode;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    static MOCK: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::mock);

    fn pushes(ids: &[TokenId]) -> Vec<String> {
        let mut detokenizer = Detokenizer::new();
        let mut parts: Vec<_> = ids.iter().map(|&id| detokenizer.push(&MOCK, id)).collect();
        parts.push(detokenizer.finish());
        parts
    }

    /// The mock's id of a byte.
    fn byte(byte: u8) -> TokenId {
        MOCK.token_id("\0").unwrap() + TokenId::from(byte)
    }

    #[test]
    fn a_character_comes_out_whole() {
        let ids: Vec<_> = "é👩".bytes().map(byte).collect();
        assert_eq!(pushes(&ids), ["", "é", "", "", "", "👩", ""]);
    }

    #[test]
    fn bytes_that_cannot_become_a_character_come_out_at_once() {
        assert_eq!(pushes(&[byte(0xff), byte(b'a')]), ["\u{fffd}", "a", ""]);
        assert_eq!(pushes(&[byte(0xe2), byte(b'a')]), ["", "\u{fffd}a", ""]);
        assert_eq!(pushes(&[byte(0xe2), byte(0x82)]), ["", "", "\u{fffd}"]);
    }

    #[test]
    fn control_tokens_are_left_out_unless_wanted() {
        let mock = &*MOCK;
        let ids = mock.encode("<s>the<|im_end|>", Encode { add_bos: false, parse_special: true }).unwrap();
        assert_eq!(mock.decode(&ids, true), "the");
        assert_eq!(mock.decode(&ids, false), "<s>the<|im_end|>");
    }

    proptest! {
        #[test]
        fn pushes_add_up_to_the_whole(ids in prop::collection::vec(0u32..600, 0..40)) {
            let mock = &*MOCK;
            let bytes: Vec<u8> = ids
                .iter()
                .filter(|&&id| !mock.is_special(id))
                .flat_map(|&id| mock.token_bytes(id).unwrap_or_default())
                .copied()
                .collect();
            prop_assert_eq!(pushes(&ids).concat(), String::from_utf8_lossy(&bytes));
        }
    }
}
