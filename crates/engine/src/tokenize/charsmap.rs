//! SentencePiece's normaliser: a precompiled map of character sequences, then its rules for spaces.
//!
//! The map is a double-array trie (units of 32 bits, as Darts-clone lays them out) and the texts that its values point to. Rules
//! as in SentencePiece's `normalizer.cc`.

use super::TokenizeError;
use super::bounds::Watch;
use super::error::MAX_TEXT;
use super::spm::SPACE;

/// A precompiled map of character sequences to their normal forms.
pub(crate) struct CharsMap {
    /// Units of the trie. `[units]`
    trie: Vec<u32>,
    /// Normal forms, each ended by a zero byte.
    texts: Vec<u8>,
}

/// How a text is normalised before it is cut into tokens.
#[derive(Default)]
pub(crate) struct Normalizer {
    /// `None`: characters stay as they are.
    pub charsmap: Option<CharsMap>,
    /// Runs of spaces count as one, and none stand at the ends.
    pub squeeze_spaces: bool,
}

impl CharsMap {
    /// From the bytes of a model file: the trie's size in bytes (`u32`, little-endian), the trie, the texts. `None` if empty.
    ///
    /// # Errors
    /// If the size does not fit the bytes.
    pub fn read(bytes: &[u8]) -> Result<Option<CharsMap>, TokenizeError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let wrong = |found: String| {
            TokenizeError::invalid(
                "precompiled character map",
                "the size of a trie and a trie of that size",
                found,
            )
        };
        let (head, rest) =
            bytes.split_first_chunk::<4>().ok_or_else(|| wrong(format!("{} bytes", bytes.len())))?;
        let size = u32::from_le_bytes(*head) as usize;
        if size == 0 || !size.is_multiple_of(4) || size > rest.len() {
            return Err(wrong(format!("a size of {size} and {} bytes", rest.len())));
        }
        let (trie, texts) = rest.split_at(size);
        let unit = |unit: &[u8]| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]);
        Ok(Some(CharsMap { trie: trie.chunks_exact(4).map(unit).collect(), texts: texts.to_vec() }))
    }

    /// The longest sequence at the beginning of a text that has a normal form: its length in bytes, and that form.
    fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let unit = |at: usize| self.trie.get(at).copied();
        let mut found = None;
        let mut at = offset(unit(0)?);
        for (length, &byte) in text.iter().enumerate() {
            at ^= byte as usize;
            let Some(node) = unit(at) else { break };
            // A leaf's label has the highest bit set.
            if node & ((1 << 31) | 0xff) != u32::from(byte) {
                break;
            }
            at ^= offset(node);
            if node & (1 << 8) != 0 {
                found = unit(at).map(|leaf| (length + 1, (leaf & 0x7fff_ffff) as usize));
            }
        }
        let (length, start) = found?;
        let rest = self.texts.get(start..)?;
        let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
        // What is no UTF-8 is no normal form.
        Some((length, std::str::from_utf8(&rest[..end]).ok()?))
    }
}

impl Normalizer {
    /// The text as the model's vocabulary writes it: normal forms, a space in front if `prefix`, and all spaces as `▁`.
    ///
    /// # Errors
    /// If `watch` ends it, or the result is longer than [`MAX_TEXT`].
    pub fn normalize(&self, text: &str, prefix: bool, watch: &Watch<'_>) -> Result<String, TokenizeError> {
        let mut out = String::with_capacity(text.len() + text.len() / 4 + SPACE.len());
        let mut rest = text;
        if self.squeeze_spaces {
            while let Some((" ", after)) = self.next(rest) {
                watch.step()?;
                rest = after;
            }
        }
        if prefix && !rest.is_empty() {
            out.push_str(SPACE);
        }
        // Spaces that follow a space are left out.
        let mut after_space = self.squeeze_spaces;
        while let Some((form, after)) = self.next(rest) {
            watch.step()?;
            if out.len() > MAX_TEXT {
                return Err(TokenizeError::TextTooLong { bytes: out.len() });
            }
            rest = after;
            let form = if after_space { form.trim_start_matches(' ') } else { form };
            if !form.is_empty() {
                for (i, part) in form.split(' ').enumerate() {
                    if i > 0 {
                        out.push_str(SPACE);
                    }
                    out.push_str(part);
                }
                after_space = self.squeeze_spaces && form.ends_with(' ');
            }
        }
        if self.squeeze_spaces {
            // A `▁` of the text can't be told from a space.
            out.truncate(out.trim_end_matches(SPACE).len());
        }
        Ok(out)
    }

    /// The first normal form of a text, and what follows; `None` at its end.
    fn next<'a>(&'a self, text: &'a str) -> Option<(&'a str, &'a str)> {
        let first = text.chars().next()?;
        let mapped = self.charsmap.as_ref().and_then(|map| map.longest(text.as_bytes()));
        match mapped.filter(|(length, _)| text.is_char_boundary(*length)) {
            Some((length, form)) => Some((form, &text[length..])),
            None => Some(text.split_at(first.len_utf8())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::Bounds;

    #[test]
    fn spaces_follow_the_options() {
        let (plain, watch) = (Normalizer::default(), Watch::new(&Bounds::NONE));
        assert_eq!(plain.normalize(" a  b ", true, &watch).unwrap(), "▁▁a▁▁b▁");
        let squeezing = Normalizer { squeeze_spaces: true, ..Normalizer::default() };
        assert_eq!(squeezing.normalize("  a  b ", true, &watch).unwrap(), "▁a▁b");
        assert_eq!(
            (squeezing.normalize("  ", true, &watch).unwrap(), plain.normalize("", true, &watch).unwrap()),
            (String::new(), String::new())
        );
    }

    #[test]
    fn damaged_maps_are_refused_or_map_nothing() {
        for bytes in [&[1, 0][..], &[8, 0, 0, 0, 1, 2, 3, 4], &[3, 0, 0, 0, 1, 2, 3], &[0, 0, 0, 0]] {
            assert!(CharsMap::read(bytes).is_err(), "{bytes:?}");
        }
        assert!(CharsMap::read(&[]).unwrap().is_none());
        for seed in 0..200_u32 {
            let mut bytes = 64_u32.to_le_bytes().to_vec();
            bytes.extend(
                (0..80).map(|i: u32| (seed.wrapping_mul(2_654_435_761).wrapping_add(i * 40_503) >> 7) as u8),
            );
            let charsmap = CharsMap::read(&bytes).unwrap();
            let normalizer = Normalizer { charsmap, squeeze_spaces: true };
            normalizer.normalize("wind é \u{1f32c}", true, &Watch::new(&Bounds::NONE)).unwrap();
        }
    }
}
