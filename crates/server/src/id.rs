//! Ids of requests, answers and tool calls.

use zonda_engine::sample::random_seed;

/// `prefix` and 24 random hexadecimal digits.
pub(crate) fn random(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", random_seed(), random_seed() as u32)
}

/// Nine random letters and digits, the form that Mistral's templates require of a tool call's id.
pub(crate) fn short() -> String {
    const ALPHABET: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut bits = random_seed();
    let mut next = || {
        let digit = ALPHABET[(bits % 62) as usize];
        bits /= 62;
        char::from(digit)
    };
    (0..9).map(|_| next()).collect()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_shape_and_differ() {
        assert!(random("x-").starts_with("x-") && random("x-").len() == 26);
        assert_ne!(random(""), random(""));
        assert!(short().len() == 9 && short().chars().all(|c| c.is_ascii_alphanumeric()));
    }
}
