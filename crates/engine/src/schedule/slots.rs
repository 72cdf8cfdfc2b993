//! The holder of each slot, and the number of free KV pages.
//!
//! Each slot is charged for its own whole pages, even if a backend lets two slots share them. So a plan that fits by this count
//! fits every backend.

use super::SeqId;
use crate::TokenId;
use crate::batch::{Limits, Slot};

/// The holder of a slot.
#[derive(Clone, Debug)]
pub(super) enum Holder {
    /// Nothing.
    Free,
    /// Tokens of a finished sequence, kept for reuse.
    Cached { tokens: Vec<TokenId>, last_used: u64 },
    /// A running sequence.
    Running(SeqId),
}

/// All slots and the free KV pages.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    pub holders: Vec<Holder>,
    page: usize,
    pub total_pages: usize,
    pub free_pages: usize,
}

impl Slots {
    pub fn new(limits: &Limits) -> Slots {
        let total_pages = limits.kv_tokens / limits.kv_page;
        Slots {
            holders: vec![Holder::Free; limits.slots],
            page: limits.kv_page,
            total_pages,
            free_pages: total_pages,
        }
    }

    /// Pages that `tokens` tokens occupy.
    pub fn pages(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page)
    }

    /// The tokens a slot keeps for reuse, if it does.
    pub fn cached(&self, slot: Slot) -> Option<&[TokenId]> {
        match &self.holders[slot] {
            Holder::Cached { tokens, .. } => Some(tokens),
            _ => None,
        }
    }

    /// Pages held by cached slots, except `except`.
    pub fn cached_pages(&self, except: Option<Slot>) -> usize {
        (0..self.holders.len())
            .filter(|&s| Some(s) != except)
            .filter_map(|s| self.cached(s))
            .map(|t| self.pages(t.len()))
            .sum()
    }

    /// The first free slot.
    pub fn first_free(&self) -> Option<Slot> {
        self.holders.iter().position(|h| matches!(h, Holder::Free))
    }

    /// The least recently used cached slot, except `except`.
    pub fn oldest_cached(&self, except: Option<Slot>) -> Option<Slot> {
        let age = |(slot, holder): (Slot, &Holder)| match holder {
            Holder::Cached { last_used, .. } if Some(slot) != except => Some((*last_used, slot)),
            _ => None,
        };
        self.holders.iter().enumerate().filter_map(age).min().map(|(_, slot)| slot)
    }

    /// Records that the backend kept only `len` of a cached slot's tokens.
    pub fn shorten_cached(&mut self, slot: Slot, len: usize) {
        let Holder::Cached { tokens, last_used } = &self.holders[slot] else { return };
        if tokens.len() <= len {
            return;
        }
        let (tokens, last_used) = (tokens[..len].to_vec(), *last_used);
        self.drop_cached(slot);
        if len > 0 {
            self.free_pages -= self.pages(len);
            self.holders[slot] = Holder::Cached { tokens, last_used };
        }
    }

    /// Forgets a cached slot's tokens and frees its pages; the caller empties it in the backend.
    pub fn drop_cached(&mut self, slot: Slot) {
        if let Some(tokens) = self.cached(slot) {
            self.free_pages += self.pages(tokens.len());
            self.holders[slot] = Holder::Free;
        }
    }
}
