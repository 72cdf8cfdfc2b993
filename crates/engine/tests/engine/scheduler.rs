//! The scheduler's guarantees. The mock refuses every batch that breaks the trait's rules or exceeds the KV cache, and its
//! tokens depend on all tokens before them.

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

/// One sequence's request.
#[derive(Clone, Debug)]
struct Ask {
    prompt: Vec<TokenId>,
    tokens: usize,
    sampling: SamplingParams,
    prefix_cache: bool,
    /// The step in which it arrives.
    arrives: usize,
    /// The step in which it is cancelled, unless it has ended.
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

/// The worker's loop without threads and channels, with checks of the scheduler.
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
    /// Sequences that got a token in the last step and kept their slot.
    decoding: HashSet<SeqId>,
    limits: Limits,
    chunk: usize,
    /// How often a sequence lost its slot before it ended.
    preemptions: usize,
    /// Tokens sent through the backend.
    computed: usize,
    /// The length of drafts and the share of right tokens in them; `None`: no drafts.
    speculation: Option<Speculation>,
    /// By index into `asks`: what each generates alone.
    truth: Vec<Vec<TokenId>>,
    /// Drafted tokens that turned out right.
    accepted: usize,
}

/// Drafts of up to `most` tokens, of which `right` in 100 are right.
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

    /// Drafts for all decoding sequences; a hash of the position decides which tokens are wrong.
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
            assert!(step < 20_000, "the run does not end: {:?}", self.scheduler.occupancy());
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
            assert_eq!(self.scheduler.occupancy().waiting, 0, "sequences wait although none runs");
            return;
        }
        let batch = self.scheduler.batch(&plan);
        self.computed += batch.tokens();
        let result = self.mock.forward(&batch, &mut self.logits);
        match result {
            Ok(()) => self.advance(&plan),
            Err(BackendError::Batch(error)) => panic!("the scheduler made a bad batch: {error}"),
            Err(_) if self.scheduler.isolate(&plan) => assert!(plan.spans.len() > 1),
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

    /// First come, first served: waiting sequences arrived after all running ones.
    fn running_are_the_oldest(&self, running: &[SeqId]) {
        assert!(running.is_sorted());
        let unfinished = |id: &SeqId| self.ends[self.index[id]].is_none();
        let mut oldest: Vec<SeqId> = self.index.keys().copied().filter(unfinished).collect();
        oldest.sort_unstable();
        oldest.truncate(running.len());
        assert_eq!(running, oldest);
    }

    fn plan_is_fair(&mut self, plan: &StepPlan, running: &[SeqId]) {
        if self.scheduler.is_isolating() {
            assert_eq!(plan.spans.len(), 1, "after a failed call its sequences are computed alone");
            self.idle.clear();
            self.decoding.clear();
            return;
        }
        let decodes = |s: &&PlannedSpan| (s.len == 1 && s.want == Want::Last) || s.want == Want::All;
        let prefill = plan.tokens() - plan.spans.iter().filter(decodes).map(|s| s.len).sum::<usize>();
        let decodes = plan.spans.iter().filter(decodes).count();
        if decodes > 0 {
            assert!(prefill <= self.chunk, "{prefill} prefill tokens beside {decodes} decodes");
        }
        // A backend that can't truncate loses the slot of a wrong draft: then it is a prefill again.
        let decoded = |id| self.decoding.contains(&id) && self.scheduler.decodes(id);
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
                        assert!(full, "a token was refused although there is room");
                        self.end(span.id, End::Finished);
                        break;
                    }
                    Pushed::Next => {
                        assert!(!full, "a token was accepted beyond the context");
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
            // However often the sequence was preempted, each prompt token counts once, as reused or as computed.
            let i = self.index[&id];
            let cached = self.scheduler.cached_tokens(id);
            assert_eq!(self.prefilled[i] + cached, self.asks[i].prompt.len());
        }
        match end {
            End::Failed => self.scheduler.fail(id),
            _ => self.scheduler.finish(id),
        }
        self.ends[self.index[&id]] = Some(end);
        assert!(self.scheduler.running().all(|r| r != id), "its slot is freed at once");
    }
}

/// The tokens that a sequence generates alone, one per call, in a mock with ample room.
fn alone(ask: &Ask, seed: u64, tokens: usize) -> Vec<TokenId> {
    let mut mock = Mock::new(MockOptions { seed, ..MockOptions::default() });
    let mut sampler = Sampler::new(ask.sampling.clone());
    let mut logits = Logits::new();
    let mut history = ask.prompt.clone();
    let mut start = 0;
    while history.len() < ask.prompt.len() + tokens {
        let span = Span { slot: 0, start, tokens: &history[start..=start], want: Want::Last };
        mock.forward(&Batch { spans: vec![span] }, &mut logits).expect("a single token fits");
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
        faults in prop_oneof![4 => Just(vec![]), 1 => prop::collection::vec(0usize..60, 1..6)],
    ) -> (MockOptions, usize, Vec<Ask>) {
        let faults = faults.into_iter().map(|call| Fault::call(call, FaultKind::Error)).collect();
        (MockOptions { seed, limits, prefix, faults, ..MockOptions::default() }, chunk, asks)
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Random arrivals, cancellations, failures, lengths, limits and prefix support: every sequence gets exactly the
    /// tokens it gets alone, nothing leaks, none starves, and the mock accepts every call.
    #[test]
    fn output_is_independent_of_batching((options, chunk, asks) in scenario()) {
        check(options, chunk, asks);
    }

    /// The same with good and bad drafts: no token changes, nothing leaks, none waits longer.
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
        let options = MockOptions { faults: vec![], ..options };
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
fn the_newest_is_preempted_when_room_runs_out_and_still_finishes() {
    // Four sequences of 4 + 28 tokens need 32 pages, but the cache has 16.
    let asks = (0..4).map(|i| Ask::greedy(vec![300 + i; 4], 28)).collect();
    let harness = check(limits_of(4, 64, 64), 16, asks);
    assert!(harness.preemptions > 0);
    assert!(harness.ends.iter().all(|e| *e == Some(End::Finished)));
}

#[test]
fn right_drafts_save_steps_and_wrong_ones_cost_none() {
    let run = |right: Option<usize>| {
        let speculation = right.map(|right| Speculation { most: 4, right });
        let asks = (0..3).map(|i| Ask::greedy(vec![300 + i; 4], 40)).collect();
        check_speculating(limits_of(4, 64, 256), 16, asks, speculation)
    };
    let (plain, right, wrong) = (run(None), run(Some(100)), run(Some(0)));
    assert_eq!((plain.accepted, wrong.accepted), (0, 0));
    assert!(right.accepted > 60, "{}", right.accepted);
    // A right draft token is computed once, like any token; a wrong one is wasted work.
    assert!(
        right.computed <= plain.computed + 3,
        "except for one at the end of each sequence: {}",
        right.computed
    );
    assert!(wrong.computed > plain.computed + 60);
}

#[test]
fn a_backend_that_cannot_truncate_verifies_only_one_draft() {
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
fn one_sequence_may_use_the_whole_cache() {
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
        // One token per step from the first on, although the long prompt takes 8 steps of 8 tokens.
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
    // In every step a prompt arrives that could fill the whole batch.
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
fn a_shared_prefix_is_computed_once() {
    let system: Vec<TokenId> = (300..340).collect();
    let turn = |own: TokenId, arrives| Ask {
        prefix_cache: true,
        arrives,
        ..Ask::greedy([&system[..], &[own, own]].concat(), 4)
    };
    // One after the other; the cached prefix is also kept for the third.
    let harness = check(limits_of(4, 64, 256), 64, vec![turn(1, 0), turn(2, 20), turn(3, 40)]);
    let first = 42 + 3;
    let follower = 2 + 3;
    assert_eq!(harness.computed, first + 2 * follower);
    assert_eq!(harness.scheduler.occupancy().cached, 3);
}

#[test]
fn a_running_sequence_shares_its_prefix() {
    let turn = |own: TokenId, arrives| Ask {
        prefix_cache: true,
        arrives,
        ..Ask::greedy([&[300; 40][..], &[own, own]].concat(), 20)
    };
    let harness = check(limits_of(4, 64, 256), 64, vec![turn(1, 0), turn(2, 5)]);
    assert_eq!(harness.computed, (42 + 19) + (2 + 19));
}

#[test]
fn the_least_recently_used_conversation_is_evicted_first() {
    let turn =
        |token: TokenId, arrives| Ask { prefix_cache: true, arrives, ..Ask::greedy(vec![token; 10], 1) };
    // Two slots: when 302 arrives, 301 is the least recently used, since 300 was used again.
    let asks = vec![turn(300, 0), turn(301, 5), turn(300, 10), turn(302, 15), turn(300, 20)];
    let harness = check(limits_of(2, 64, 256), 64, asks);
    assert_eq!(harness.computed, 10 + 10 + 1 + 10 + 1);
}

#[test]
fn sharing_from_a_conversation_counts_as_using_it() {
    let ask =
        |prompt: &[TokenId], arrives| Ask { prefix_cache: true, arrives, ..Ask::greedy(prompt.into(), 1) };
    let (one, two, three) = ([300; 20], [301; 20], [302; 20]);
    let branch = [&one[..10], &[7, 8, 9]].concat();
    // Three slots: the branch shares from one, so three evicts two, and one is still whole.
    let asks = vec![ask(&one, 0), ask(&two, 5), ask(&branch, 10), ask(&three, 15), ask(&one, 20)];
    let harness = check(limits_of(3, 64, 256), 64, asks);
    assert_eq!(harness.computed, 20 + 20 + 3 + 20 + 1);
}

#[test]
fn without_sharing_a_slot_with_mostly_the_same_tokens_is_reused() {
    let options = MockOptions { prefix: PrefixSupport::TruncateOnly, ..limits_of(4, 64, 256) };
    let ask = |own: &[TokenId], arrives| Ask {
        prefix_cache: true,
        arrives,
        ..Ask::greedy([&[300; 20], own].concat(), 1)
    };
    // 20 of 25 tokens are common: the slot is truncated. Then 20 of 60: it is kept, and the fourth computes everything.
    let asks = vec![ask(&[1; 5], 0), ask(&[2; 40], 5), ask(&[3; 5], 10)];
    let harness = check(options, 64, asks);
    assert_eq!(harness.computed, 25 + 40 + 25);
}

#[test]
fn a_shared_prefix_is_not_evicted_for_its_own_continuation() {
    let ask = |prompt, arrives| Ask { prefix_cache: true, arrives, ..Ask::greedy(prompt, 1) };
    // 16 pages: 6 for the first, 9 for the second, 7 for the third. The second is evicted although it was used later.
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
    assert_eq!(
        scheduler.submit(vec![1; 33], true),
        Err(too_long),
        "the size of the KV cache counts, not only the context"
    );
    assert!(scheduler.submit(vec![1; 32], true).is_ok());
    let none = Limits { kv_tokens: 3, ..limits_of(1, 8, 32).limits };
    assert_eq!(Scheduler::new(none, 8).unwrap_err(), ScheduleError::BadLimits(none));
}

#[test]
fn simultaneous_prompts_compute_a_common_prefix_once() {
    let ask = |i: u32| {
        let prompt = (0..40).map(|t| 300 + t % 50).chain([i, i + 1]).collect();
        Ask { prefix_cache: true, ..Ask::greedy(prompt, 4) }
    };
    let options = |prefix| MockOptions { prefix, ..limits_of(6, 16, 6 * 64) };
    let together = |prefix| check(options(prefix), 8, (0..6).map(ask).collect()).computed;
    // The first computes 42 and 3 generated tokens; the others 2 of their own and 3.
    assert_eq!(together(PrefixSupport::Tokens), 45 + 5 * 5);
    // After a backend has once failed to share, no prompt waits for another.
    let alone = check(options(PrefixSupport::TruncateOnly), 8, vec![ask(0)]).computed;
    assert!(together(PrefixSupport::TruncateOnly) <= 6 * alone);
}
