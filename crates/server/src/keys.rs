//! API keys, compared in constant time.

use sha2::{Digest as _, Sha256};
use std::fmt;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

/// The accepted API keys. Only their hashes are stored, so that a comparison takes the same time for keys of any
/// length, and no log can show a key.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// Accepts any of these keys. Without keys, no request needs one.
    pub fn new<S: AsRef<str>>(keys: impl IntoIterator<Item = S>) -> Keys {
        Keys(keys.into_iter().map(|key| hash(key.as_ref())).collect())
    }

    /// Whether requests need no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `key` is one of them.
    pub fn accept(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The index of `key`. It is compared with all keys in any case, so the time does not depend on the result.
    pub(crate) fn find(&self, key: &str) -> Option<usize> {
        let given = hash(key);
        let (mut found, mut number) = (Choice::from(0), 0u64);
        for (i, known) in (0u64..).zip(&self.0) {
            let same = known.ct_eq(&given);
            number.conditional_assign(&i, same);
            found |= same;
        }
        bool::from(found).then_some(number as usize)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_is_taken_and_nothing_else() {
        let keys = Keys::new(["first", "second"]);
        assert_eq!((keys.find("first"), keys.find("second")), (Some(0), Some(1)));
        for wrong in ["", "firs", "first ", "firstsecond", "First"] {
            assert!(!keys.accept(wrong), "{wrong:?}");
        }
        assert!(!Keys::default().accept(""));
        assert_eq!(format!("{keys:?}"), "Keys(2)");
    }
}
