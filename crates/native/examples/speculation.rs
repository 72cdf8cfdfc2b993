//! The speedup by speculation with a model of some shape at a given acceptance: measured, and as predicted by the cost model.
//!
//! ```text
//! cargo run --release -p zonda-native --example speculation -- MODEL.gguf [TOKENS] [ACCEPTANCE IN PERCENT…]
//! ```
//!
//! The model's weights may be random (`zonda synth mistral-7b --quant q4_0`): its steps have their real cost, and a wrapper
//! puts one token far above the others in its logits, so that the answer is known. The draft model is simulated: it knows the
//! answer, gives the right token with the set probability, and costs next to nothing.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use zonda_engine::forward::{Backend, BackendError, BackendInfo, Batch, Limits, Logits, Slot, Span, Want};
use zonda_engine::load::{Model, ModelSpec};
use zonda_engine::speculate::cost::Costs;
use zonda_engine::stream::Figures;
use zonda_engine::{
    DraftModel, Engine, EngineConfig, Extras, Prompt, Request, SamplingParams, Speculate, TokenId,
};
use zonda_native::{Native, NativeOptions};

const PROMPT: usize = 32;
/// How often each acceptance is measured, in turns; the median counts.
const RUNS: usize = 3;

/// The token at a position, independent of those before it.
fn answer(position: usize, vocab: usize) -> TokenId {
    ((position * 7919 + 13) % vocab) as TokenId
}

/// Puts the token of its position above all other logits in each wanted row.
fn force(batch: &Batch<'_>, out: &mut Logits, mut token: impl FnMut(usize) -> TokenId) {
    let positions = batch.spans.iter().flat_map(|s: &Span<'_>| match s.want {
        Want::None => s.start..s.start,
        Want::Last => s.start + s.tokens.len() - 1..s.start + s.tokens.len(),
        Want::All => s.start..s.start + s.tokens.len(),
    });
    for (row, position) in positions.enumerate() {
        out.row_mut(row)[token(position + 1) as usize] = 1e4;
    }
}

/// A model that gives the known answer, at its real cost.
struct Forced(Native);

impl Backend for Forced {
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
        self.0.forward(batch, out)?;
        let vocab = self.0.spec().vocab_size;
        force(batch, out, |position| answer(position, vocab));
        Ok(())
    }
    fn truncate(&mut self, slot: Slot, len: usize) -> Result<usize, BackendError> {
        self.0.truncate(slot, len)
    }
    fn share_prefix(&mut self, from: Slot, to: Slot, len: usize) -> Result<usize, BackendError> {
        self.0.share_prefix(from, to, len)
    }
}

/// A draft model that is right with a probability, in percent.
struct Oracle {
    spec: ModelSpec,
    limits: Limits,
    right: Arc<AtomicUsize>,
    draws: AtomicU64,
}

impl Oracle {
    /// The next random number in 0..100 (SplitMix64).
    fn draw(&self) -> usize {
        let x = self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % 100) as usize
    }
}

impl Backend for Oracle {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: "stand-in".into(),
            version: String::new(),
            device: "cpu".into(),
            isa: String::new(),
            threads: 1,
            weights: String::new(),
            kv_type: String::new(),
        }
    }
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }
    fn limits(&self) -> Limits {
        self.limits
    }
    fn forward(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<(), BackendError> {
        let (vocab, right) = (self.spec.vocab_size, self.right.load(Ordering::Relaxed));
        out.reset(batch.rows(), vocab);
        out.as_mut_slice().fill(0.0);
        force(batch, out, |position| answer(position + usize::from(self.draw() >= right), vocab));
        Ok(())
    }
    fn truncate(&mut self, _: Slot, len: usize) -> Result<usize, BackendError> {
        Ok(len)
    }
    fn share_prefix(&mut self, _: Slot, _: Slot, _: usize) -> Result<usize, BackendError> {
        Ok(0)
    }
}

/// The best draft length and its tokens per second: `(1 + p + … + p^k) / cost(1 + k)`.
fn predicted(costs: &Costs, p: f64, most: usize) -> (usize, f64) {
    let rate = |k: usize| (0..=k).map(|i| p.powi(i as i32)).sum::<f64>() / costs.of(1 + k);
    (0..=most).map(|k| (k, rate(k))).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default()
}

/// The time of a step that verifies this many tokens after a prompt: the fastest of several.
fn costs(native: &mut Native) -> Result<Vec<(usize, Duration)>, Box<dyn Error>> {
    let vocab = native.spec().vocab_size;
    let tokens: Vec<TokenId> = (0..PROMPT + 32).map(|i| answer(i, vocab)).collect();
    let mut out = Logits::new();
    let mut step = |start: usize, len: usize, want| -> Result<_, BackendError> {
        let spans = vec![Span { slot: 0, start, tokens: &tokens[start..start + len], want }];
        let began = Instant::now();
        native.forward(&Batch { spans }, &mut out)?;
        let took = began.elapsed();
        native.truncate(0, PROMPT)?;
        Ok(took)
    };
    step(0, PROMPT, Want::Last)?;
    step(PROMPT, 1, Want::All)?;
    let mut points = Vec::new();
    for n in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 17, 24] {
        let took = (0..3).map(|_| step(PROMPT, n, Want::All)).collect::<Result<Vec<_>, _>>()?;
        points.push((n, took.into_iter().min().unwrap_or_default()));
    }
    native.truncate(0, 0)?;
    Ok(points)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: speculation MODEL.gguf [TOKENS] [ACCEPTANCE IN PERCENT…]")?;
    let tokens: usize = args.next().map_or(Ok(64), |n| n.parse())?;
    let mut set = args.map(|p| p.parse()).collect::<Result<Vec<usize>, _>>()?;
    if set.is_empty() {
        set = vec![0, 50, 70, 80, 90, 100];
    }
    let model = Arc::new(Model::open(Path::new(&path))?);
    let options = NativeOptions { context: Some(1024), slots: 1, ..NativeOptions::default() };
    let mut native = Native::open(&model, &options)?;
    let points = costs(&mut native)?;
    drop(native);
    println!("verifying n tokens: ms, against one");
    for (n, took) in &points {
        let ms = took.as_secs_f64() * 1e3;
        println!("{n:4}  {ms:8.2}  {:.2}", took.as_secs_f64() / points[0].1.as_secs_f64());
    }
    let costs = Costs::measured(&points);

    let right = Arc::new(AtomicUsize::new(100));
    let oracle = Oracle {
        spec: model.spec.clone(),
        limits: Limits { slots: 1, batch_tokens: 512, context: 1024, kv_tokens: 1024, kv_page: 1 },
        right: right.clone(),
        draws: AtomicU64::new(1),
    };
    let draft = DraftModel { open: Box::new(move || Ok(Box::new(oracle) as Box<dyn Backend>)), text: None };
    let config = EngineConfig { prefix_cache: false, ..EngineConfig::default() };
    let open = move || Ok(Box::new(Forced(Native::open(&model, &options)?)) as Box<dyn Backend>);
    let engine = Engine::start_with(open, None, config, Extras { draft: Some(draft), ..Extras::default() })?;
    let vocab = engine.spec().vocab_size;
    let run = |how: Speculate, percent: usize| -> Result<Figures, Box<dyn Error>> {
        right.store(percent, Ordering::Relaxed);
        let prompt = (0..PROMPT).map(|i| answer(i, vocab)).collect();
        let mut request = Request::new(Prompt::Tokens(prompt), tokens);
        request.sampling = SamplingParams::greedy();
        request.speculate = Some(how);
        let done = engine.submit(request)?.wait().ok_or("no end")?;
        let expected = (PROMPT..PROMPT + tokens).map(|i| answer(i, vocab));
        assert!(done.ids.iter().copied().eq(expected), "speculation changed the answer");
        Ok(Figures::of(&done.outcome))
    };
    run(Speculate::Off, 0)?;
    let mut table = vec![(Vec::new(), Vec::new(), 0, 0); set.len()];
    for _ in 0..RUNS {
        for (entry, &percent) in table.iter_mut().zip(&set) {
            let (off, on) = (run(Speculate::Off, 0)?, run(Speculate::Draft, percent)?);
            entry.0.extend(off.decode_tps);
            entry.1.extend(on.decode_tps);
            (entry.2, entry.3) = (entry.2 + on.drafted_tokens, entry.3 + on.accepted_tokens);
        }
    }
    println!("\nset to  drafted  accepted   off tok/s   on tok/s   ratio   the model says (length)");
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    for (mut entry, percent) in table.into_iter().zip(set) {
        let (off, on) = (median(&mut entry.0), median(&mut entry.1));
        let (length, rate) = predicted(&costs, percent as f64 / 100.0, config.draft_max);
        let says = rate * costs.of(1);
        println!(
            "{percent:5}%  {:7}  {:8}  {off:10.2} {on:10.2}  {:6.2}   {says:.2} ({length})",
            entry.2,
            entry.3,
            on / off
        );
    }
    Ok(())
}
