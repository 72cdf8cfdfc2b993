//! Shared by the scheduler's tests: random limits, prompts and sampling parameters, and the checks that always hold.

use proptest::prelude::*;
use std::collections::HashMap;
use std::ops::Range;
use zonda_engine::forward::{Backend, BackendError, Limits, Slot};
use zonda_engine::mock::{Mock, PrefixSupport};
use zonda_engine::schedule::{Scheduler, SeqId, SlotOp, StepPlan};
use zonda_engine::{SamplingParams, TokenId};

prop_compose! {
    /// From ample to barely enough: KV room for between one slot and all of them.
    pub fn limits(slots: Range<usize>, context: Range<usize>)(
        slots in slots,
        batch_tokens in prop_oneof![1usize..8, 8usize..64],
        context in context,
        kv_page in 1usize..9,
        share in 0.0..1.0f64,
    ) -> Limits {
        let least = context.next_multiple_of(kv_page);
        let kv_tokens = least + ((slots - 1) as f64 * least as f64 * share) as usize;
        Limits { slots, batch_tokens, context, kv_tokens, kv_page }
    }
}

pub fn prefix_support() -> impl Strategy<Value = PrefixSupport> {
    prop_oneof![
        Just(PrefixSupport::Tokens),
        Just(PrefixSupport::Pages),
        Just(PrefixSupport::TruncateOnly),
        Just(PrefixSupport::Never),
    ]
}

/// Prompts with shared prefixes: some tokens of one of three texts, then their own.
pub fn prompt(longest: usize) -> impl Strategy<Value = Vec<TokenId>> {
    (0u32..3, 0..longest, prop::collection::vec(0u32..4, 1..8)).prop_map(move |(text, shared, own)| {
        let shared = (0..shared as u32).map(|i| 300 + 50 * text + i % 50);
        shared.chain(own).take(longest).collect()
    })
}

/// Greedy, or with a high temperature and penalties.
pub fn sampling() -> impl Strategy<Value = SamplingParams> {
    prop_oneof![
        Just(SamplingParams::greedy()),
        any::<u64>().prop_map(|seed| SamplingParams {
            temperature: 1.2,
            seed: Some(seed),
            repeat_penalty: 1.1,
            ..SamplingParams::default()
        }),
    ]
}

/// Runs the scheduler's slot operations; `import` runs its imports.
pub fn settle(
    scheduler: &mut Scheduler,
    mock: &mut Mock,
    mut import: impl FnMut(&Scheduler, &mut Mock, SeqId, Slot, usize) -> Result<usize, BackendError>,
) {
    while let Some(op) = scheduler.next_op() {
        let kept = match op {
            SlotOp::Truncate { slot, len } => mock.truncate(slot, len),
            SlotOp::Share { from, to, len } => mock.share_prefix(from, to, len),
            SlotOp::Import { id, slot, len } => import(scheduler, mock, id, slot, len),
        };
        scheduler.op_done(op, kept.expect("the slots exist and are empty where required"));
    }
}

/// The import of tests without a store.
pub fn no_import(_: &Scheduler, _: &mut Mock, id: SeqId, _: Slot, _: usize) -> Result<usize, BackendError> {
    unreachable!("nothing is stored for sequence {id}")
}

/// Counts the steps since each of `running` was last in a batch: none starves, and decoding sequences never wait.
pub fn watch_idle(
    idle: &mut HashMap<SeqId, usize>,
    running: &[SeqId],
    plan: &StepPlan,
    slots: usize,
    decodes: impl Fn(SeqId) -> bool,
) {
    for &id in running {
        let steps = idle.entry(id).or_insert(0);
        *steps = if plan.spans.iter().any(|span| span.id == id) { 0 } else { *steps + 1 };
        assert!(*steps < slots, "sequence {id} starves");
        assert!(*steps == 0 || !decodes(id), "a decode had to wait");
    }
}

/// After all sequences have ended, the scheduler and the mock agree on the tokens left in slots.
pub fn nothing_leaked(scheduler: &Scheduler, mock: &Mock, slots: usize) {
    let occupancy = scheduler.occupancy();
    assert_eq!((occupancy.running, occupancy.waiting), (0, 0));
    let held = (0..slots).filter(|&slot| mock.held(slot) > 0).count();
    assert_eq!(occupancy.cached, held, "slots hold tokens unknown to the scheduler");
    assert_eq!(occupancy.free_pages, mock.free_pages());
    assert!(scheduler.is_idle());
}
