//! [`Scheduler`]: admission, KV memory, and the batch of each step. Its guarantees are listed in the [module](super).

use super::plan::{Occupancy, PlannedSpan, Pushed, ScheduleError, SlotOp, StepPlan, capacity};
use super::prefix::{self, SlotChoice};
use super::sequence::{SeqId, Sequence};
use super::slots::{Holder, Slots};
use crate::TokenId;
use crate::batch::{Batch, Limits, Slot, Span};
use std::collections::VecDeque;

/// Decides which tokens of which sequences go into the next step.
#[derive(Debug)]
pub struct Scheduler {
    /// Longest sequence, in tokens.
    pub(super) capacity: usize,
    /// Tokens in one batch.
    batch_tokens: usize,
    /// Maximum number of prefill tokens in a step that also decodes.
    prefill_chunk: usize,
    /// Maximum number of running sequences: each needs a slot and at least one token of the batch.
    max_running: usize,
    slots: Slots,
    /// Oldest first.
    waiting: VecDeque<Sequence>,
    /// Oldest first; each older than all of `waiting`.
    pub(super) running: Vec<Sequence>,
    ops: VecDeque<SlotOp>,
    next_id: SeqId,
    /// Counts admissions and turns, to order prefills.
    turns: u64,
    /// The backend can share prefixes; assumed until a call shows otherwise.
    shares: bool,
    /// The backend can shorten a slot to any length; assumed until a call shows otherwise. If not, a wrong draft would cost a
    /// whole prefill.
    truncates: bool,
    /// Tokens per KV page.
    page: usize,
    /// Counts uses of cached slots, to order them.
    uses: u64,
    /// Failed forward calls in a row for which no single sequence was at fault.
    pub(super) failed_calls: usize,
}

impl Scheduler {
    /// A scheduler for a backend with these limits. `prefill_chunk` limits the prefill tokens of a step in which other sequences
    /// decode, and so their delay. A step without decodes takes a full batch.
    ///
    /// # Errors
    /// If a limit is 0 or there is no KV page.
    pub fn new(limits: Limits, prefill_chunk: usize) -> Result<Scheduler, ScheduleError> {
        let capacity = capacity(&limits);
        if limits.slots == 0 || limits.batch_tokens == 0 || capacity == 0 {
            return Err(ScheduleError::BadLimits(limits));
        }
        Ok(Scheduler {
            capacity,
            batch_tokens: limits.batch_tokens,
            prefill_chunk: prefill_chunk.max(1),
            max_running: limits.slots.min(limits.batch_tokens),
            slots: Slots::new(&limits),
            waiting: VecDeque::new(),
            running: Vec::new(),
            ops: VecDeque::new(),
            next_id: 0,
            turns: 0,
            shares: true,
            truncates: true,
            page: limits.kv_page,
            uses: 0,
            failed_calls: 0,
        })
    }

    /// Limits the number of running sequences to `limit` (at least 1). Further slots of the backend keep prefixes.
    pub fn with_max_running(self, limit: usize) -> Scheduler {
        Scheduler { max_running: limit.clamp(1, self.max_running), ..self }
    }

    /// Adds a sequence to the queue. With `prefix_cache` it reuses tokens that a slot already holds, and leaves its own
    /// tokens for others.
    ///
    /// # Errors
    /// If the prompt is empty or longer than [`capacity`].
    pub fn submit(&mut self, prompt: Vec<TokenId>, prefix_cache: bool) -> Result<SeqId, ScheduleError> {
        self.submit_stored(prompt, prefix_cache, 0)
    }

    /// As [`Scheduler::submit`], for a prompt whose first `stored` tokens can be imported into the backend. They are imported
    /// unless a slot holds at least as many.
    ///
    /// # Errors
    /// As [`Scheduler::submit`].
    pub fn submit_stored(
        &mut self,
        prompt: Vec<TokenId>,
        prefix_cache: bool,
        stored: usize,
    ) -> Result<SeqId, ScheduleError> {
        if prompt.is_empty() {
            return Err(ScheduleError::EmptyPrompt);
        }
        if prompt.len() > self.capacity {
            return Err(ScheduleError::PromptTooLong { tokens: prompt.len(), capacity: self.capacity });
        }
        let id = self.next_id;
        self.next_id += 1;
        // At least one token must be computed for its logits.
        let stored = if prefix_cache { stored.min(prompt.len() - 1) } else { 0 };
        self.waiting.push_back(Sequence { stored, ..Sequence::new(id, prompt, prefix_cache) });
        Ok(id)
    }

    /// Ends a waiting or running sequence. Its slot becomes free, or cached if the sequence uses the prefix cache.
    pub fn finish(&mut self, id: SeqId) {
        self.waiting.retain(|s| s.id != id);
        if let Some(i) = self.index(id) {
            let mut seq = self.running.remove(i);
            self.slots.free_pages += seq.pages;
            if seq.prefix_cache && seq.computed > 0 {
                if seq.drafted > 0 {
                    seq.reject();
                    self.ops.push_back(SlotOp::Truncate { slot: seq.slot, len: seq.computed });
                }
                self.cache(seq);
            } else {
                self.empty(seq.slot);
            }
        }
    }

    /// Ends a sequence whose forward call failed: its slot is emptied and not reused.
    pub fn fail(&mut self, id: SeqId) {
        if let Some(i) = self.index(id) {
            self.running[i].prefix_cache = false;
        }
        self.finish(id);
    }

    /// The next operation on the backend's slots; `None` when the step can be planned. Admits waiting sequences. Confirm each with
    /// [`Scheduler::op_done`] before the next call.
    pub fn next_op(&mut self) -> Option<SlotOp> {
        while self.ops.is_empty() {
            if !self.admit() {
                return None;
            }
        }
        self.ops.pop_front()
    }

    /// Confirms that the backend has done `op` and kept or shared `kept` tokens.
    pub fn op_done(&mut self, op: SlotOp, kept: usize) {
        let (slot, len) = match op {
            SlotOp::Truncate { slot, len } | SlotOp::Import { slot, len, .. } => (slot, len),
            SlotOp::Share { to, len, .. } => (to, len),
        };
        let kept = kept.min(len);
        if matches!(op, SlotOp::Truncate { .. }) && kept < len {
            self.truncates = false;
            self.slots.shorten_cached(slot, kept);
        }
        let Some(i) = self.running.iter().position(|s| s.slot == slot) else { return };
        match op {
            SlotOp::Share { from, .. } if kept == 0 => self.share_refused(i, from, len),
            _ => {
                self.running[i].reuse(kept);
                if kept < len {
                    // Drafts made in the meantime do not continue the slot's tokens.
                    self.running[i].reject();
                }
            }
        }
    }

    /// Whether the next step computes a sequence's last token and nothing before it. Not while a sequence is computed alone.
    pub fn decodes(&self, id: SeqId) -> bool {
        let seq = self.index(id).map(|i| &self.running[i]);
        seq.is_some_and(|s| !s.held && s.pending() == 1 && s.confirmed().len() > s.prompt)
            && !self.is_isolating()
    }

    /// How many drafted tokens of a sequence the next step could verify: 0 unless it decodes.
    pub fn draft_room(&self, id: SeqId) -> usize {
        let Some(seq) = self.index(id).map(|i| &self.running[i]) else { return 0 };
        if !self.truncates || !self.decodes(id) || seq.drafted > 0 {
            return 0;
        }
        let pages = seq.pages + self.slots.free_pages + self.slots.cached_pages(None);
        let held = seq.tokens.len();
        // Sequences that may still be admitted need a token of the batch each.
        let drafted: usize = self.running.iter().map(|s| s.drafted).sum();
        let batch = self.batch_tokens - self.max_running;
        batch.saturating_sub(drafted).min(self.capacity - held).min((pages * self.page).saturating_sub(held))
    }

    /// Adds a draft, which the next step verifies: at most [`Scheduler::draft_room`] of `tokens`. Returns how many were added. To be
    /// called before [`Scheduler::next_op`] in a step.
    pub fn draft(&mut self, id: SeqId, tokens: &[TokenId]) -> usize {
        let tokens = &tokens[..tokens.len().min(self.draft_room(id))];
        if let Some(i) = self.index(id).filter(|_| !tokens.is_empty()) {
            let seq = &mut self.running[i];
            seq.tokens.extend_from_slice(tokens);
            seq.drafted = tokens.len();
            self.grow(id);
        }
        tokens.len()
    }

    /// Excludes a sequence from the following steps, or includes it again. It keeps its slot.
    pub fn hold(&mut self, id: SeqId, held: bool) {
        if let Some(seq) = self.sequence_mut(id) {
            seq.held = held;
        }
    }

    /// Plans the next step into `plan`; empty if there is nothing to compute.
    ///
    /// # Panics
    /// If slot operations are outstanding.
    pub fn plan(&mut self, plan: &mut StepPlan) {
        assert!(self.ops.is_empty(), "next_op must be called until it returns None");
        plan.spans.clear();
        if let Some(seq) = self.isolated() {
            plan.spans.push(PlannedSpan::of(seq, seq.pending().min(self.batch_tokens)));
            return;
        }
        let decodes = self.running.iter().filter(|s| !s.held && s.pending() == 1);
        plan.spans.extend(decodes.map(|s| PlannedSpan::of(s, 1 + s.drafted)));
        let mut budget = self.batch_tokens - plan.tokens();
        if !plan.spans.is_empty() {
            budget = budget.min(self.prefill_chunk);
        }
        let mut prefills: Vec<usize> = (0..self.running.len())
            .filter(|&i| !self.running[i].held && self.running[i].pending() > 1)
            .collect();
        prefills.sort_by_key(|&i| self.running[i].turn);
        if let Some(&first) = prefills.first() {
            // The prefill served first moves to the end of the queue; the others share the rest.
            self.running[first].turn = self.next_turn();
        }
        for seq in prefills.into_iter().map(|i| &self.running[i]) {
            let len = seq.pending().min(budget);
            if len > 0 {
                plan.spans.push(PlannedSpan::of(seq, len));
                budget -= len;
            }
        }
    }

    /// The planned step as a batch for the backend. Valid until the scheduler changes.
    pub fn batch(&self, plan: &StepPlan) -> Batch<'_> {
        let span = |p: &PlannedSpan| Span {
            slot: p.slot,
            start: p.start,
            tokens: self.sequence(p.id).map_or(&[], |s| &s.tokens[p.start..p.start + p.len]),
            want: p.want,
        };
        Batch { spans: plan.spans.iter().map(span).collect() }
    }

    /// Confirms that the backend has computed the plan.
    pub fn commit(&mut self, plan: &StepPlan) {
        if plan.spans.len() > 1 {
            self.failed_calls = 0;
        }
        for p in &plan.spans {
            if let Some(i) = self.index(p.id) {
                let seq = &mut self.running[i];
                seq.computed = p.start + p.len - seq.drafted;
                seq.reached = seq.reached.max(seq.computed);
                if seq.computed >= seq.alone_until {
                    seq.alone_until = 0;
                }
            }
        }
    }

    /// Appends a sampled token. If it equals the draft, it is computed already and the next row of logits is valid; otherwise the
    /// drafts are dropped and the token is computed in the next step. If the context is full, nothing changes, and the sequence
    /// has to be finished or shifted.
    ///
    /// May preempt the youngest running sequence, which can be this one.
    pub fn push(&mut self, id: SeqId, token: TokenId) -> Pushed {
        let capacity = self.capacity;
        let running = self.index(id).is_some();
        let Some(seq) = self.sequence_mut(id) else { return Pushed::Full };
        if seq.drafted > 0 {
            if seq.tokens[seq.tokens.len() - seq.drafted] == token {
                seq.accept(running);
                return Pushed::Drafted;
            }
            self.reject(id);
        }
        let Some(seq) = self.sequence_mut(id) else { return Pushed::Full };
        if seq.tokens.len() >= capacity {
            return Pushed::Full;
        }
        seq.tokens.push(token);
        self.grow(id);
        Pushed::Next
    }

    /// A sequence's prompt and generated tokens, without drafts; empty if there is no such sequence.
    pub fn tokens(&self, id: SeqId) -> &[TokenId] {
        self.sequence(id).map_or(&[], Sequence::confirmed)
    }

    /// How many prompt tokens of a sequence came from the prefix cache.
    pub fn cached_tokens(&self, id: SeqId) -> usize {
        self.sequence(id).map_or(0, |s| s.cached)
    }

    /// The slot of a running sequence and how many tokens of its prompt the slot holds; `None` if it does not use the prefix cache.
    pub fn kept_prompt(&self, id: SeqId) -> Option<(Slot, usize)> {
        let seq = &self.running[self.index(id)?];
        seq.prefix_cache.then(|| (seq.slot, seq.computed.min(seq.prompt)))
    }

    /// The sequences that have a slot, oldest first.
    pub fn running(&self) -> impl Iterator<Item = SeqId> {
        self.running.iter().map(|s| s.id)
    }

    /// Whether nothing waits or runs and no slot operation is outstanding.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.ops.is_empty()
    }

    /// How full the engine is.
    pub fn occupancy(&self) -> Occupancy {
        let is_cached = |h: &&Holder| matches!(h, Holder::Cached { .. });
        Occupancy {
            waiting: self.waiting.len(),
            running: self.running.len(),
            cached: self.slots.holders.iter().filter(is_cached).count(),
            cached_pages: self.slots.cached_pages(None),
            free_pages: self.slots.free_pages,
            total_pages: self.slots.total_pages,
        }
    }

    pub(super) fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    pub(super) fn index(&self, id: SeqId) -> Option<usize> {
        self.running.binary_search_by_key(&id, |s| s.id).ok()
    }

    fn sequence(&self, id: SeqId) -> Option<&Sequence> {
        let running = self.index(id).map(|i| &self.running[i]);
        running.or_else(|| self.waiting.iter().find(|s| s.id == id))
    }

    pub(super) fn sequence_mut(&mut self, id: SeqId) -> Option<&mut Sequence> {
        match self.index(id) {
            Some(i) => Some(&mut self.running[i]),
            None => self.waiting.iter_mut().find(|s| s.id == id),
        }
    }

    /// Admits the head of the queue if there is a slot, and KV memory for all its tokens and the next one. It waits while a running
    /// sequence computes their common prefix, so that simultaneous requests with the same system prompt compute it once.
    fn admit(&mut self) -> bool {
        let Some(seq) = self.waiting.front() else { return false };
        if self.running.len() == self.max_running {
            return false;
        }
        let need = self.slots.pages((seq.tokens.len() + 1).min(self.capacity));
        let hit = if seq.prefix_cache { prefix::find(&self.slots, &self.running, &seq.tokens) } else { None };
        let hit = hit.filter(|hit| hit.len + self.page > seq.stored);
        let have = hit.map_or(seq.stored, |h| h.len);
        let shares = seq.prefix_cache && self.shares;
        if shares && prefix::is_coming(&self.running, &seq.tokens, have, self.page) {
            return false;
        }
        let Some(place) = prefix::place(&self.slots, hit, need) else { return false };
        let Some(mut seq) = self.waiting.pop_front() else { return false };
        let (slot, keep) = match place {
            SlotChoice::Fresh { slot } => (slot, None),
            SlotChoice::TakeOver { slot, len } => {
                self.slots.drop_cached(slot);
                self.ops.push_back(SlotOp::Truncate { slot, len });
                (slot, None)
            }
            SlotChoice::Share { from, to, .. } => (to, Some(from)),
        };
        self.evict(slot);
        seq.slot = slot;
        seq.pages = need;
        seq.turn = self.next_turn();
        self.slots.holders[slot] = Holder::Running(seq.id);
        while self.slots.free_pages < need {
            match self.slots.oldest_cached(keep) {
                Some(oldest) => self.evict(oldest),
                None => unreachable!("prefix::place counted the cached pages"),
            }
        }
        self.slots.free_pages -= need;
        if let SlotChoice::Share { from, to, len } = place {
            self.touch(from);
            self.ops.push_back(SlotOp::Share { from, to, len });
        }
        if matches!(place, SlotChoice::Fresh { .. }) && seq.stored > 0 {
            self.ops.push_back(SlotOp::Import { id: seq.id, slot, len: seq.stored });
        }
        self.running.push(seq);
        true
    }

    /// The backend can't share `from`'s prefix: takes the slot over if most of it is reused, else recomputes.
    fn share_refused(&mut self, i: usize, from: Slot, len: usize) {
        self.shares &= len < self.page;
        if self.slots.cached(from).is_some_and(|held| held.len() <= 2 * len) {
            self.slots.drop_cached(from);
            let seq = &mut self.running[i];
            self.slots.holders[seq.slot] = Holder::Free;
            self.slots.holders[from] = Holder::Running(seq.id);
            seq.slot = from;
            self.ops.push_back(SlotOp::Truncate { slot: from, len });
        }
    }

    /// Reserves the pages that a running sequence needs after it has grown.
    fn grow(&mut self, id: SeqId) {
        while let Some(i) = self.index(id) {
            let seq = &mut self.running[i];
            let missing = self.slots.pages(seq.tokens.len()).saturating_sub(seq.pages);
            if missing <= self.slots.free_pages {
                self.slots.free_pages -= missing;
                seq.pages += missing;
                return;
            }
            match self.slots.oldest_cached(None) {
                Some(oldest) => self.evict(oldest),
                None => self.put_back_youngest(),
            }
        }
    }

    /// Drops a sequence's drafts and cuts them from its slot, if it still has one: it may have been preempted in the meantime.
    fn reject(&mut self, id: SeqId) {
        if let Some(seq) = self.sequence_mut(id) {
            seq.reject();
        }
        if let Some(i) = self.index(id) {
            self.cut_slot(i);
        }
    }

    /// Cuts a running sequence's slot to its computed tokens, and frees pages it does not need.
    pub(super) fn cut_slot(&mut self, i: usize) {
        let seq = &mut self.running[i];
        self.ops.push_back(SlotOp::Truncate { slot: seq.slot, len: seq.computed });
        let spare = seq.pages.saturating_sub(self.slots.pages(seq.tokens.len()));
        seq.pages -= spare;
        self.slots.free_pages += spare;
    }

    /// Preemption: the youngest running sequence goes back to the head of the queue, to be computed again.
    fn put_back_youngest(&mut self) {
        if let Some(mut seq) = self.running.pop() {
            self.slots.free_pages += seq.pages;
            self.empty(seq.slot);
            seq.pages = 0;
            seq.computed = 0;
            self.waiting.push_front(seq);
        }
    }

    /// Keeps a finished sequence's computed tokens for reuse. Its pages are free already.
    fn cache(&mut self, mut seq: Sequence) {
        seq.tokens.truncate(seq.computed);
        self.slots.free_pages -= self.slots.pages(seq.computed);
        self.slots.holders[seq.slot] = Holder::Cached { tokens: seq.tokens, last_used: 0 };
        self.touch(seq.slot);
    }

    /// Marks a cached slot as just used.
    fn touch(&mut self, slot: Slot) {
        self.uses += 1;
        if let Holder::Cached { last_used, .. } = &mut self.slots.holders[slot] {
            *last_used = self.uses;
        }
    }

    /// Drops a cached slot's tokens, here and in the backend. No effect if the slot is not cached.
    fn evict(&mut self, slot: Slot) {
        if self.slots.cached(slot).is_some() {
            self.slots.drop_cached(slot);
            self.ops.push_back(SlotOp::Truncate { slot, len: 0 });
        }
    }

    /// Marks a slot free and has the backend empty it.
    fn empty(&mut self, slot: Slot) {
        self.slots.holders[slot] = Holder::Free;
        self.ops.push_back(SlotOp::Truncate { slot, len: 0 });
    }
}
