//! Prompts stored outside the backend, under random arrivals, cancellations, failures and limits: an import, in whole or in
//! part, changes no token, leaks no slot and starves no sequence. The mock accepts imports only into empty slots with KV room,
//! and its tokens depend on all tokens before them.

use super::scheduling::{limits, nothing_leaked, prefix_support, prompt, settle, watch_idle};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::HashMap;
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, BackendError, Batch, Limits, Logits, Span, Want};
use zonda_engine::mock::{Fault, FaultKind, Mock, MockOptions};
use zonda_engine::schedule::{Pushed, Scheduler, SeqId, StepPlan, capacity};

/// One sequence's request.
#[derive(Clone, Debug)]
struct Ask {
    prompt: Vec<TokenId>,
    tokens: usize,
    prefix_cache: bool,
    /// The step in which it arrives.
    arrives: usize,
    /// The step in which it is cancelled, unless it has ended.
    cancelled: Option<usize>,
}

/// The outcome of an import, in rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Luck {
    Whole,
    /// The entry is shorter than it was when the prompt arrived.
    Half,
    /// The file is damaged: the slot is emptied and everything is computed.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    Cancelled,
    Failed,
}

/// The worker's loop without threads and files.
struct Harness {
    scheduler: Scheduler,
    mock: Mock,
    limits: Limits,
    asks: Vec<Ask>,
    luck: Vec<Luck>,
    /// The stored entries: tokens and the mock's export of them.
    store: Vec<(Vec<TokenId>, Vec<u8>)>,
    /// By index into `asks`.
    tokens: Vec<Vec<TokenId>>,
    prefilled: Vec<usize>,
    ends: Vec<Option<End>>,
    index: HashMap<SeqId, usize>,
    /// Steps since each running sequence was last in a batch.
    idle: HashMap<SeqId, usize>,
    imports: usize,
    /// Tokens in those imports.
    imported: usize,
    /// Tokens sent through the backend.
    computed: usize,
}

impl Harness {
    /// `stored` is in the store from the start, as another process left it.
    fn new(
        options: &MockOptions,
        chunk: usize,
        asks: Vec<Ask>,
        stored: &[Vec<TokenId>],
        luck: Vec<Luck>,
    ) -> Harness {
        Harness {
            scheduler: Scheduler::new(options.limits, chunk).expect("sane limits"),
            mock: Mock::new(options.clone()),
            limits: options.limits,
            tokens: vec![Vec::new(); asks.len()],
            prefilled: vec![0; asks.len()],
            ends: vec![None; asks.len()],
            asks,
            luck,
            store: stored.iter().map(|tokens| (tokens.clone(), export(options.seed, tokens))).collect(),
            index: HashMap::new(),
            idle: HashMap::new(),
            imports: 0,
            imported: 0,
            computed: 0,
        }
    }

    /// Runs until every ask has ended.
    fn run(&mut self) {
        for step in 0.. {
            assert!(step < 20_000, "the run does not end: {:?}", self.scheduler.occupancy());
            self.come_and_go(step);
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
        for (i, ask) in self.asks.iter().enumerate().filter(|(_, ask)| ask.arrives == step) {
            let stored = self.store.iter().map(|(tokens, _)| common(tokens, &ask.prompt)).max().unwrap_or(0);
            let id = self.scheduler.submit_stored(ask.prompt.clone(), ask.prefix_cache, stored);
            self.index.insert(id.expect("it fits"), i);
        }
        let here: Vec<(SeqId, usize)> = self.index.iter().map(|(&id, &i)| (id, i)).collect();
        for (id, i) in here {
            if self.ends[i].is_none() && self.asks[i].cancelled == Some(step) {
                self.end(id, End::Cancelled);
            }
        }
    }

    fn settle(&mut self) {
        let Harness { scheduler, mock, asks, luck, store, index, imports, imported, .. } = self;
        settle(scheduler, mock, |scheduler, mock, id, slot, len| {
            let ask = &asks[index[&id]];
            let tokens = &scheduler.tokens(id)[..len];
            assert!(ask.prefix_cache, "a sequence with the prefix cache off imports");
            assert!(len < ask.prompt.len(), "at least one token must be computed for its logits");
            assert_eq!(mock.held(slot), 0, "imported into a slot that is not empty");
            let best = store
                .iter()
                .max_by_key(|(stored, _)| common(stored, tokens))
                .expect("the entry is in the store");
            let luck = luck[*imports % luck.len()];
            *imports += 1;
            let len = match luck {
                Luck::Whole => len,
                Luck::Half => len / 2,
                Luck::Nothing => return mock.truncate(slot, 0),
            };
            let kept = mock.import_kv(slot, len, &best.1);
            assert!(kept.is_ok(), "the scheduler reserved room for it: {kept:?}");
            *imported += len;
            kept
        });
    }

    fn step(&mut self) {
        let running: Vec<SeqId> = self.scheduler.running().collect();
        let mut plan = StepPlan::default();
        self.scheduler.plan(&mut plan);
        let decodes = |id| self.scheduler.decodes(id);
        watch_idle(&mut self.idle, &running, &plan, self.limits.slots, decodes);
        if plan.spans.is_empty() {
            assert_eq!(self.scheduler.occupancy().waiting, 0, "sequences wait although none runs");
            return;
        }
        let batch = self.scheduler.batch(&plan);
        self.computed += batch.tokens();
        let mut logits = Logits::new();
        match self.mock.forward(&batch, &mut logits) {
            Ok(()) => self.advance(&plan, &logits),
            Err(BackendError::Batch(error)) => panic!("the scheduler made a bad batch: {error}"),
            Err(_) => plan.spans.iter().for_each(|span| self.end(span.id, End::Failed)),
        }
        let left: Vec<SeqId> = self.scheduler.running().collect();
        self.idle.retain(|id, _| left.contains(id));
    }

    fn advance(&mut self, plan: &StepPlan, logits: &Logits) {
        self.scheduler.commit(plan);
        let mut row = 0;
        for span in &plan.spans {
            let i = self.index[&span.id];
            self.prefilled[i] += span.prompt_tokens;
            if span.rows() == 0 {
                continue;
            }
            let token = best(logits.row(row));
            row += span.rows();
            self.tokens[i].push(token);
            let done = self.tokens[i].len() == self.asks[i].tokens;
            if done || self.scheduler.push(span.id, token) == Pushed::Full {
                self.end(span.id, End::Finished);
            }
        }
    }

    fn end(&mut self, id: SeqId, end: End) {
        let i = self.index[&id];
        if end == End::Finished {
            let cached = self.scheduler.cached_tokens(id);
            let both = self.prefilled[i] + cached;
            assert_eq!(
                both,
                self.asks[i].prompt.len(),
                "each prompt token counts once, as reused or as computed"
            );
        }
        // As in the worker: the tokens of an ended sequence are stored for later ones.
        if end != End::Failed
            && let Some((slot, len)) = self.scheduler.kept_prompt(id)
        {
            let mut bytes = Vec::new();
            let len = self.mock.export_kv(slot, len, &mut bytes).expect("its slot holds this many tokens");
            self.store.push((self.scheduler.tokens(id)[..len].to_vec(), bytes));
        }
        match end {
            End::Failed => self.scheduler.fail(id),
            _ => self.scheduler.finish(id),
        }
        self.ends[i] = Some(end);
        assert!(self.scheduler.running().all(|running| running != id), "its slot is freed at once");
    }
}

fn common(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn best(row: &[f32]) -> TokenId {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a))).unwrap() as TokenId
}

/// A mock with ample room.
fn roomy(seed: u64) -> Mock {
    Mock::new(MockOptions { seed, ..MockOptions::default() })
}

/// The entry that another process would have stored for these tokens.
fn export(seed: u64, tokens: &[TokenId]) -> Vec<u8> {
    let (mut mock, mut bytes) = (roomy(seed), Vec::new());
    let spans = vec![Span { slot: 0, start: 0, tokens, want: Want::None }];
    mock.forward(&Batch { spans }, &mut Logits::new()).unwrap();
    assert_eq!(mock.export_kv(0, tokens.len(), &mut bytes).unwrap(), tokens.len());
    bytes
}

/// The tokens that a sequence generates alone, one per call.
fn alone(ask: &Ask, seed: u64, tokens: usize) -> Vec<TokenId> {
    let (mut mock, mut logits, mut history) = (roomy(seed), Logits::new(), ask.prompt.clone());
    for start in 0.. {
        if history.len() == ask.prompt.len() + tokens {
            break;
        }
        let spans = vec![Span { slot: 0, start, tokens: &history[start..=start], want: Want::Last }];
        mock.forward(&Batch { spans }, &mut logits).expect("a single token fits");
        if start + 1 == history.len() {
            history.push(best(logits.row(0)));
        }
    }
    history.split_off(ask.prompt.len())
}

fn check(
    options: &MockOptions,
    chunk: usize,
    asks: &[Ask],
    stored: &[Vec<TokenId>],
    luck: &[Luck],
) -> Harness {
    let mut harness = Harness::new(options, chunk, asks.to_vec(), stored, luck.to_vec());
    harness.run();
    for (i, ask) in asks.iter().enumerate() {
        let room = capacity(&options.limits) - ask.prompt.len() + 1;
        let (found, expected) = (&harness.tokens[i], alone(ask, options.seed, ask.tokens.min(room)));
        match harness.ends[i] {
            Some(End::Finished) => assert_eq!(found, &expected, "sequence {i}"),
            _ => assert!(expected.starts_with(found), "sequence {i}"),
        }
    }
    harness
}

fn ask(longest: usize) -> impl Strategy<Value = Ask> {
    let cancelled = prop::option::weighted(0.2, 0usize..60);
    (prompt(longest), 1usize..20, prop::bool::weighted(0.8), 0usize..40, cancelled).prop_map(
        |(prompt, tokens, prefix_cache, arrives, cancelled)| Ask {
            prompt,
            tokens,
            prefix_cache,
            arrives,
            cancelled,
        },
    )
}

prop_compose! {
    fn options()(limits in limits(1..7, 4..60))(
        limits in Just(limits),
        seed in any::<u64>(),
        prefix in prefix_support(),
        fault in prop::option::weighted(0.2, 0usize..40),
    ) -> MockOptions {
        let faults = fault.map(|call| Fault::call(call, FaultKind::Error)).into_iter().collect();
        MockOptions { seed, limits, prefix, faults, ..MockOptions::default() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Every sequence gets the tokens that it gets alone, with a store and without.
    #[test]
    fn output_is_independent_of_imports(
        (options, asks, stored) in options().prop_flat_map(|options| {
            let longest = options.limits.context;
            let asks = prop::collection::vec(ask(longest), 1..16);
            (Just(options), asks, prop::collection::vec(prompt(80), 0..4))
        }),
        chunk in 1usize..20,
        luck in prop::collection::vec(
            prop_oneof![4 => Just(Luck::Whole), 1 => Just(Luck::Half), 1 => Just(Luck::Nothing)],
            1..8,
        ),
    ) {
        check(&options, chunk, &asks, &stored, &luck);
    }
}

fn limits_of(slots: usize, kv_tokens: usize) -> MockOptions {
    let limits = Limits { slots, batch_tokens: 64, context: 64, kv_tokens, kv_page: 4 };
    MockOptions { limits, ..MockOptions::default() }
}

fn one(prompt: Vec<TokenId>, tokens: usize, arrives: usize) -> Ask {
    Ask { prompt, tokens, prefix_cache: true, arrives, cancelled: None }
}

#[test]
fn stored_tokens_are_imported_and_the_rest_is_computed() {
    let text: Vec<TokenId> = (300..340).collect();
    let whole = one(text.clone(), 5, 0);
    let run = |ask: &Ask, luck| {
        check(&limits_of(2, 128), 16, std::slice::from_ref(ask), std::slice::from_ref(&text), &[luck])
    };
    let harness = run(&whole, Luck::Whole);
    assert_eq!(
        (harness.imports, harness.imported, harness.computed),
        (1, 39, 1 + 4),
        "one token is computed"
    );
    let harness = run(&whole, Luck::Half);
    assert_eq!((harness.imports, harness.imported, harness.computed), (1, 19, 21 + 4));
    let harness = run(&whole, Luck::Nothing);
    assert_eq!((harness.imports, harness.imported, harness.computed), (1, 0, 40 + 4));
    let harness = run(&Ask { prefix_cache: false, ..whole }, Luck::Whole);
    assert_eq!(
        (harness.imports, harness.computed),
        (0, 40 + 4),
        "with the prefix cache off everything is computed"
    );
}

#[test]
fn a_slot_with_as_many_tokens_is_shared_instead_of_an_import() {
    let text: Vec<TokenId> = (300..340).collect();
    let (first, second) = (one(text.clone(), 5, 0), one([&text[..], &[1, 2]].concat(), 5, 20));
    let harness = check(&limits_of(3, 256), 16, &[first, second], &[text[..30].to_vec()], &[Luck::Whole]);
    // For the second, 40 tokens are in a slot and 40 in the store.
    assert_eq!((harness.imports, harness.computed), (1, (10 + 4) + (2 + 4)));
}

#[test]
fn a_preempted_sequence_imports_again() {
    // Three sequences of 12 + 28 tokens need 30 pages, but the cache has 16.
    let text = |i: u32| -> Vec<TokenId> { (0..12).map(|t| 300 + 20 * i + t).collect() };
    let asks: Vec<Ask> = (0..3).map(|i| one(text(i), 28, 0)).collect();
    let stored: Vec<_> = (0..3).map(text).collect();
    let harness = check(&limits_of(3, 64), 16, &asks, &stored, &[Luck::Whole]);
    assert!(harness.imports > 3, "{}", harness.imports);
    assert!(harness.ends.iter().all(|end| *end == Some(End::Finished)));
}
