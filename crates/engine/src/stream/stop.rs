//! [`StopStrings`]: ends a text where a stop string appears, regardless of token boundaries.

/// Searches a text that comes in pieces for the first complete stop string.
///
/// The text before the stop string is returned; the string itself and everything after it is dropped. Text that may begin a
/// stop string is held back until that is decided. If several stop strings end at the same character, the longest counts.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// The end of the text that may begin a stop string.
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// Watches for `stops`, none of which may be empty.
    pub fn new(stops: Vec<String>) -> StopStrings {
        debug_assert!(stops.iter().all(|s| !s.is_empty()));
        StopStrings { stops, held: String::new(), stopped: false }
    }

    /// Takes the next piece and returns the text that became final.
    pub fn push(&mut self, piece: &str) -> String {
        if self.stopped {
            return String::new();
        }
        if self.stops.is_empty() {
            return piece.to_owned();
        }
        let known = self.held.len();
        self.held.push_str(piece);
        for (at, c) in self.held[known..].char_indices() {
            let text = &self.held[..known + at + c.len_utf8()];
            if let Some(stop) =
                self.stops.iter().filter(|s| text.ends_with(s.as_str())).max_by_key(|s| s.len())
            {
                self.stopped = true;
                let kept = text.len() - stop.len();
                self.held.truncate(kept);
                return std::mem::take(&mut self.held);
            }
        }
        let certain = self.held.len() - self.unfinished();
        self.held.drain(..certain).collect()
    }

    /// Ends the text and returns what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether a stop string has appeared.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Length in bytes of the longest suffix of the held text that begins a stop string.
    fn unfinished(&self) -> usize {
        let text = self.held.as_bytes();
        let fits = |n: &usize| {
            let end = &text[text.len() - n..];
            self.stops.iter().any(|s| s.len() > *n && s.as_bytes().starts_with(end))
        };
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        (1..=text.len().min(longest)).rev().find(fits).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All text returned for the pieces, and whether it stopped.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut watch = StopStrings::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut parts: Vec<String> = pieces.iter().map(|p| watch.push(p)).collect();
        parts.push(watch.finish());
        (parts, watch.stopped())
    }

    #[test]
    fn only_possible_stop_strings_are_held_back() {
        let (parts, stopped) = run(&["###"], &["a#", "#b", "##", "#c", "d"]);
        assert_eq!(parts, ["a", "##b", "", "", "", ""]);
        assert!(stopped);
        let (parts, stopped) = run(&["###"], &["a#", "#b", "##"]);
        assert_eq!(parts, ["a", "##b", "", "##"]);
        assert!(!stopped);
    }

    #[test]
    fn the_first_complete_stop_string_counts_then_the_longest() {
        assert_eq!(run(&["abcdef", "cd"], &["xabc", "def"]).0.concat(), "xab");
        assert_eq!(run(&["d", "bcd"], &["abcd"]).0.concat(), "a");
    }

    #[test]
    fn characters_are_never_split() {
        // "é" and "è" begin with the same byte.
        let (parts, stopped) = run(&["é!"], &["è", "é", "é!"]);
        assert_eq!(parts, ["è", "", "é", ""]);
        assert!(stopped);
    }

    #[test]
    fn without_stop_strings_all_text_passes() {
        assert_eq!(run(&[], &["a", "b"]).0, ["a", "b", ""]);
    }

    /// The definition, on the full text: the first character at which some stop string is complete.
    fn naive<'a>(stops: &[String], text: &'a str) -> (&'a str, bool) {
        for (at, c) in text.char_indices() {
            let end = at + c.len_utf8();
            let ending = stops.iter().filter(|s| text[..end].ends_with(s.as_str()));
            if let Some(longest) = ending.map(String::len).max() {
                return (&text[..end - longest], true);
            }
        }
        (text, false)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, rng_seed: proptest::test_runner::RngSeed::Fixed(3), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn equals_a_search_in_the_full_text(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abéx]{0,5}", 0..12),
        ) {
            let text = pieces.concat();
            let mut watch = StopStrings::new(stops.clone());
            let mut given = String::new();
            for piece in &pieces {
                given.push_str(&watch.push(piece));
                prop_assert!(text.starts_with(&given));
                // Text is held back only if it is the beginning of a stop string.
                if !watch.stopped() && !watch.held.is_empty() {
                    prop_assert!(stops.iter().any(|s| s.starts_with(&watch.held)));
                }
            }
            given.push_str(&watch.finish());
            prop_assert_eq!((given.as_str(), watch.stopped()), naive(&stops, &text));
        }
    }
}
