//! The types shared by scheduler and worker: slot operations, plans, occupancy, errors.

use super::sequence::{SeqId, Sequence};
use crate::batch::{Limits, Slot, Want};

/// An operation on the backend's slots before the next forward call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotOp {
    /// [`crate::forward::Backend::truncate`].
    Truncate {
        /// The slot to shorten.
        slot: Slot,
        /// How many tokens to keep.
        len: usize,
    },
    /// [`crate::forward::Backend::share_prefix`].
    Share {
        /// The slot that has the tokens.
        from: Slot,
        /// The empty slot that gets them.
        to: Slot,
        /// How many tokens.
        len: usize,
    },
    /// [`crate::forward::Backend::import_kv`]: stored tokens of the sequence into its empty slot.
    Import {
        /// The sequence.
        id: SeqId,
        /// The empty slot that gets them.
        slot: Slot,
        /// How many tokens.
        len: usize,
    },
}

/// One span of a planned step.
#[derive(Clone, Copy, Debug)]
pub struct PlannedSpan {
    /// The sequence.
    pub id: SeqId,
    /// Its slot.
    pub slot: Slot,
    /// The first token's position.
    pub start: usize,
    /// How many tokens.
    pub len: usize,
    /// Which positions want logits.
    pub want: Want,
    /// How many of the tokens are prompt tokens computed for the first time: this step's share of the sequence's prefill.
    pub prompt_tokens: usize,
}

impl PlannedSpan {
    /// The next `len` pending tokens of a sequence, including drafts. Logits are wanted if the span reaches the end, and for every
    /// position if there are drafts.
    pub(super) fn of(seq: &Sequence, len: usize) -> PlannedSpan {
        PlannedSpan {
            id: seq.id,
            slot: seq.slot,
            start: seq.computed,
            len,
            want: match seq.drafted {
                0 if len == seq.pending() => Want::Last,
                0 => Want::None,
                _ => Want::All,
            },
            prompt_tokens: seq.new_prompt_tokens(len),
        }
    }

    /// The number of logits rows that this span requests.
    pub fn rows(&self) -> usize {
        match self.want {
            Want::None => 0,
            Want::Last => 1,
            Want::All => self.len,
        }
    }
}

/// The effect of a sampled token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It equals the draft: the next row of logits is valid, too.
    Drafted,
    /// It is computed in the next step.
    Next,
    /// It was refused, because the context is full.
    Full,
}

/// One step: at most one span per running sequence. Decodes come first, then prefill chunks.
#[derive(Clone, Debug, Default)]
pub struct StepPlan {
    /// The spans, in the order their logits rows come out.
    pub spans: Vec<PlannedSpan>,
}

impl StepPlan {
    /// All tokens together.
    pub fn tokens(&self) -> usize {
        self.spans.iter().map(|s| s.len).sum()
    }
}

/// How full the engine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Sequences that wait for a slot.
    pub waiting: usize,
    /// Sequences that have a slot.
    pub running: usize,
    /// Slots that keep the tokens of a finished sequence for reuse.
    pub cached: usize,
    /// KV pages in these slots.
    pub cached_pages: usize,
    /// Free KV pages.
    pub free_pages: usize,
    /// All KV pages.
    pub total_pages: usize,
}

/// Why a sequence was refused, or a scheduler could not be created.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)] // each variant's message names its fields
#[non_exhaustive]
pub enum ScheduleError {
    #[error("the backend's limits allow nothing to run: {0:?}")]
    BadLimits(Limits),
    #[error("the prompt has no tokens; at least 1 is needed")]
    EmptyPrompt,
    #[error("the prompt has {tokens} tokens; at most {capacity} fit into the context")]
    PromptTooLong { tokens: usize, capacity: usize },
    #[error(
        "the prompt has {bytes} bytes, which are at least {least} tokens; at most {capacity} fit into the context"
    )]
    PromptFarTooLong { bytes: usize, least: usize, capacity: usize },
    #[error("{keep} tokens are to be kept when the context of {capacity} is full; expected at most {most}")]
    KeepTooLong { keep: usize, capacity: usize, most: usize },
}

/// The longest sequence in tokens: limited by a slot's context and by the KV cache.
pub fn capacity(limits: &Limits) -> usize {
    let pages = limits.kv_tokens.checked_div(limits.kv_page).unwrap_or(0);
    limits.context.min(pages.saturating_mul(limits.kv_page))
}
