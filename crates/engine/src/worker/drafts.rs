//! The worker's part in speculation: the clock, the draft model's calls, and handing drafts to the scheduler.

use super::draft_model::DraftTask;
use super::run::{Worker, guard};
use crate::TokenId;
use crate::forward::Batch;
use crate::forward::{Backend, BackendError, Logits, Span, Want};
use crate::schedule::{SeqId, StepPlan};
use crate::speculate::DraftRequest;
use crate::speculate::cost::Costs;
use std::time::{Duration, Instant};

/// The token counts of measured steps.
const COUNTS: [usize; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 17, 24, 33, 64];
/// Tokens that the sequence holds during the measurement.
const HELD: usize = 32;
/// Each count is measured this often, or until this time has passed.
const STEPS: usize = 5;
const ENOUGH: Duration = Duration::from_millis(60);

impl Worker {
    /// Hands drafts to the scheduler, for the next step to verify.
    pub(super) fn speculate(&mut self) {
        if self.speculator.is_idle() {
            return;
        }
        let Worker { scheduler, speculator, drafter, active, .. } = self;
        let ids = scheduler.running().filter(|&id| speculator.knows(id));
        let requests: Vec<DraftRequest<'_>> = ids
            .filter_map(|id| {
                // The step gives one more token than were drafted.
                let (active, tokens) = (active.get(&id)?, scheduler.tokens(id));
                let room = scheduler.draft_room(id).min(active.wants().saturating_sub(1));
                let request = DraftRequest { id, tokens, text: active.shift.text(tokens), room };
                scheduler.decodes(id).then_some(request)
            })
            .collect();
        let decoding = scheduler.running().filter(|&id| scheduler.decodes(id)).count();
        if requests.is_empty() {
            return;
        }
        if speculator.plan(&requests, decoding)
            && let Some(draft_model) = drafter
        {
            let mut tasks: Vec<DraftTask> = Vec::new();
            for (id, most) in speculator.wanted_drafts() {
                let Some(DraftRequest { tokens, text, .. }) = requests.iter().find(|r| r.id == id) else {
                    continue;
                };
                let text = (text.len() > tokens.len()).then(|| text.to_vec());
                tasks.push(DraftTask { id, tokens: tokens.to_vec(), text, most, made: Vec::new() });
            }
            let began = Instant::now();
            match guard("drafting", || draft_model.draft(&mut tasks)) {
                Ok(rounds) => {
                    tasks.into_iter().for_each(|task| speculator.drafted(task.id, task.made));
                    speculator.drafting_took(rounds, began.elapsed());
                }
                Err(error) => {
                    tracing::error!(%error, "the draft model failed: no more drafts are made with it");
                    speculator.draft_model_failed();
                    *drafter = None;
                }
            }
        }
        let proposals: Vec<(SeqId, Vec<TokenId>)> =
            requests.iter().map(|request| (request.id, speculator.proposal(request.id).collect())).collect();
        for (id, tokens) in proposals {
            let drafted = scheduler.draft(id, &tokens);
            if let Some(active) = active.get_mut(&id) {
                active.usage.drafted_tokens += drafted;
            }
        }
    }

    /// Updates the cost estimate from a step's time, if the step only decoded.
    pub(super) fn note_step(&mut self, plan: &StepPlan, took: Duration) {
        if !self.speculator.is_idle() && plan.spans.iter().all(|s| s.rows() == s.len) {
            self.speculator.step_took(plan.tokens(), took);
        }
    }
}

/// Measures the cost of a step by the number of tokens it verifies. Slot 0 must be empty, and is left empty.
///
/// # Errors
/// The backend's.
pub(super) fn measure_costs(backend: &mut dyn Backend, most: usize) -> Result<Costs, BackendError> {
    let limits = backend.limits();
    let room = limits.context.min(limits.kv_tokens).min(limits.batch_tokens).saturating_sub(HELD);
    // One count above the maximum, so that all counts up to it are interpolated.
    let enough = COUNTS.iter().position(|&n| n > most).unwrap_or(COUNTS.len() - 1);
    let counts = COUNTS.iter().take(enough + 1).take_while(|&&n| n <= room);
    let mut points = Vec::with_capacity(COUNTS.len());
    let mut logits = Logits::new();
    let vocab = backend.spec().vocab_size.max(1);
    let tokens: Vec<TokenId> = (0..HELD + 64).map(|i| ((i * 7 + 1) % vocab) as TokenId).collect();
    let mut step = |backend: &mut dyn Backend, start: usize, len: usize| {
        let want = if start == 0 { Want::Last } else { Want::All };
        let batch = Batch { spans: vec![Span { slot: 0, start, tokens: &tokens[start..start + len], want }] };
        let began = Instant::now();
        backend.forward(&batch, &mut logits)?;
        let took = began.elapsed();
        Ok::<_, BackendError>((backend.truncate(0, HELD)? == HELD).then_some(took))
    };
    for &count in counts {
        if points.is_empty() {
            step(backend, 0, HELD)?;
            // The first step wakes threads and touches memory. A backend that can't shorten a slot verifies no drafts.
            if step(backend, HELD, 1)?.is_none() {
                break;
            }
        }
        let (began, mut fastest) = (Instant::now(), Duration::MAX);
        for _ in 0..STEPS {
            fastest = fastest.min(step(backend, HELD, count)?.unwrap_or(fastest));
            if began.elapsed() > ENOUGH {
                break;
            }
        }
        points.push((count, fastest));
    }
    backend.truncate(0, 0)?;
    let shown: Vec<String> =
        points.iter().map(|(n, took)| format!("{n}: {:.2}", took.as_secs_f64() * 1e3)).collect();
    tracing::info!(ms_by_tokens = shown.join(", "), "verification, measured");
    Ok(Costs::measured(&points))
}
