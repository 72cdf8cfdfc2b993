//! What goes between the scheduler and the worker: slot operations, plans, figures, errors.

use super::sequence::{SeqId, Sequence};
use crate::batch::{Limits, Slot, Want};

/// Something to do to the backend's slots before the next forward call.
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
        /// Whose tokens.
        from: Slot,
        /// The empty slot that gets them.
        to: Slot,
        /// How many tokens.
        len: usize,
    },
    /// [`crate::forward::Backend::import_kv`]: stored tokens of the sequence into its empty slot.
    Import {
        /// Whose.
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
    /// Which sequence.
    pub id: SeqId,
    /// Its slot.
    pub slot: Slot,
    /// The first token's position.
    pub start: usize,
    /// How many tokens.
    pub len: usize,
    /// Which positions want logits.
    pub want: Want,
    /// How many of the tokens belong to the prompt and are computed for the first time: this step's share of the
    /// sequence's prefill.
    pub prompt_tokens: usize,
}

impl PlannedSpan {
    /// The next `len` pending tokens of a sequence, drafts included; logits if they reach its end, of every position if there
    /// are drafts.
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

    /// How many logits rows this span asks for.
    pub fn rows(&self) -> usize {
        match self.want {
            Want::None => 0,
            Want::Last => 1,
            Want::All => self.len,
        }
    }
}

/// What became of a sampled token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is the one that was drafted: its own row of logits, the next one, is valid.
    Drafted,
    /// It is computed in the next step.
    Next,
    /// It was not taken, as the context is full.
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
    /// Sequences that have one.
    pub running: usize,
    /// Slots that keep a finished sequence's tokens for reuse.
    pub cached: usize,
    /// KV pages that those hold.
    pub cached_pages: usize,
    /// KV pages that nothing holds.
    pub free_pages: usize,
    /// All KV pages.
    pub total_pages: usize,
}

/// Why a sequence was not taken, or a scheduler could not be made.
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
    #[error("{keep} tokens are to be kept of a context of {capacity}: expected at most {most}")]
    KeepTooLong { keep: usize, capacity: usize, most: usize },
}

/// The longest sequence that fits: bounded by a slot's context and by the KV room, in tokens.
pub fn capacity(limits: &Limits) -> usize {
    let pages = limits.kv_tokens.checked_div(limits.kv_page).unwrap_or(0);
    limits.context.min(pages.saturating_mul(limits.kv_page))
}
