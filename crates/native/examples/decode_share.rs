//! The share of the memory bandwidth that decoding reaches, on a machine whose bandwidth changes from second to second.
//!
//! ```text
//! cargo run --release -p zonda-native --example decode_share -- MODEL.gguf [STEPS] [CONTEXT] [THREADS] [KV TYPE]
//! ```
//!
//! Before and after each step of one token, a plain loop over 4 GiB reads as many bytes as a step (at most 1 GiB at a time). A
//! step's share is its bytes per second over the mean of the two readings. Steps whose readings differ by more than a tenth are
//! left out, because the bandwidth changed. Bytes are those of the matrices that a token is multiplied with and of the keys and
//! values before it. The result is the median, followed by shares sorted by the available bandwidth.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zonda_engine::forward::{Backend, Batch, Logits, Span, Want};
use zonda_engine::load::{LoadError, Model, TensorRole};
use zonda_kernels::attention::{Holds, KvType, PAGE};
use zonda_kernels::probe::{LARGE_BYTES, Stream};
use zonda_kernels::{Isa, Pool};
use zonda_native::{Native, NativeOptions};

/// Prompt tokens per step.
const BATCH: usize = 512;
/// Maximum bytes per reading.
const READING: usize = 1 << 30;

/// One step and the readings around it, in bytes per second.
struct Step {
    decode: f64,
    read: f64,
    steady: bool,
}

/// The bytes of the matrices that each token is multiplied with. Models with experts are not supported.
fn weight_bytes(model: &Model) -> Result<f64, LoadError> {
    let spec = &model.spec;
    let used = |role: &TensorRole| match role {
        TensorRole::TokenEmbedding => spec.tied_embeddings,
        role => spec.shape(*role).len() > 1,
    };
    let tensors = spec.roles().filter(used).map(|role| model.find(role));
    tensors.map(|tensor| Ok(tensor?.map_or(0, |t| t.bytes().len()) as f64)).sum()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: decode_share MODEL.gguf [STEPS] [CONTEXT] [THREADS] [KV TYPE]")?;
    let steps: usize = args.next().map_or(Ok(60), |n| n.parse())?;
    let context: usize = args.next().map_or(Ok(1), |n| n.parse())?;
    let mut options =
        NativeOptions { context: Some(context + steps + 1), slots: 1, ..NativeOptions::default() };
    if let Some(threads) = args.next() {
        options.threads = Some(threads.parse()?);
    }
    if let Some(kv_type) = args.next() {
        options.kv_type = KvType::named(&kv_type).ok_or("no such KV type")?;
    }
    let model = Arc::new(Model::open(Path::new(&path))?);
    let mut native = Native::open(&model, &options)?;
    let info = native.info();
    let pool = Pool::new(info.threads);
    let mut stream = Stream::new(Isa::best(), &pool, LARGE_BYTES)?;

    let (spec, mut out) = (model.spec.clone(), Logits::new());
    let token = |i: usize| (i * 7919 % spec.vocab_size) as u32;
    let mut feed = |start: usize, len: usize, out: &mut Logits| -> Result<f64, Box<dyn Error>> {
        let tokens: Vec<u32> = (start..start + len).map(token).collect();
        let spans = vec![Span { slot: 0, start, tokens: &tokens, want: Want::Last }];
        let begun = Instant::now();
        native.forward(&Batch { spans }, out)?;
        Ok(begun.elapsed().as_secs_f64())
    };
    let mut start = 0;
    while start < context {
        let len = BATCH.min(context - start);
        feed(start, len, &mut out)?;
        start += len;
    }
    let weights = weight_bytes(&model)?;
    let kv = (spec.layers
        * spec.kv_heads
        * options.kv_type.page_bytes_of(Holds::if_values_are_keys(spec.values_are_keys()), spec.head_dim)
        / PAGE) as f64;
    let bytes = |position: usize| weights + kv * position as f64;
    let reading = (bytes(context) as usize).min(READING);
    // Both pools are pinned to the same cores, and threads spin for a while after their work.
    let rest = || std::thread::sleep(Duration::from_millis(2));
    let mut read = || {
        rest();
        let rate = stream.read(&pool, reading);
        rest();
        rate
    };
    let mut before = read();
    let mut all = Vec::new();
    for i in 0..steps {
        let seconds = feed(context + i, 1, &mut out)?;
        let after = read();
        let steady = (before / after).ln().abs() < 0.1;
        all.push(Step { decode: bytes(context + i) / seconds, read: (before + after) / 2.0, steady });
        before = after;
    }

    println!(
        "{} · {} threads · {} · KV {} · {:.2} GB a token after {context}",
        path,
        info.threads,
        info.weights,
        info.kv_type,
        bytes(context) / 1e9
    );
    println!("           steps  tokens/s   GB/s   read GB/s   share");
    all.retain(|step| step.steady);
    all.sort_by(|a, b| a.read.total_cmp(&b.read));
    let third = all.len().div_ceil(3).max(1);
    let line = |name: &str, steps: &[Step]| {
        println!(
            "{name:9}  {:5}  {:8.2}  {:5.1}  {:10.1}  {:5.1}%",
            steps.len(),
            median(steps.iter().map(|s| s.decode)) / bytes(context),
            median(steps.iter().map(|s| s.decode)) / 1e9,
            median(steps.iter().map(|s| s.read)) / 1e9,
            100.0 * median(steps.iter().map(|s| s.decode / s.read))
        );
    };
    for (name, third) in ["slowest", "middle", "fastest"].iter().zip(all.chunks(third)) {
        line(name, third);
    }
    line("all", &all);
    Ok(())
}
