//! How many sequences should run at once: the backend is asked, by decoding with more and more of them.

use crate::TokenId;
use crate::forward::{Backend, BackendError, Batch, Logits, Span, Want};
use std::time::{Duration, Instant};

/// Tokens that each sequence holds while it is measured.
const HELD: usize = 8;
/// Steps with each number of sequences; the fastest counts, as nothing makes a step faster than it is.
const STEPS: usize = 3;
/// Below this a step costs nothing that could be shared.
const TRIVIAL: Duration = Duration::from_micros(100);

/// Decode steps with 1, 2, 4, … sequences, up to `most`: the number that gave most tokens per second. So batching never
/// loses to one after another. Empties the slots it used.
///
/// # Errors
/// What the backend says.
pub(super) fn best_parallel(backend: &mut dyn Backend, most: usize) -> Result<usize, BackendError> {
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
        match step(backend, count) {
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

/// The fastest of some decode steps with `count` sequences.
fn step(backend: &mut dyn Backend, count: usize) -> Result<Duration, BackendError> {
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
        let began = Instant::now();
        backend.forward(&batch, &mut logits)?;
        if i > 0 {
            fastest = fastest.min(began.elapsed());
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

    /// A mock whose steps cost `base` and something for each sequence beyond `free`.
    struct Costly(Mock, Duration, Duration, usize);

    impl Backend for Costly {
        fn info(&self) -> BackendInfo {
            self.0.info()
        }
        fn spec(&self) -> &ModelSpec {
            self.0.spec()
        }
        fn limits(&self) -> Limits {
            self.0.limits()
        }
        fn forward(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<(), BackendError> {
            let extra = batch.spans.len().saturating_sub(self.3) as u32;
            std::thread::sleep(self.1 + self.2 * extra * extra);
            self.0.forward(batch, out)
        }
        fn truncate(&mut self, slot: Slot, len: usize) -> Result<usize, BackendError> {
            self.0.truncate(slot, len)
        }
        fn share_prefix(&mut self, from: Slot, to: Slot, len: usize) -> Result<usize, BackendError> {
            self.0.share_prefix(from, to, len)
        }
    }

    fn mock(slots: usize) -> Mock {
        let limits = Limits { slots, batch_tokens: 512, context: 1024, kv_tokens: slots * 1024, kv_page: 16 };
        Mock::new(MockOptions { limits, ..MockOptions::default() })
    }

    #[test]
    fn more_run_as_long_as_that_pays() {
        let ms = Duration::from_millis;
        let cheap = &mut Costly(mock(16), ms(2), Duration::ZERO, 16);
        assert_eq!(best_parallel(cheap, 16).unwrap(), 16);
        let steep = &mut Costly(mock(16), ms(2), ms(4), 4);
        assert_eq!(best_parallel(steep, 8).unwrap(), 4);
        let none = &mut Costly(mock(16), ms(2), ms(20), 1);
        assert_eq!(best_parallel(none, 3).unwrap(), 1);
        for slot in 0..16 {
            assert_eq!((cheap.0.held(slot), steep.0.held(slot)), (0, 0), "slots are left empty");
        }
    }

    #[test]
    fn what_costs_nothing_or_has_no_room_is_not_measured() {
        assert_eq!(best_parallel(&mut mock(8), 8).unwrap(), 8);
        assert_eq!(best_parallel(&mut mock(1), 8).unwrap(), 1);
        let limits = Limits { slots: 8, batch_tokens: 4, context: 16, kv_tokens: 64, kv_page: 16 };
        let small = &mut Mock::new(MockOptions { limits, ..MockOptions::default() });
        assert_eq!(best_parallel(small, 8).unwrap(), 1);
    }
}
