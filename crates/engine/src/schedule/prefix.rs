//! Finds the longest cached prefix of a new sequence, and decides whether to take its slot over or to share it.

use super::sequence::Sequence;
use super::slots::{Holder, Slots};
use crate::TokenId;
use crate::batch::Slot;

/// A slot whose first `len` tokens are a prefix of the new sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub from: Slot,
    /// How many tokens to reuse: at least 1, and fewer than the sequence has, since logits need one computed token.
    pub len: usize,
    /// How many cached tokens are lost if the slot is taken over; `None`: it is running and can't be taken over.
    pub lost: Option<usize>,
}

/// How a waiting sequence gets its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotChoice {
    /// An empty slot; everything is computed.
    Fresh { slot: Slot },
    /// A cached slot, shortened to the common prefix.
    TakeOver { slot: Slot, len: usize },
    /// An empty slot that shares another slot's prefix.
    Share { from: Slot, to: Slot, len: usize },
}

/// The length of the common prefix of two sequences, in tokens.
pub(crate) fn common_prefix(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// The slot with the longest common prefix; of equals a cached one before a running one, then the lowest number.
pub(super) fn find(slots: &Slots, running: &[Sequence], tokens: &[TokenId]) -> Option<Hit> {
    let usable = &tokens[..tokens.len() - 1];
    let mut best: Option<Hit> = None;
    for (slot, holder) in slots.holders.iter().enumerate() {
        let (held, cached) = match holder {
            Holder::Free => continue,
            Holder::Cached { tokens, .. } => (&tokens[..], true),
            Holder::Running(id) => match running.iter().find(|s| s.id == *id) {
                Some(s) if s.prefix_cache => (&s.tokens[..s.computed], false),
                _ => continue,
            },
        };
        let len = common_prefix(held, usable);
        let better = best.is_none_or(|b| (len, cached) > (b.len, b.lost.is_some()));
        if len > 0 && better {
            best = Some(Hit { from: slot, len, lost: cached.then_some(held.len() - len) });
        }
    }
    best
}

/// Whether a running sequence will soon have computed a prefix of `tokens` that is at least `worth` longer than `len`.
pub(super) fn is_coming(running: &[Sequence], tokens: &[TokenId], len: usize, worth: usize) -> bool {
    let usable = &tokens[..tokens.len() - 1];
    let prefilling = running.iter().filter(|s| s.prefix_cache && s.computed < s.prompt);
    prefilling.map(|s| common_prefix(&s.tokens[..s.prompt], usable)).any(|n| n >= len + worth)
}

/// Chooses a slot for a sequence that needs `need` pages; `None` if there is no room yet.
///
/// A prefix is shared into another slot, so that the conversation it belongs to stays cached, unless that would evict more
/// cached tokens than taking the slot over would lose.
pub(super) fn place(slots: &Slots, hit: Option<Hit>, need: usize) -> Option<SlotChoice> {
    let room = |except| slots.free_pages + slots.cached_pages(except) >= need;
    let empty = |except| slots.first_free().or_else(|| slots.oldest_cached(except));
    if let Some(Hit { from, len, lost }) = hit {
        let keep = lost.map(|_| from);
        if room(keep)
            && let Some(to) = empty(keep)
            && lost.is_none_or(|lost| slots.cached(to).map_or(0, <[_]>::len) < lost)
        {
            return Some(SlotChoice::Share { from, to, len });
        }
        if lost.is_some() && room(None) {
            return Some(SlotChoice::TakeOver { slot: from, len });
        }
    }
    if room(None) { empty(None).map(|slot| SlotChoice::Fresh { slot }) } else { None }
}
