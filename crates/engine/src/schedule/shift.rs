//! Context shift: makes room in a full context by dropping tokens after the kept prefix; the rest is computed again.
//!
//! A shift only changes the sequence's tokens: half of the tokens after the kept prefix are dropped, the slot is cut to the
//! prefix, and the remaining tokens are pending like a prompt. So it needs nothing from a backend beyond prefix reuse, is
//! scheduled like a prefill, and its logits are those of the shortened text. llama.cpp instead moves the keys to their new
//! positions and keeps values that were computed with the dropped text in view: cheaper, but exact for no text.

use super::scheduler::Scheduler;
use super::sequence::{SeqId, Sequence};
use crate::TokenId;

/// The minimum number of tokens after the kept prefix: one to drop and one to continue from.
pub const LEAST_BEHIND: usize = 2;

/// How many tokens one shift drops. `keep + LEAST_BEHIND <= capacity`.
fn half(keep: usize, capacity: usize) -> usize {
    capacity.saturating_sub(keep) / 2
}

/// Drops tokens from the middle of a text that is too long, as if its tokens had come one by one and each full context had been
/// shifted. Returns the number dropped; 0 if the text fits or the prefix leaves no room.
pub fn cut(tokens: &mut Vec<TokenId>, keep: usize, capacity: usize) -> usize {
    let (excess, half) = (tokens.len().saturating_sub(capacity), half(keep, capacity));
    if excess == 0 || half == 0 {
        return 0;
    }
    let dropped = excess.div_ceil(half) * half;
    tokens.drain(keep..keep + dropped);
    dropped
}

impl Scheduler {
    /// Makes room in a sequence whose next token was refused ([`super::Pushed::Full`]): drops half of the tokens after the first
    /// `keep`. Returns the number dropped; 0 if the context is not full or the prefix leaves no room. Otherwise the token can be
    /// pushed again.
    pub fn shift(&mut self, id: SeqId, keep: usize) -> usize {
        let (capacity, turn) = (self.capacity, self.next_turn());
        let half = half(keep, capacity);
        let Some(seq) = self.sequence_mut(id) else { return 0 };
        if seq.tokens.len() < capacity || seq.drafted > 0 || half == 0 {
            return 0;
        }
        seq.drop_after(keep, half);
        // It is a prefill now, and the last in turn to be served.
        seq.turn = turn;
        if let Some(i) = self.index(id) {
            self.cut_slot(i);
        }
        half
    }
}

impl Sequence {
    /// Drops `n` tokens after the first `keep`. Only the kept prefix still counts as prompt.
    fn drop_after(&mut self, keep: usize, n: usize) {
        self.tokens.drain(keep..keep + n);
        self.prompt = self.prompt.min(keep);
        self.computed = self.computed.min(keep);
        self.stored = self.stored.min(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn half_of_the_tokens_after_the_kept_prefix_are_dropped() {
        let mut tokens: Vec<TokenId> = (0..11).collect();
        assert_eq!(cut(&mut tokens, 2, 10), 4);
        assert_eq!(tokens, [0, 1, 6, 7, 8, 9, 10]);
        assert_eq!(cut(&mut tokens, 2, 10), 0, "it fits");
        assert_eq!(cut(&mut (0..20).collect(), 9, 10), 0, "the kept prefix leaves no room");
    }

    proptest! {
        /// A long prompt is cut as if its tokens had arrived one by one.
        #[test]
        fn a_cut_is_all_the_shifts_together(n in 0usize..400, capacity in 2usize..60, front in 0.0..1.0f64) {
            let keep = ((capacity - LEAST_BEHIND) as f64 * front) as usize;
            let all: Vec<TokenId> = (0..n as TokenId).collect();
            let mut grown: Vec<TokenId> = Vec::new();
            for &token in &all {
                if grown.len() == capacity {
                    grown.drain(keep..keep + half(keep, capacity));
                }
                grown.push(token);
            }
            let mut whole = all;
            let dropped = cut(&mut whole, keep, capacity);
            prop_assert_eq!(dropped, n - grown.len());
            prop_assert_eq!(whole, grown);
        }
    }
}
