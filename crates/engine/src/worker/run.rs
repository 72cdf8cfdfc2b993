//! The loop: schedule → forward → sample → stream.

use super::active::Active;
use super::draft_model::Drafter;
use crate::TokenId;
use crate::forward::{Backend, BackendError, Logits, Want};
use crate::prompt_cache::PromptCache;
use crate::schedule::{Occupancy, PlannedSpan, Pushed, Scheduler, SeqId, SlotOp, StepPlan};
use crate::speculate::{Speculate, Speculator};
use crate::stream::{Event, FinishReason};
use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Commands from the handles to the worker. `key` identifies a request across threads.
pub(super) enum Command {
    Submit { prompt: Vec<TokenId>, prefix_cache: bool, active: Box<Active> },
    Cancel { key: u64 },
    Stop,
}

/// Owns the backend and everything that runs on it.
pub(super) struct Worker {
    backend: Box<dyn Backend>,
    pub(super) scheduler: Scheduler,
    pub(super) speculator: Speculator,
    /// Runs the draft model, if there is one and it has not failed.
    pub(super) drafter: Option<Drafter>,
    inbox: Receiver<Command>,
    pub(super) active: HashMap<SeqId, Box<Active>>,
    ids: HashMap<u64, SeqId>,
    plan: StepPlan,
    logits: Logits,
    /// The occupancy as the handles see it.
    occupancy: Arc<Mutex<Occupancy>>,
    /// The prompts on disk, if they are stored.
    stored: Option<PromptCache>,
    /// The last step had nothing to compute, because every running sequence is held back.
    stalled: bool,
}

/// How long the worker sleeps before it checks again whether a consumer has caught up.
const STALL: Duration = Duration::from_millis(1);

impl Worker {
    pub fn new(
        backend: Box<dyn Backend>,
        scheduler: Scheduler,
        speculator: Speculator,
        drafter: Option<Drafter>,
        inbox: Receiver<Command>,
        occupancy: Arc<Mutex<Occupancy>>,
        stored: Option<PromptCache>,
    ) -> Worker {
        Worker {
            backend,
            scheduler,
            speculator,
            drafter,
            inbox,
            active: HashMap::new(),
            ids: HashMap::new(),
            plan: StepPlan::default(),
            logits: Logits::new(),
            occupancy,
            stored,
            stalled: false,
        }
    }

    /// Runs until it is stopped or the backend fails for good, then ends every request.
    pub fn run(mut self) {
        let reason = loop {
            if !self.drain_commands() {
                break FinishReason::Cancelled;
            }
            if let Err(error) = self.step() {
                break FinishReason::Error(error.to_string());
            }
        };
        self.end_all(&reason);
    }

    /// One step: draft, admit, compute, sample, deliver.
    fn step(&mut self) -> Result<(), BackendError> {
        self.hold_back();
        self.speculate();
        while let Some(op) = self.scheduler.next_op() {
            let kept = self.apply(op)?;
            self.scheduler.op_done(op, kept);
        }
        let mut plan = std::mem::take(&mut self.plan);
        self.scheduler.plan(&mut plan);
        self.tell_occupancy();
        self.stalled = plan.spans.is_empty();
        if !plan.spans.is_empty() {
            match self.forward(&plan) {
                Ok(took) => {
                    self.note_step(&plan, took);
                    self.advance(&plan, took);
                }
                Err(error) => self.fail(&plan, &error),
            }
        }
        self.plan = plan;
        Ok(())
    }

    /// Excludes sequences from the step while their consumers are behind, which limits the number of unread events.
    fn hold_back(&mut self) {
        for (&id, active) in &self.active {
            self.scheduler.hold(id, active.is_backlogged());
        }
    }

    /// Runs the plan's batch and returns the time it took.
    fn forward(&mut self, plan: &StepPlan) -> Result<Duration, BackendError> {
        let batch = self.scheduler.batch(plan);
        let started = Instant::now();
        guard("computing", || self.backend.forward(&batch, &mut self.logits))?;
        let took = started.elapsed();
        let (rows, vocab) = (self.logits.rows(), self.logits.vocab());
        let (wanted, size) = (batch.rows(), self.backend.spec().vocab_size);
        if (rows, vocab) == (wanted, size) {
            Ok(took)
        } else {
            let found = format!("[{rows}, {vocab}] logits; expected [{wanted}, {size}]");
            Err(BackendError::Failed(format!("the backend returned {found}")))
        }
    }

    /// Samples tokens for each span that wanted logits, and delivers them.
    fn advance(&mut self, plan: &StepPlan, took: Duration) {
        self.scheduler.commit(plan);
        let tokens = plan.tokens();
        let mut row = 0;
        for span in &plan.spans {
            if let Some(active) = self.active.get_mut(&span.id) {
                active.add_prefill(took, span.prompt_tokens, tokens);
            }
            // A panic in one request's sampler or text ends only that request; one in the backend ends the requests of
            // its batch.
            let sampled = catch_unwind(AssertUnwindSafe(|| self.sample(span, row)));
            let reason = sampled.unwrap_or_else(|panic| {
                let message = panic_message(&*panic);
                tracing::error!(message, "sampling panicked");
                Some(FinishReason::Error(format!("the engine panicked while sampling: {message}")))
            });
            if let Some(reason) = reason {
                self.finish(span.id, reason);
            }
            row += span.rows();
        }
    }

    /// Samples one sequence's next tokens and delivers them: one, and one more for each confirmed draft. Returns the reason if
    /// the sequence ends.
    fn sample(&mut self, span: &PlannedSpan, first: usize) -> Option<FinishReason> {
        let active = self.active.get_mut(&span.id)?;
        let (mut reason, mut refused) = (None, None);
        for row in first..first + span.rows() {
            let text = active.shift.text(self.scheduler.tokens(span.id));
            let sampled = match active.sampler.sample(self.logits.row_mut(row), text) {
                Ok(sampled) => sampled,
                Err(error) => {
                    reason = Some(if error.is_the_requests() {
                        FinishReason::Refused(error.to_string())
                    } else {
                        FinishReason::Error(error.to_string())
                    });
                    break;
                }
            };
            let token = sampled.token;
            self.speculator.saw(span.id, token);
            reason = active.take(sampled);
            if reason.is_some() {
                break;
            }
            let pushed = self.scheduler.push(span.id, token);
            if pushed == Pushed::Full {
                refused = Some(token);
                break;
            }
            active.shift.push(token);
            if pushed == Pushed::Next {
                break;
            }
            active.usage.accepted_tokens += 1;
        }
        if !active.deliver_taken() {
            return Some(FinishReason::Cancelled);
        }
        reason.or_else(|| self.make_room(span.id, refused?))
    }

    /// The context is full and `token` was refused: drops tokens to make room for it, or returns why the sequence ends.
    pub(super) fn make_room(&mut self, id: SeqId, token: TokenId) -> Option<FinishReason> {
        let Some(keep) = self.active.get(&id)?.shift.keep else { return Some(FinishReason::ContextFull) };
        if self.active.get(&id)?.usage.context_shifts == 0 {
            // After the shift its slot holds only the start of the prompt.
            self.store(id);
        }
        let active = self.active.get_mut(&id)?;
        active.shift.remember(self.scheduler.tokens(id));
        let dropped = self.scheduler.shift(id, keep);
        if dropped == 0 || self.scheduler.push(id, token) != Pushed::Next {
            return Some(FinishReason::ContextFull);
        }
        active.shift.push(token);
        active.usage.context_shifts += 1;
        active.usage.dropped_tokens += dropped;
        let told = active.deliver(Event::Dropped { tokens: dropped, of_prompt: false });
        (!told).then_some(FinishReason::Cancelled)
    }

    /// Ends one request. A failed one leaves nothing in the prefix cache.
    fn finish(&mut self, id: SeqId, reason: FinishReason) {
        let cached = self.scheduler.cached_tokens(id);
        let shifted = self.active.get(&id).is_some_and(|active| active.usage.context_shifts > 0);
        if !shifted && !matches!(reason, FinishReason::Error(_) | FinishReason::Refused(_)) {
            self.store(id);
        }
        match reason {
            FinishReason::Error(_) => self.scheduler.fail(id),
            _ => self.scheduler.finish(id),
        }
        self.speculator.end(id);
        if let Some(drafter) = &mut self.drafter {
            drafter.end(id);
        }
        // The slot must be free before the last event is delivered.
        self.tell_occupancy();
        if let Some(mut active) = self.active.remove(&id) {
            self.ids.remove(&active.key);
            active.usage.cached_tokens = cached;
            active.finish(reason);
        }
    }

    fn tell_occupancy(&self) {
        *self.occupancy.lock().unwrap_or_else(PoisonError::into_inner) = self.scheduler.occupancy();
    }

    /// Handles all pending commands, and waits for one if there is nothing to do. False: stop.
    fn drain_commands(&mut self) -> bool {
        loop {
            let idle = self.scheduler.is_idle();
            if idle {
                self.tell_occupancy();
            }
            let received = if idle {
                self.inbox.recv().ok()
            } else if std::mem::take(&mut self.stalled) {
                self.inbox.recv_timeout(STALL).ok()
            } else {
                self.inbox.try_recv().ok()
            };
            let command = match received {
                Some(command) => command,
                // The engine always sends `Stop` before it is dropped; without a sender an idle worker ends.
                None => return !idle,
            };
            match command {
                Command::Submit { prompt, prefix_cache, active } => self.submit(prompt, prefix_cache, active),
                Command::Cancel { key } => {
                    if let Some(&id) = self.ids.get(&key) {
                        self.finish(id, FinishReason::Cancelled);
                    }
                }
                Command::Stop => return false,
            }
        }
    }

    fn submit(&mut self, prompt: Vec<TokenId>, prefix_cache: bool, mut active: Box<Active>) {
        let stored = self.stored.as_mut().filter(|_| prefix_cache).map_or(0, |stored| stored.find(&prompt));
        match self.scheduler.submit_stored(prompt, prefix_cache, stored) {
            Ok(id) => {
                self.speculator.begin(id, active.speculate);
                if let (Speculate::Draft, Some(drafter)) = (active.speculate, &mut self.drafter) {
                    drafter.begin(id, &active.sampler);
                }
                self.ids.insert(active.key, id);
                let told = active.tell_truncated();
                self.active.insert(id, active);
                if !told {
                    self.finish(id, FinishReason::Cancelled);
                }
            }
            Err(error) => active.finish(FinishReason::Error(error.to_string())),
        }
    }

    /// Applies a slot operation to the backend; returns how many tokens were kept or shared.
    fn apply(&mut self, op: SlotOp) -> Result<usize, BackendError> {
        match op {
            SlotOp::Truncate { slot, len } => guard("truncating", || self.backend.truncate(slot, len)),
            SlotOp::Share { from, to, len } => {
                guard("sharing a prefix", || self.backend.share_prefix(from, to, len))
            }
            SlotOp::Import { id, slot, len } => {
                let Some(stored) = &mut self.stored else { return Ok(0) };
                let tokens = &self.scheduler.tokens(id)[..len];
                guard("importing a prompt", || stored.load(&mut *self.backend, slot, tokens))
            }
        }
    }

    /// Stores an ending sequence's prompt on disk, unless it is stored already.
    pub(super) fn store(&mut self, id: SeqId) {
        let Some(stored) = &mut self.stored else { return };
        let Some((slot, len)) = self.scheduler.kept_prompt(id) else { return };
        if !stored.wants(&self.scheduler.tokens(id)[..len]) {
            return;
        }
        let mut payload = Vec::new();
        match guard("exporting a prompt", || self.backend.export_kv(slot, len, &mut payload)) {
            Ok(len) => stored.store(&self.scheduler.tokens(id)[..len], payload),
            Err(error) => tracing::warn!(%error, "the prompt was not stored"),
        }
    }

    /// After a failed forward call: its sequences are computed again one at a time, and one that fails alone ends.
    fn fail(&mut self, plan: &StepPlan, error: &BackendError) {
        tracing::error!(%error, sequences = plan.spans.len(), "a forward call failed");
        if self.scheduler.isolate(plan) {
            for span in plan.spans.iter().filter(|span| span.want == Want::All) {
                if let Some(active) = self.active.get_mut(&span.id) {
                    // Its drafts were not verified.
                    active.usage.drafted_tokens -= span.len - 1;
                }
            }
            return;
        }
        for span in &plan.spans {
            self.finish(span.id, FinishReason::Error(error.to_string()));
        }
    }

    /// Ends every request; later ones end when their `Active` is dropped.
    fn end_all(&mut self, reason: &FinishReason) {
        for mut active in self.active.drain().map(|(_, active)| active) {
            active.finish(reason.clone());
        }
    }
}

/// Calls the backend; a panic in it becomes an error.
pub(super) fn guard<T>(
    doing: &str,
    call: impl FnOnce() -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        Err(BackendError::Failed(format!("the backend panicked while {doing}: {message}")))
    })
}

/// The message of a panic.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
