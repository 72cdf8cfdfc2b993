//! How many sequences to run at once: measured by decoding with more and more of them.

use crate::TokenId;
use crate::forward::{Backend, BackendError, Batch, Logits, Span, Want};
use std::time::Duration;

/// Tokens that each sequence holds during the measurement.
const HELD: usize = 8;
/// Steps with each number of sequences; the fastest counts, since disturbances only make a step slower.
const STEPS: usize = 3;
/// Steps faster than this have no cost that sequences could share.
const TRIVIAL: Duration = Duration::from_micros(100);

/// The number of sequences, up to `most`, with the highest decode throughput, found by steps with 1, 2, 4, … of them. So
/// batching is never slower than one sequence at a time. `clock` gives the time since some fixed moment. Empties the slots it
/// used.
///
/// # Errors
/// The backend's.
pub(super) fn best_parallel(
    backend: &mut dyn Backend,
    most: usize,
    clock: &dyn Fn() -> Duration,
) -> Result<usize, BackendError> {
    let limits = backend.limits();
    let pages = limits.kv_tokens / limits.kv_page.max(1);
    let room = (pages / (HELD + STEPS + 1).div_ceil(limits.kv_page.max(1))).max(1);
    let fits = limits.context > HELD + STEPS;
    let most = most.min(limits.slots).min(limits.batch_tokens / HELD).min(room);
    if most < 2 || !fits {
        return Ok(most.max(1));
    }
    let counts = (0..).map(|i| 1 << i).take_while(|&n| n < most).chain([most]);
    let mut curve: Vec<(usize, Duration)> = Vec::new();
    let mut measured = Ok(());
    for count in counts {
        match step(backend, count, clock) {
            Ok(took) => curve.push((count, took)),
            Err(error) => {
                measured = Err(error);
                break;
            }
        }
    }
    for slot in 0..most {
        backend.truncate(slot, 0)?;
    }
    measured?;
    if curve.iter().all(|(_, took)| *took < TRIVIAL) {
        return Ok(most);
    }
    let rate = |&(count, took): &(usize, Duration)| count as f64 / took.as_secs_f64();
    let best = curve.iter().max_by(|a, b| rate(a).total_cmp(&rate(b))).map_or(1, |(count, _)| *count);
    let shown: Vec<String> = curve.iter().map(|p| format!("{}: {:.1}", p.0, rate(p))).collect();
    tracing::info!(best, tokens_per_second = shown.join(", "), "sequences at once, measured");
    Ok(best)
}

/// The fastest of several decode steps with `count` sequences.
fn step(
    backend: &mut dyn Backend,
    count: usize,
    clock: &dyn Fn() -> Duration,
) -> Result<Duration, BackendError> {
    let vocab = backend.spec().vocab_size.max(1);
    let token = |slot: usize, i: usize| ((slot * 31 + i * 7 + 1) % vocab) as TokenId;
    let mut logits = Logits::new();
    let prompts: Vec<Vec<TokenId>> = (0..count).map(|s| (0..HELD).map(|i| token(s, i)).collect()).collect();
    for slot in 0..count {
        backend.truncate(slot, 0)?;
    }
    let span = |(slot, tokens)| Span { slot, start: 0, tokens, want: Want::None };
    let spans = prompts.iter().map(Vec::as_slice).enumerate().map(span).collect();
    backend.forward(&Batch { spans }, &mut logits)?;
    let mut fastest = Duration::MAX;
    // The first step wakes threads and touches memory.
    for i in 0..=STEPS {
        let next: Vec<[TokenId; 1]> = (0..count).map(|s| [token(s, HELD + i)]).collect();
        let spans = next.iter().enumerate().map(|(slot, tokens)| Span {
            slot,
            start: HELD + i,
            tokens,
            want: Want::Last,
        });
        let batch = Batch { spans: spans.collect() };
        let began = clock();
        backend.forward(&batch, &mut logits)?;
        if i > 0 {
            fastest = fastest.min(clock() - began);
        }
    }
    Ok(fastest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::{BackendInfo, Limits, Slot};
    use crate::load::ModelSpec;
    use crate::mock::{Mock, MockOptions};
    use std::cell::Cell;
    use std::rc::Rc;

    /// A mock whose steps advance a fake clock: by `base`, and more for each sequence beyond `free`.
    struct Costly {
        mock: Mock,
        base: Duration,
        extra: Duration,
        free: usize,
        now: Rc<Cell<Duration>>,
    }

    impl Costly {
        /// A mock with 16 slots.
        fn new(base: u64, extra: u64, free: usize) -> Costly {
            let (base, extra) = (Duration::from_millis(base), Duration::from_millis(extra));
            Costly { mock: mock(16), base, extra, free, now: Rc::default() }
        }

        fn best_parallel(&mut self, most: usize) -> usize {
            let now = self.now.clone();
            best_parallel(self, most, &|| now.get()).unwrap()
        }
    }

    impl Backend for Costly {
        fn info(&self) -> BackendInfo {
            self.mock.info()
        }
        fn spec(&self) -> &ModelSpec {
            self.mock.spec()
        }
        fn limits(&self) -> Limits {
            self.mock.limits()
        }
        fn forward(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<(), BackendError> {
            let beyond = batch.spans.len().saturating_sub(self.free) as u32;
            self.now.set(self.now.get() + self.base + self.extra * beyond * beyond);
            self.mock.forward(batch, out)
        }
        fn truncate(&mut self, slot: Slot, len: usize) -> Result<usize, BackendError> {
            self.mock.truncate(slot, len)
        }
        fn share_prefix(&mut self, from: Slot, to: Slot, len: usize) -> Result<usize, BackendError> {
            self.mock.share_prefix(from, to, len)
        }
    }

    fn mock(slots: usize) -> Mock {
        let limits = Limits { slots, batch_tokens: 512, context: 1024, kv_tokens: slots * 1024, kv_page: 16 };
        Mock::new(MockOptions { limits, ..MockOptions::default() })
    }

    #[test]
    fn sequences_are_added_as_long_as_it_pays() {
        let mut cheap = Costly::new(2, 0, 16);
        assert_eq!(cheap.best_parallel(16), 16);
        let mut steep = Costly::new(2, 4, 4);
        assert_eq!(steep.best_parallel(8), 4);
        assert_eq!(Costly::new(2, 20, 1).best_parallel(3), 1);
        for slot in 0..16 {
            assert_eq!((cheap.mock.held(slot), steep.mock.held(slot)), (0, 0), "slots are left empty");
        }
    }

    #[test]
    fn free_steps_and_missing_room_are_not_measured() {
        let stopped = &|| Duration::ZERO;
        assert_eq!(best_parallel(&mut mock(8), 8, stopped).unwrap(), 8);
        assert_eq!(best_parallel(&mut mock(1), 8, stopped).unwrap(), 1);
        let limits = Limits { slots: 8, batch_tokens: 4, context: 16, kv_tokens: 64, kv_page: 16 };
        let small = &mut Mock::new(MockOptions { limits, ..MockOptions::default() });
        assert_eq!(best_parallel(small, 8, stopped).unwrap(), 1);
    }
}
