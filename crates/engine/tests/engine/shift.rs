//! Sequences that shift when the context is full, together with others that end there: the scheduler's guarantees hold for
//! both. Every token is compared with a fresh run of the shortened text in another mock; the mock checks the trait's rules.

use super::scheduling::{limits, no_import, nothing_leaked, prefix_support, sampling, settle, watch_idle};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::HashMap;
use zonda_engine::forward::{Backend, BackendError, Batch, Limits, Logits, Span, Want};
use zonda_engine::mock::{Fault, FaultKind, Mock, MockOptions};
use zonda_engine::sample::Sampler;
use zonda_engine::schedule::{LEAST_BEHIND, PlannedSpan, Pushed, Scheduler, SeqId, StepPlan, capacity};
use zonda_engine::{SamplingParams, TokenId};

/// One sequence's request.
#[derive(Clone, Debug)]
struct Ask {
    prompt: Vec<TokenId>,
    tokens: usize,
    sampling: SamplingParams,
    prefix_cache: bool,
    arrives: usize,
    cancelled: Option<usize>,
    /// How many tokens a shift keeps at the front; `None`: the sequence ends when the context is full.
    keep: Option<usize>,
}

/// A sequence's tokens: those in the model's context, and the whole text.
#[derive(Clone, Debug, PartialEq)]
struct Text {
    view: Vec<TokenId>,
    whole: Vec<TokenId>,
    prompt: usize,
}

impl Text {
    fn new(ask: &Ask) -> Text {
        Text { view: ask.prompt.clone(), whole: ask.prompt.clone(), prompt: ask.prompt.len() }
    }

    fn answer(&self) -> &[TokenId] {
        &self.whole[self.prompt..]
    }

    /// Drops half of the tokens after the kept prefix.
    fn shift(&mut self, keep: usize, capacity: usize) {
        self.view.drain(keep..keep + (capacity - keep) / 2);
    }

    fn push(&mut self, token: TokenId) {
        self.view.push(token);
        self.whole.push(token);
    }
}

/// The expected answer: each token from a fresh run of the whole shortened text.
fn fresh(ask: &Ask, seed: u64, capacity: usize) -> Vec<TokenId> {
    let mut mock = Mock::new(MockOptions { seed, ..MockOptions::default() });
    let (mut sampler, mut logits) = (Sampler::new(ask.sampling.clone()), Logits::new());
    let mut text = Text::new(ask);
    loop {
        mock.truncate(0, 0).unwrap();
        let span = Span { slot: 0, start: 0, tokens: &text.view, want: Want::Last };
        mock.forward(&Batch { spans: vec![span] }, &mut logits).unwrap();
        let token = sampler.sample(logits.row_mut(0), &text.whole).unwrap().token;
        let full = text.view.len() == capacity;
        let ends = text.answer().len() + 1 == ask.tokens || (full && ask.keep.is_none());
        if let Some(keep) = ask.keep.filter(|_| full && !ends) {
            text.shift(keep, capacity);
        }
        text.push(token);
        if ends {
            return text.answer().to_vec();
        }
    }
}

/// The worker's loop without threads.
struct Harness {
    scheduler: Scheduler,
    mock: Mock,
    logits: Logits,
    limits: Limits,
    chunk: usize,
    asks: Vec<Ask>,
    truth: Vec<Vec<TokenId>>,
    texts: Vec<Text>,
    samplers: Vec<Sampler>,
    ended: Vec<bool>,
    failed: Vec<bool>,
    ids: HashMap<SeqId, usize>,
    idle: HashMap<SeqId, usize>,
    /// Prompt tokens that were computed for the first time.
    prefilled: Vec<usize>,
    shifts: usize,
    /// The maximum length of drafts, and how many in a hundred of their tokens are right.
    drafts: Option<(usize, usize)>,
}

impl Harness {
    fn new(options: MockOptions, chunk: usize, asks: Vec<Ask>) -> Harness {
        let limits = options.limits;
        let truth = asks.iter().map(|ask| fresh(ask, options.seed, capacity(&limits))).collect();
        Harness {
            scheduler: Scheduler::new(limits, chunk).expect("sane limits"),
            mock: Mock::new(options),
            logits: Logits::new(),
            limits,
            chunk,
            truth,
            texts: asks.iter().map(Text::new).collect(),
            samplers: asks.iter().map(|ask| Sampler::new(ask.sampling.clone())).collect(),
            ended: vec![false; asks.len()],
            failed: vec![false; asks.len()],
            ids: HashMap::new(),
            idle: HashMap::new(),
            prefilled: vec![0; asks.len()],
            shifts: 0,
            drafts: None,
            asks,
        }
    }

    /// Runs until all have ended, and checks each answer and the tokens left in slots.
    fn run(mut self) -> Harness {
        for step in 0.. {
            assert!(step < 20_000, "the run does not end: {:?}", self.scheduler.occupancy());
            self.come_and_go(step);
            self.draft(step);
            self.settle();
            self.step();
            if self.ended.iter().all(|&ended| ended) {
                break;
            }
        }
        self.settle();
        for (i, text) in self.texts.iter().enumerate() {
            let whole = !self.failed[i] && self.asks[i].cancelled.is_none();
            let expected = if whole { &self.truth[i][..] } else { &self.truth[i][..text.answer().len()] };
            assert_eq!(text.answer(), expected, "sequence {i}: {:?}", self.asks[i]);
        }
        nothing_leaked(&self.scheduler, &self.mock, self.limits.slots);
        self
    }

    fn come_and_go(&mut self, step: usize) {
        for (i, ask) in self.asks.iter().enumerate().filter(|(_, ask)| ask.arrives == step) {
            let id = self.scheduler.submit(ask.prompt.clone(), ask.prefix_cache).expect("it fits");
            self.ids.insert(id, i);
        }
        for (id, i) in self.ids.clone() {
            if !self.ended[i] && self.asks[i].cancelled.is_some_and(|at| at <= step) {
                self.end(id);
            }
        }
    }

    fn draft(&mut self, step: usize) {
        let Some((most, right)) = self.drafts else { return };
        for id in self.scheduler.running().collect::<Vec<_>>() {
            let i = self.ids[&id];
            let done = self.texts[i].answer().len();
            let hash = |at: usize| (step * 31 + i * 17 + at * 7919) % 100;
            let token = |at: usize| match self.truth[i].get(done + at) {
                Some(&token) if hash(at) < right => token,
                _ => 290,
            };
            let wanted = (hash(0) % (most + 1)).min(self.asks[i].tokens - done);
            let draft: Vec<TokenId> = (0..wanted).map(token).collect();
            self.scheduler.draft(id, &draft);
        }
    }

    fn settle(&mut self) {
        settle(&mut self.scheduler, &mut self.mock, no_import);
    }

    fn step(&mut self) {
        let mut plan = StepPlan::default();
        self.scheduler.plan(&mut plan);
        let running: Vec<SeqId> = self.scheduler.running().collect();
        let decodes = |s: &&PlannedSpan| (s.len == 1 && s.want == Want::Last) || s.want == Want::All;
        let beside = plan.tokens() - plan.spans.iter().filter(decodes).map(|s| s.len).sum::<usize>();
        assert!(beside <= self.chunk || !plan.spans.iter().any(|s| decodes(&s)), "{beside} beside decodes");
        let decodes = |id| self.scheduler.decodes(id);
        if self.scheduler.is_isolating() {
            self.idle.clear();
        } else {
            watch_idle(&mut self.idle, &running, &plan, self.limits.slots, decodes);
        }
        if plan.spans.is_empty() {
            assert_eq!(self.scheduler.occupancy().waiting, 0, "sequences wait although none runs");
            return;
        }
        match self.mock.forward(&self.scheduler.batch(&plan), &mut self.logits) {
            Ok(()) => self.advance(&plan),
            Err(BackendError::Batch(error)) => panic!("the scheduler made a bad batch: {error}"),
            Err(_) if self.scheduler.isolate(&plan) => {}
            Err(_) => plan.spans.iter().for_each(|span| {
                self.failed[self.ids[&span.id]] = true;
                self.scheduler.fail(span.id);
                self.end(span.id);
            }),
        }
        let left: Vec<SeqId> = self.scheduler.running().collect();
        self.idle.retain(|id, _| left.contains(id));
    }

    fn advance(&mut self, plan: &StepPlan) {
        self.scheduler.commit(plan);
        let mut first = 0;
        for span in &plan.spans {
            let i = self.ids[&span.id];
            self.prefilled[i] += span.prompt_tokens;
            for row in first..first + span.rows() {
                assert_eq!(self.scheduler.tokens(span.id), self.texts[i].view, "sequence {i}");
                let sampled = self.samplers[i].sample(self.logits.row_mut(row), &self.texts[i].whole);
                if self.take(span.id, i, sampled.expect("finite logits").token) {
                    break;
                }
            }
            first += span.rows();
        }
    }

    /// Accepts a token of a sequence; true if it was the last of the step.
    fn take(&mut self, id: SeqId, i: usize, token: TokenId) -> bool {
        let full = self.texts[i].view.len() == capacity(&self.limits);
        if self.texts[i].answer().len() + 1 == self.asks[i].tokens {
            self.texts[i].push(token);
            self.end(id);
            return true;
        }
        let mut pushed = self.scheduler.push(id, token);
        assert_eq!(pushed == Pushed::Full, full);
        if let Some(keep) = self.asks[i].keep.filter(|_| full) {
            let before = self.texts[i].view.len();
            self.texts[i].shift(keep, before);
            assert_eq!(self.scheduler.shift(id, keep), before - self.texts[i].view.len());
            assert_eq!(self.scheduler.shift(id, keep), 0, "a second shift has nothing to drop");
            self.shifts += 1;
            pushed = self.scheduler.push(id, token);
            assert_eq!(pushed, Pushed::Next);
        }
        self.texts[i].push(token);
        if pushed == Pushed::Full {
            self.end(id);
        }
        pushed != Pushed::Drafted
    }

    fn end(&mut self, id: SeqId) {
        let i = self.ids[&id];
        if !self.failed[i] && self.asks[i].cancelled.is_none() {
            let cached = self.scheduler.cached_tokens(id);
            assert_eq!(
                self.prefilled[i] + cached,
                self.asks[i].prompt.len(),
                "each prompt token counts once"
            );
        }
        self.scheduler.finish(id);
        self.ended[i] = true;
    }
}

/// Prompts with shared prefixes, answers longer than the context, and kept prefixes of every length that leaves room.
fn ask(context: usize) -> impl Strategy<Value = Ask> {
    let prompt = (0..context, prop::collection::vec(0u32..4, 1..6))
        .prop_map(move |(shared, own)| (300..300 + shared as u32).chain(own).take(context).collect());
    let cancelled = prop::option::weighted(0.2, 0usize..90);
    let keep = prop::option::weighted(0.7, 0..=context - LEAST_BEHIND);
    (prompt, 1..3 * context, sampling(), any::<bool>(), 0usize..40, cancelled, keep).prop_map(
        |(prompt, tokens, sampling, prefix_cache, arrives, cancelled, keep): (
            Vec<TokenId>,
            _,
            _,
            _,
            _,
            _,
            _,
        )| {
            let keep = keep.map(|keep: usize| keep.min(prompt.len()));
            Ask { prompt, tokens, sampling, prefix_cache, arrives, cancelled, keep }
        },
    )
}

prop_compose! {
    fn scenario()(limits in limits(1..6, 4..40))(
        asks in prop::collection::vec(ask(limits.context), 1..10),
        limits in Just(limits),
        chunk in 1usize..20,
        seed in any::<u64>(),
        prefix in prefix_support(),
        fault in prop::option::weighted(0.2, 0usize..60),
    ) -> (MockOptions, usize, Vec<Ask>) {
        let faults = fault.map(|call| Fault::call(call, FaultKind::Error)).into_iter().collect();
        (MockOptions { seed, limits, prefix, faults, ..MockOptions::default() }, chunk, asks)
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Random arrivals, cancellations, failures, lengths and limits, shifted or not: each sequence gets the tokens of a fresh
    /// run of its shortened text, nothing leaks, none starves.
    #[test]
    fn a_shifted_sequence_goes_on_as_its_shortened_text_would((options, chunk, asks) in scenario()) {
        Harness::new(options, chunk, asks).run();
    }

    /// The same with drafts.
    #[test]
    fn drafts_change_nothing_of_it(
        (options, chunk, asks) in scenario(),
        most in 1usize..12,
        right in prop_oneof![Just(0usize), Just(100), 0usize..101],
    ) {
        Harness { drafts: Some((most, right)), ..Harness::new(options, chunk, asks) }.run();
    }
}

fn greedy(tokens: usize, keep: Option<usize>) -> Ask {
    Ask {
        prompt: vec![300; 4],
        tokens,
        sampling: SamplingParams::greedy(),
        prefix_cache: true,
        arrives: 0,
        cancelled: None,
        keep,
    }
}

fn options(slots: usize, kv_tokens: usize) -> MockOptions {
    let limits = Limits { slots, batch_tokens: 32, context: 64, kv_tokens, kv_page: 4 };
    MockOptions { limits, ..MockOptions::default() }
}

#[test]
fn shifts_recur_when_the_freed_half_is_full_again() {
    let harness = Harness::new(options(1, 64), 16, vec![greedy(500, Some(4))]).run();
    // 60 tokens fill the context; after that, every 30 tokens need a shift.
    assert_eq!(harness.shifts, (500usize - 61).div_ceil(30));
    assert_eq!(harness.texts[0].answer().len(), 500);
}

#[test]
fn a_shift_delays_no_decode() {
    let later = Ask { arrives: 30, ..greedy(60, None) };
    let mut harness = Harness::new(options(2, 128), 4, vec![greedy(200, Some(0)), later]);
    for step in 0..90 {
        harness.come_and_go(step);
        harness.settle();
        harness.step();
        // One token per step from the first on, although the other recomputes 33 tokens, 4 at a time.
        let [first, second] = [0, 1].map(|i: usize| harness.texts[i].answer().len());
        assert_eq!(second, (step + 1).saturating_sub(30));
        assert_eq!(first, (step + 1).min(61) + (step + 1).saturating_sub(61 + 8));
    }
    assert_eq!(harness.shifts, 1);
}

#[test]
fn without_shifts_a_sequence_ends_with_the_context() {
    let harness = Harness::new(options(1, 64), 16, vec![greedy(500, None)]).run();
    assert_eq!((harness.texts[0].answer().len(), harness.shifts), (61, 0));
}
