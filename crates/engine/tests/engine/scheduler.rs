//! The scheduler's promises, with the mock as referee: it refuses any batch that breaks the trait's rules or finds no
//! KV room, and its tokens depend on every token computed before them.

use super::scheduling::{
    limits, no_import, nothing_leaked, prefix_support, prompt, sampling, settle, watch_idle,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::{HashMap, HashSet};
use zonda_engine::forward::{Backend, BackendError, Batch, Limits, Logits, Span, Want};
use zonda_engine::mock::{Fault, FaultKind, Mock, MockOptions, PrefixSupport};
use zonda_engine::sample::Sampler;
use zonda_engine::schedule::{PlannedSpan, Pushed, ScheduleError, Scheduler, SeqId, StepPlan, capacity};
use zonda_engine::{SamplingParams, TokenId};

/// What one sequence wants.
#[derive(Clone, Debug)]
struct Ask {
    prompt: Vec<TokenId>,
    tokens: usize,
    sampling: SamplingParams,
    prefix_cache: bool,
    /// The step in which it arrives.
    arrives: usize,
    /// The step in which it is cancelled, if it still is there.
    cancelled: Option<usize>,
}

impl Ask {
    fn greedy(prompt: Vec<TokenId>, tokens: usize) -> Ask {
        let sampling = SamplingParams::greedy();
        Ask { prompt, tokens, sampling, prefix_cache: false, arrives: 0, cancelled: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    Cancelled,
    Failed,
}

/// The worker's loop without its threads and channels, watching the scheduler.
struct Harness {
    scheduler: Scheduler,
    mock: Mock,
    logits: Logits,
    asks: Vec<Ask>,
    /// By index into `asks`.
    tokens: Vec<Vec<TokenId>>,
    samplers: Vec<Sampler>,
    /// Prompt tokens that were computed for the first time.
    prefilled: Vec<usize>,
    ends: Vec<Option<End>>,
    index: HashMap<SeqId, usize>,
    /// Steps since each running sequence was last in a batch.
    idle: HashMap<SeqId, usize>,
    /// Sequences that were given a token in the last step and kept their slot.
    decoding: HashSet<SeqId>,
    limits: Limits,
    chunk: usize,
    /// Sequences that lost their slot before they ended.
    preemptions: usize,
    /// Tokens sent through the backend.
    computed: usize,
    /// What is drafted, if anything: how long drafts are and what share of their tokens is right.
    speculation: Option<Speculation>,
    /// By index into `asks`: what each generates alone.
    truth: Vec<Vec<TokenId>>,
    /// Drafted tokens that turned out right.
    accepted: usize,
}

/// Drafts of up to `most` tokens, `right` of 100 of which are the true ones.
#[derive(Clone, Copy, Debug)]
struct Speculation {
    most: usize,
    right: usize,
}

impl Harness {
    fn new(options: MockOptions, chunk: usize, asks: Vec<Ask>) -> Harness {
        let limits = options.limits;
        Harness {
            scheduler: Scheduler::new(limits, chunk).expect("sane limits"),
            mock: Mock::new(options),
            logits: Logits::new(),
            tokens: vec![Vec::new(); asks.len()],
            samplers: asks.iter().map(|a| Sampler::new(a.sampling.clone())).collect(),
            prefilled: vec![0; asks.len()],
            ends: vec![None; asks.len()],
            asks,
            index: HashMap::new(),
            idle: HashMap::new(),
            decoding: HashSet::new(),
            limits,
            chunk,
            preemptions: 0,
            computed: 0,
            speculation: None,
            truth: Vec::new(),
            accepted: 0,
        }
    }

    /// Drafts for sequences whose true continuations are known.
    fn speculating(self, speculation: Option<Speculation>, truth: Vec<Vec<TokenId>>) -> Harness {
        Harness { speculation, truth, ..self }
    }

    /// Drafts for everyone who decodes; which tokens are wrong is a hash of where they stand.
    fn draft(&mut self, step: usize) {
        let Some(Speculation { most, right }) = self.speculation else { return };
        let running: Vec<SeqId> = self.scheduler.running().collect();
        for id in running {
            let (i, room) = (self.index[&id], self.scheduler.draft_room(id));
            assert!(room == 0 || self.scheduler.decodes(id));
            let done = self.tokens[i].len();
            let hash = |at: usize| (step * 31 + i * 17 + at * 7919) % 100;
            let token = |at: usize| match self.truth[i].get(done + at) {
                Some(&token) if hash(at) < right => token,
                _ => 290,
            };
            let wanted = (hash(0) % (most + 1)).min(self.asks[i].tokens - done);
            let draft: Vec<TokenId> = (0..wanted).map(token).collect();
            assert_eq!(self.scheduler.draft(id, &draft), wanted.min(room));
            assert_eq!(
                self.scheduler.tokens(id).len(),
                self.asks[i].prompt.len() + done,
                "drafts are not its tokens"
            );
        }
    }

    /// Runs until every ask has ended.
    fn run(&mut self) {
        for step in 0.. {
            assert!(step < 20_000, "no end in sight: {:?}", self.scheduler.occupancy());
            self.come_and_go(step);
            self.draft(step);
            self.settle();
            self.step();
            if self.ends.iter().all(Option::is_some) {
                break;
            }
        }
        self.settle();
        nothing_leaked(&self.scheduler, &self.mock, self.limits.slots);
    }

    fn come_and_go(&mut self, step: usize) {
        for (i, ask) in self.asks.iter().enumerate() {
            if ask.arrives == step {
                let id = self.scheduler.submit(ask.prompt.clone(), ask.prefix_cache).expect("it fits");
                self.index.insert(id, i);
            }
        }
        let gone: Vec<(SeqId, usize)> = self.index.iter().map(|(&id, &i)| (id, i)).collect();
        for (id, i) in gone {
            if self.ends[i].is_none() && self.asks[i].cancelled == Some(step) {
                self.end(id, End::Cancelled);
            }
        }
    }

    fn settle(&mut self) {
        settle(&mut self.scheduler, &mut self.mock, no_import);
    }

    fn step(&mut self) {
        let running: Vec<SeqId> = self.scheduler.running().collect();
        self.running_are_the_oldest(&running);
        let mut plan = StepPlan::default();
        self.scheduler.plan(&mut plan);
        self.plan_is_fair(&plan, &running);
        if plan.spans.is_empty() {
            assert_eq!(self.scheduler.occupancy().waiting, 0, "waiting, and nothing runs");
            return;
        }
        let batch = self.scheduler.batch(&plan);
        self.computed += batch.tokens();
        let result = self.mock.forward(&batch, &mut self.logits);
        match result {
            Ok(()) => self.advance(&plan),
            Err(BackendError::Batch(error)) => panic!("the scheduler made a bad batch: {error}"),
            Err(_) => plan.spans.iter().for_each(|s| self.end(s.id, End::Failed)),
        }
        let left: Vec<SeqId> = self.scheduler.running().collect();
        let lost = |id: &&SeqId| !left.contains(id) && self.ends[self.index[id]].is_none();
        self.preemptions += running.iter().filter(lost).count();
        self.idle.retain(|id, _| left.contains(id));
        self.decoding.retain(|id| left.contains(id));
        let occupancy = self.scheduler.occupancy();
        assert!(occupancy.free_pages <= occupancy.total_pages);
    }

    /// First come, first served: whoever waits came after all who run.
    fn running_are_the_oldest(&self, running: &[SeqId]) {
        assert!(running.is_sorted());
        let unfinished = |id: &SeqId| self.ends[self.index[id]].is_none();
        let mut oldest: Vec<SeqId> = self.index.keys().copied().filter(unfinished).collect();
        oldest.sort_unstable();
        oldest.truncate(running.len());
        assert_eq!(running, oldest);
    }

    fn plan_is_fair(&mut self, plan: &StepPlan, running: &[SeqId]) {
        let decodes = |s: &&PlannedSpan| (s.len == 1 && s.want == Want::Last) || s.want == Want::All;
        let prefill = plan.tokens() - plan.spans.iter().filter(decodes).map(|s| s.len).sum::<usize>();
        let decodes = plan.spans.iter().filter(decodes).count();
        if decodes > 0 {
            assert!(prefill <= self.chunk, "{prefill} prefill tokens beside {decodes} decodes");
        }
        let decoded = |id| self.decoding.contains(&id);
        watch_idle(&mut self.idle, running, plan, self.limits.slots, decoded);
        self.decoding.clear();
    }

    fn advance(&mut self, plan: &StepPlan) {
        self.scheduler.commit(plan);
        let capacity = capacity(&self.limits);
        let mut row = 0;
        for span in &plan.spans {
            let i = self.index[&span.id];
            self.prefilled[i] += span.prompt_tokens;
            for row in row..row + span.rows() {
                let history = self.scheduler.tokens(span.id);
                let sampled =
                    self.samplers[i].sample(self.logits.row_mut(row), history).expect("finite logits");
                self.tokens[i].push(sampled.token);
                let full = self.asks[i].prompt.len() + self.tokens[i].len() > capacity;
                if self.tokens[i].len() == self.asks[i].tokens {
                    self.end(span.id, End::Finished);
                    break;
                }
                match self.scheduler.push(span.id, sampled.token) {
                    Pushed::Full => {
                        assert!(full, "refused a token with room left");
                        self.end(span.id, End::Finished);
                        break;
                    }
                    Pushed::Next => {
                        assert!(!full, "took a token beyond the context");
                        self.decoding.insert(span.id);
                        break;
                    }
                    Pushed::Drafted => self.accepted += 1,
                }
            }
            row += span.rows();
        }
    }

    fn end(&mut self, id: SeqId, end: End) {
        if end == End::Finished {
            // However often it was put back, each token of the prompt was reused or computed first, once.
            let i = self.index[&id];
            let cached = self.scheduler.cached_tokens(id);
            assert_eq!(self.prefilled[i] + cached, self.asks[i].prompt.len());
        }
        match end {
            End::Failed => self.scheduler.fail(id),
            _ => self.scheduler.finish(id),
        }
        self.ends[self.index[&id]] = Some(end);
        assert!(self.scheduler.running().all(|r| r != id), "its slot is free at once");
    }
}

/// What a sequence generates alone, one token a call, in a mock with room for all.
fn alone(ask: &Ask, seed: u64, tokens: usize) -> Vec<TokenId> {
    let mut mock = Mock::new(MockOptions { seed, ..MockOptions::default() });
    let mut sampler = Sampler::new(ask.sampling.clone());
    let mut logits = Logits::new();
    let mut history = ask.prompt.clone();
    let mut start = 0;
    while history.len() < ask.prompt.len() + tokens {
        let span = Span { slot: 0, start, tokens: &history[start..=start], want: Want::Last };
        mock.forward(&Batch { spans: vec![span] }, &mut logits).expect("a lone token");
        start += 1;
        if start == history.len() {
            history.push(sampler.sample(logits.row_mut(0), &history).expect("finite logits").token);
        }
    }
    history.split_off(ask.prompt.len())
}

fn check(options: MockOptions, chunk: usize, asks: Vec<Ask>) -> Harness {
    check_speculating(options, chunk, asks, None)
}

fn check_speculating(
    options: MockOptions,
    chunk: usize,
    asks: Vec<Ask>,
    speculation: Option<Speculation>,
) -> Harness {
    let (seed, capacity) = (options.seed, capacity(&options.limits));
    let truth = asks.iter().map(|ask| alone(ask, seed, ask.tokens.min(capacity - ask.prompt.len() + 1)));
    let truth = truth.collect();
    let mut harness = Harness::new(options, chunk, asks).speculating(speculation, truth);
    harness.run();
    for (i, expected) in harness.truth.iter().enumerate() {
        let found = &harness.tokens[i];
        match harness.ends[i] {
            Some(End::Finished) => assert_eq!(found, expected, "sequence {i}"),
            _ => assert!(expected.starts_with(found), "sequence {i}"),
        }
    }
    harness
}

fn ask(longest: usize) -> impl Strategy<Value = Ask> {
    let cancelled = prop::option::weighted(0.2, 0usize..60);
    (prompt(longest), 1usize..30, sampling(), any::<bool>(), 0usize..40, cancelled).prop_map(
        |(prompt, tokens, sampling, prefix_cache, arrives, cancelled)| Ask {
            prompt,
            tokens,
            sampling,
            prefix_cache,
            arrives,
            cancelled,
        },
    )
}

prop_compose! {
    fn scenario()(limits in limits(1..7, 4..60))(
        asks in prop::collection::vec(ask(limits.context), 1..16),
        limits in Just(limits),
        chunk in 1usize..20,
        seed in any::<u64>(),
        prefix in prefix_support(),
        fault in prop::option::weighted(0.2, 0usize..40),
    ) -> (MockOptions, usize, Vec<Ask>) {
        let fault = fault.map(|call| Fault { call, kind: FaultKind::Error });
        (MockOptions { seed, limits, prefix, fault, ..MockOptions::default() }, chunk, asks)
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Random arrivals, cancellations, failures, lengths, limits and prefix support: every sequence gets exactly
    /// the tokens it gets alone, nothing leaks, nobody starves, and the mock finds no fault.
    #[test]
    fn output_is_independent_of_batching((options, chunk, asks) in scenario()) {
        check(options, chunk, asks);
    }

    /// The same with drafts, good and bad ones: no token changes, nothing leaks, nobody waits longer.
    #[test]
    fn output_is_independent_of_speculation(
        (options, chunk, asks) in scenario(),
        most in 1usize..12,
        right in prop_oneof![Just(0usize), Just(100), 0usize..101],
    ) {
        check_speculating(options, chunk, asks, Some(Speculation { most, right }));
    }

    /// The prefix cache saves work; it never changes a token.
    #[test]
    fn prefix_cache_changes_nothing((options, chunk, asks) in scenario()) {
        let options = MockOptions { fault: None, ..options };
        let with = |on| asks.iter().map(|a| Ask { prefix_cache: on, cancelled: None, ..a.clone() }).collect();
        let on = check(options.clone(), chunk, with(true));
        let off = check(options, chunk, with(false));
        prop_assert_eq!(on.tokens, off.tokens);
    }
}

fn limits_of(slots: usize, batch_tokens: usize, kv_tokens: usize) -> MockOptions {
    let limits = Limits { slots, batch_tokens, context: 64, kv_tokens, kv_page: 4 };
    MockOptions { limits, ..MockOptions::default() }
}

#[test]
fn the_youngest_is_put_back_when_room_runs_out_and_still_finishes() {
    // Four sequences of 4 + 28 tokens need 32 pages; there are 16.
    let asks = (0..4).map(|i| Ask::greedy(vec![300 + i; 4], 28)).collect();
    let harness = check(limits_of(4, 64, 64), 16, asks);
    assert!(harness.preemptions > 0);
    assert!(harness.ends.iter().all(|e| *e == Some(End::Finished)));
}

#[test]
fn right_drafts_save_steps_and_wrong_ones_cost_no_other_step() {
    let run = |right: Option<usize>| {
        let speculation = right.map(|right| Speculation { most: 4, right });
        let asks = (0..3).map(|i| Ask::greedy(vec![300 + i; 4], 40)).collect();
        check_speculating(limits_of(4, 64, 256), 16, asks, speculation)
    };
    let (plain, right, wrong) = (run(None), run(Some(100)), run(Some(0)));
    assert_eq!((plain.accepted, wrong.accepted), (0, 0));
    assert!(right.accepted > 60, "{}", right.accepted);
    // Right drafts are computed once, like any token; wrong ones are computed in vain.
    assert!(right.computed <= plain.computed + 3, "but for one at each end: {}", right.computed);
    assert!(wrong.computed > plain.computed + 60);
}

#[test]
fn a_backend_that_cannot_shorten_a_slot_is_asked_to_verify_once() {
    let options = MockOptions { prefix: PrefixSupport::Never, ..limits_of(1, 64, 64) };
    let speculation = Some(Speculation { most: 4, right: 0 });
    let harness = check_speculating(options, 16, vec![Ask::greedy(vec![300; 4], 30)], speculation);
    assert!(
        harness.scheduler.draft_room(0) == 0 && harness.computed < 4 + 30 + 2 * 34,
        "{}",
        harness.computed
    );
}

#[test]
fn one_sequence_may_fill_all_room() {
    let harness = check(limits_of(4, 64, 64), 16, vec![Ask::greedy(vec![300; 10], 1000)]);
    assert_eq!(harness.tokens[0].len(), 55);
}

#[test]
fn decodes_never_wait_for_a_long_prompt() {
    let mut long = Ask::greedy(vec![301; 60], 1);
    long.arrives = 2;
    let mut harness = Harness::new(limits_of(2, 64, 256), 8, vec![Ask::greedy(vec![300; 4], 30), long]);
    for step in 0..9 {
        harness.come_and_go(step);
        harness.settle();
        harness.step();
        // One token a step from the first on, though the long prompt takes 8 steps of 8 tokens.
        assert_eq!(harness.tokens[0].len(), step + 1);
    }
    assert_eq!(harness.computed, 4 + 8 + 7 * 8);
}

#[test]
fn a_lone_prompt_takes_whole_batches() {
    let mut harness = Harness::new(limits_of(2, 32, 256), 8, vec![Ask::greedy(vec![300; 60], 1)]);
    harness.come_and_go(0);
    harness.settle();
    harness.step();
    assert_eq!(harness.computed, 32);
}

#[test]
fn a_stream_of_short_prompts_does_not_starve_a_long_one() {
    // In every step a prompt arrives that could take the whole batch.
    let short = |arrives| Ask { arrives, ..Ask::greedy(vec![301; 8], 1) };
    let asks: Vec<Ask> = std::iter::once(Ask::greedy(vec![300; 60], 1)).chain((0..40).map(short)).collect();
    let mut harness = Harness::new(limits_of(3, 8, 256), 8, asks);
    for step in 0..24 {
        harness.come_and_go(step);
        harness.settle();
        harness.step();
    }
    assert_eq!(harness.ends[0], Some(End::Finished));
}

#[test]
fn a_shared_beginning_is_computed_once() {
    let system: Vec<TokenId> = (300..340).collect();
    let turn = |own: TokenId, arrives| Ask {
        prefix_cache: true,
        arrives,
        ..Ask::greedy([&system[..], &[own, own]].concat(), 4)
    };
    // One after the other; the cached beginning is kept for the third, too.
    let harness = check(limits_of(4, 64, 256), 64, vec![turn(1, 0), turn(2, 20), turn(3, 40)]);
    let first = 42 + 3;
    let follower = 2 + 3;
    assert_eq!(harness.computed, first + 2 * follower);
    assert_eq!(harness.scheduler.occupancy().cached, 3);
}

#[test]
fn a_running_sequence_shares_its_beginning() {
    let turn = |own: TokenId, arrives| Ask {
        prefix_cache: true,
        arrives,
        ..Ask::greedy([&[300; 40][..], &[own, own]].concat(), 20)
    };
    let harness = check(limits_of(4, 64, 256), 64, vec![turn(1, 0), turn(2, 5)]);
    assert_eq!(harness.computed, (42 + 19) + (2 + 19));
}

#[test]
fn the_least_recently_used_conversation_is_dropped_first() {
    let turn =
        |token: TokenId, arrives| Ask { prefix_cache: true, arrives, ..Ask::greedy(vec![token; 10], 1) };
    // Two slots; 301 is the older when 302 comes, since 300 was used again.
    let asks = vec![turn(300, 0), turn(301, 5), turn(300, 10), turn(302, 15), turn(300, 20)];
    let harness = check(limits_of(2, 64, 256), 64, asks);
    assert_eq!(harness.computed, 10 + 10 + 1 + 10 + 1);
}

#[test]
fn a_conversation_that_is_shared_from_counts_as_used() {
    let ask =
        |prompt: &[TokenId], arrives| Ask { prefix_cache: true, arrives, ..Ask::greedy(prompt.into(), 1) };
    let (one, two, three) = ([300; 20], [301; 20], [302; 20]);
    let branch = [&one[..10], &[7, 8, 9]].concat();
    // Three slots: the branch shares from one, so it is two that three pushes out, and one is still whole.
    let asks = vec![ask(&one, 0), ask(&two, 5), ask(&branch, 10), ask(&three, 15), ask(&one, 20)];
    let harness = check(limits_of(3, 64, 256), 64, asks);
    assert_eq!(harness.computed, 20 + 20 + 3 + 20 + 1);
}

#[test]
fn where_nothing_can_be_shared_a_mostly_common_slot_is_taken_over() {
    let options = MockOptions { prefix: PrefixSupport::TruncateOnly, ..limits_of(4, 64, 256) };
    let ask = |own: &[TokenId], arrives| Ask {
        prefix_cache: true,
        arrives,
        ..Ask::greedy([&[300; 20], own].concat(), 1)
    };
    // 20 of 25 tokens are common: shortened. Then 20 of 60: kept, and the fourth computes all of its own.
    let asks = vec![ask(&[1; 5], 0), ask(&[2; 40], 5), ask(&[3; 5], 10)];
    let harness = check(options, 64, asks);
    assert_eq!(harness.computed, 25 + 40 + 25);
}

#[test]
fn room_for_a_follower_is_not_taken_from_the_prefix_it_shares() {
    let ask = |prompt, arrives| Ask { prefix_cache: true, arrives, ..Ask::greedy(prompt, 1) };
    // 16 pages: 6 for the first, 9 for the second, and 7 for the third: the second goes, though used later.
    let third = [vec![300; 20], vec![1; 7]].concat();
    let asks = vec![ask(vec![300; 24], 0), ask(vec![400; 36], 5), ask(third, 10)];
    let harness = check(limits_of(3, 64, 64), 64, asks);
    assert_eq!(harness.computed, 24 + 36 + 7);
}

#[test]
fn prompts_that_cannot_run_are_refused() {
    let mut scheduler = Scheduler::new(limits_of(1, 8, 32).limits, 8).unwrap();
    assert_eq!(scheduler.submit(vec![], true), Err(ScheduleError::EmptyPrompt));
    let too_long = ScheduleError::PromptTooLong { tokens: 33, capacity: 32 };
    assert_eq!(scheduler.submit(vec![1; 33], true), Err(too_long), "KV room counts, not the context alone");
    assert!(scheduler.submit(vec![1; 32], true).is_ok());
    let none = Limits { kv_tokens: 3, ..limits_of(1, 8, 32).limits };
    assert_eq!(Scheduler::new(none, 8).unwrap_err(), ScheduleError::BadLimits(none));
}

#[test]
fn what_comes_together_computes_its_common_beginning_once() {
    let ask = |i: u32| {
        let prompt = (0..40).map(|t| 300 + t % 50).chain([i, i + 1]).collect();
        Ask { prefix_cache: true, ..Ask::greedy(prompt, 4) }
    };
    let options = |prefix| MockOptions { prefix, ..limits_of(6, 16, 6 * 64) };
    let together = |prefix| check(options(prefix), 8, (0..6).map(ask).collect()).computed;
    // The first: 42 and 3 generated; the others: 2 of their own and 3.
    assert_eq!(together(PrefixSupport::Tokens), 45 + 5 * 5);
    // A backend that can't share is found out once, then nobody waits for anybody.
    let alone = check(options(PrefixSupport::TruncateOnly), 8, vec![ask(0)]).computed;
    assert!(together(PrefixSupport::TruncateOnly) <= 6 * alone);
}
