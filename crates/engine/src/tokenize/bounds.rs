//! [`Bounds`]: what ends an encoding before it is complete, so that a long text can't hold a thread for long.

use super::error::TokenizeError;
use std::cell::Cell;

/// What ends an encoding before it is complete.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    /// Called every thousand steps or so (a step is a character, a word or a merge); if it returns true, encoding ends with
    /// [`TokenizeError::Abandoned`]. An algorithm of another library is interrupted between words at best.
    pub abandoned: &'a dyn Fn() -> bool,
    /// A text that certainly has more tokens than this is refused before it is encoded, with [`TokenizeError::TooManyTokens`].
    /// Whether that is certain depends on the text's length and on the vocabulary's longest token, so the result may still have
    /// more tokens.
    pub most: usize,
}

impl Bounds<'_> {
    /// No bounds.
    pub const NONE: Bounds<'static> = Bounds { abandoned: &|| false, most: usize::MAX };
}

impl std::fmt::Debug for Bounds<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bounds").field("most", &self.most).finish_non_exhaustive()
    }
}

/// Steps between two calls of [`Bounds::abandoned`]: some ten microseconds.
const STEPS: u32 = 1024;

/// Counts the steps of one encoding.
pub(super) struct Watch<'a> {
    abandoned: &'a dyn Fn() -> bool,
    /// Steps until the next call.
    left: Cell<u32>,
}

impl<'a> Watch<'a> {
    pub fn new(bounds: &Bounds<'a>) -> Watch<'a> {
        Watch { abandoned: bounds.abandoned, left: Cell::new(STEPS) }
    }

    /// Counts a step.
    ///
    /// # Errors
    /// [`TokenizeError::Abandoned`].
    #[inline]
    pub fn step(&self) -> Result<(), TokenizeError> {
        match self.left.get() {
            0 => self.now(),
            left => {
                self.left.set(left - 1);
                Ok(())
            }
        }
    }

    /// Asks now, before or after a part that takes long.
    ///
    /// # Errors
    /// [`TokenizeError::Abandoned`].
    pub fn now(&self) -> Result<(), TokenizeError> {
        self.left.set(STEPS);
        if (self.abandoned)() { Err(TokenizeError::Abandoned) } else { Ok(()) }
    }
}

/// A lower bound on the number of tokens of a text.
#[derive(Clone)]
pub(super) struct Least {
    /// No token stands for more bytes of a text. At least 1.
    longest: usize,
    /// Which bytes of a text are always part of some token; others may be left out.
    kept: Box<[bool; 256]>,
}

impl Least {
    /// For an algorithm that leaves out no byte of those in `kept`, and whose tokens stand for at most `longest` bytes each.
    pub fn new(longest: usize, kept: [bool; 256]) -> Least {
        Least { longest: longest.max(1), kept: Box::new(kept) }
    }

    /// Refuses a text that has more tokens than `most`.
    ///
    /// # Errors
    /// [`TokenizeError::TooManyTokens`].
    pub fn check(&self, text: &str, most: usize) -> Result<(), TokenizeError> {
        // Most texts are short enough even if each byte counts.
        if text.len().div_ceil(self.longest) <= most {
            return Ok(());
        }
        let kept = text.bytes().filter(|&byte| self.kept[byte as usize]).count();
        match kept.div_ceil(self.longest) {
            least if least > most => Err(TokenizeError::TooManyTokens { bytes: text.len(), least, most }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_refused_only_if_its_bytes_can_not_fit() {
        let mut kept = [true; 256];
        kept[b' ' as usize] = false;
        let least = Least::new(4, kept);
        assert!(least.check("aaaa aaaa aaaa", 3).is_ok(), "12 bytes in 3 tokens");
        assert!(least.check(&" ".repeat(1000), 0).is_ok(), "spaces may be left out");
        let error = least.check("aaaa aaaa aaaa a", 3).unwrap_err();
        assert!(matches!(error, TokenizeError::TooManyTokens { bytes: 16, least: 4, most: 3 }), "{error}");
    }
}
