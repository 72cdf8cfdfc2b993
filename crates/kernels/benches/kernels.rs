//! The speed of each kernel for every weight type, the shapes of a 7B model's layer and every instruction set.
//!
//! `cargo bench -p zonda-kernels -- [WORD…] [--quick] [--threads N] [--tokens N]` runs the rows that contain every WORD
//! (`q4_0`, `avx2`, `4096x14336`, `matmul` …). Products with one token read weights from memory and are given in GB/s, those with
//! many tokens in GOPS; both also as shares of the peak measured just before with the same instructions and threads: reading
//! half a GiB, and arithmetic in registers. Attention uses a 7B's groups of four heads of 128: one token after 4,096 is
//! measured by the keys and values it reads, a page of tokens after 2,048 by its multiply-adds as a share of the `f32` peak.
//! Times are medians.

use std::time::{Duration, Instant};
use zonda_kernels::attention::{Attend, Holds, KvType, PAGE, Query, SPLIT, Scratch, StoreKv};
use zonda_kernels::memory::Arena;
use zonda_kernels::probe;
use zonda_kernels::quantize::{can_quantize, quantize, random_blocks};
use zonda_kernels::{ActivationKind, Activations, DType, Isa, Job, Packed, Pool, activation_kind, matmul};
use zonda_machine::{Peaks, cpus};

/// `[rows, cols]` of the products in a 7B layer: Q and O, gate and up, down, K and V.
const SHAPES: [(usize, usize); 4] = [(4096, 4096), (14336, 4096), (4096, 14336), (1024, 4096)];
/// Bytes of weights that a decode measurement streams: more than any cache holds, like a model's layers.
const COLD_BYTES: usize = 2 << 30;

struct Options {
    words: Vec<String>,
    threads: usize,
    tokens: usize,
    /// The duration of one measurement.
    time: Duration,
}

impl Options {
    fn parse() -> Result<Options, String> {
        let mut options = Options {
            words: Vec::new(),
            threads: cpus::default_threads(),
            tokens: 128,
            time: Duration::from_millis(100),
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut number = || {
                let value = args.next().unwrap_or_default();
                value.parse().ok().filter(|&n| n > 0).ok_or(format!("{arg} takes a number, not {value:?}"))
            };
            match arg.as_str() {
                "--bench" => {} // passed by cargo
                "--quick" => options.time = Duration::from_millis(20),
                "--threads" => options.threads = number()?,
                "--tokens" => options.tokens = number()?,
                flag if flag.starts_with('-') => {
                    return Err(format!("unknown option {flag}; expected --quick, --threads or --tokens"));
                }
                word => options.words.push(word.to_lowercase()),
            }
        }
        Ok(options)
    }

    fn wants(&self, row: &str) -> bool {
        let row = row.to_lowercase();
        self.words.iter().all(|word| row.contains(word))
    }

    /// The median time of `body`, which runs once as a warm-up and then at least three times.
    fn time(&self, mut body: impl FnMut()) -> f64 {
        body();
        let (start, mut times) = (Instant::now(), Vec::new());
        while times.len() < 3 || start.elapsed() < self.time {
            let from = Instant::now();
            body();
            times.push(from.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}

/// Values in −1..1 that look like noise.
fn noise(n: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

/// As many copies of a matrix as fit in `COLD_BYTES`.
fn weights(pool: &Pool, dtype: DType, rows: usize, cols: usize) -> Vec<Packed> {
    let mut stored = Vec::new();
    match can_quantize(dtype) {
        true => quantize(dtype, &noise(16 * cols), &mut stored),
        false => random_blocks(dtype, 16 * cols, 0.6, 1, &mut stored),
    }
    let row_bytes = stored.len() / 16;
    let arena = Arena::new();
    let copies = COLD_BYTES.div_ceil(rows * row_bytes);
    let row = |r: usize| &stored[r % 16 * row_bytes..][..row_bytes];
    (0..copies)
        .map(|_| Packed::pack(pool, &arena, dtype, rows, cols, row).expect("memory for the weights"))
        .collect()
}

fn activations(isa: Isa, tokens: usize, cols: usize, kind: ActivationKind) -> Activations {
    let mut activations = Activations::new();
    activations.reset(tokens, cols, &[kind]);
    let (rows, x) = (activations.rows(), noise(cols));
    for t in 0..tokens {
        // SAFETY: one thread, and no slice of a row is kept.
        unsafe {
            rows.row(t).copy_from_slice(&x);
            rows.convert(isa, t);
        }
    }
    activations
}

/// The limit of products with many tokens.
fn peak(peaks: &Peaks, kind: ActivationKind) -> f64 {
    match kind {
        ActivationKind::Quant => peaks.int8_ops_per_s.all_threads,
        ActivationKind::Bf16 => peaks.bf16_ops_per_s.unwrap_or(peaks.f32_ops_per_s).all_threads,
        ActivationKind::F32 => peaks.f32_ops_per_s.all_threads,
    }
}

fn matmuls(options: &Options, pool: &Pool, sets: &[Isa]) {
    for dtype in DType::ALL {
        for (rows, cols) in SHAPES {
            let label =
                |isa: Isa, tokens: usize| format!("matmul {dtype} {rows}x{cols} {tokens} {}", isa.describe());
            let wanted: Vec<(Isa, usize)> = sets
                .iter()
                .flat_map(|&isa| [(isa, 1), (isa, options.tokens)])
                .filter(|&(isa, tokens)| options.wants(&label(isa, tokens)))
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let weights = weights(pool, dtype, rows, cols);
            for (isa, tokens) in wanted {
                let kind = activation_kind(isa, dtype);
                let activations = activations(isa, tokens, cols, kind);
                let peaks = probe::measure(isa, options.threads, options.time / 2, false)
                    .expect("memory to read through");
                let mut out = vec![0.0; tokens * rows];
                let mut next = weights.iter().cycle();
                let seconds = options.time(|| {
                    let weights = next.next().expect("an endless walk");
                    let job = Job { weights, out: &mut out, stride: rows, add: false };
                    matmul(isa, pool, &activations, &mut [job]);
                });
                let (rate, unit, peak) = if tokens == 1 {
                    (weights[0].bytes() as f64 / seconds, "GB/s", peaks.read_bytes_per_s.all_threads)
                } else {
                    (2.0 * (rows * cols * tokens) as f64 / seconds, "GOPS", peak(&peaks, kind))
                };
                let share = 100.0 * rate / peak;
                let (ms, rate) = (seconds * 1e3, rate / 1e9);
                println!("{:60} {ms:9.3} ms {rate:8.1} {unit} {share:4.0}%", label(isa, tokens));
            }
        }
    }
}

/// Heads of a 7B: queries that share keys and values, values per head.
const GROUP: usize = 4;
const HEAD_DIM: usize = 128;

/// One work item of attention with its buffers: the queries of `tokens` tokens after `before` others, and their outputs.
struct Item {
    queries: Vec<Query>,
    _q: Vec<f32>,
    _out: Vec<f32>,
}

// SAFETY: the pointers are to vectors that live on the heap, unmoved, as long as the item, which only one thread uses.
unsafe impl Sync for Item {}

impl Item {
    fn new(tokens: usize, before: usize) -> Item {
        let n = tokens * GROUP;
        let (q, mut out) = (noise(n * HEAD_DIM), vec![0.0; n * (HEAD_DIM + 2)]);
        // The outputs of a split have room for its maximum and sum.
        let width = if tokens == 1 { HEAD_DIM + 2 } else { HEAD_DIM };
        let rows = q.chunks(HEAD_DIM).zip(out.chunks_mut(width)).take(n).enumerate();
        // SAFETY: the item keeps both vectors alive, which don't move on the heap, and nothing else uses them.
        let query = |(i, (q, out)): (usize, _)| unsafe { Query::new(q, out, 0, before + i / GROUP + 1) };
        let queries = rows.map(query).collect();
        Item { queries, _q: q, _out: out }
    }
}

/// As many pages of keys and values as fit in `bytes`: `[pages, page_bytes]`.
fn pages(isa: Isa, kv: KvType, bytes: usize) -> Vec<u8> {
    let page_bytes = kv.page_bytes(HEAD_DIM);
    let mut pages = vec![0; bytes.div_ceil(page_bytes) * page_bytes];
    let row = noise(HEAD_DIM);
    let (first, rest) = pages.split_at_mut(page_bytes);
    for at in 0..PAGE {
        StoreKv { page: first, kv, at, key: &row, value: &row }.on(isa);
    }
    rest.chunks_mut(page_bytes).for_each(|page| page.copy_from_slice(first));
    pages
}

fn attentions(options: &Options, pool: &Pool, sets: &[Isa]) {
    // Tokens, positions before them, memory to stream through.
    for (tokens, before, bytes) in [(1, 4096 - 1, COLD_BYTES / 2), (PAGE, 2048 - PAGE, 1)] {
        for kv in KvType::ALL {
            for &isa in sets {
                let label =
                    format!("attention {} {}x{HEAD_DIM} {tokens} {}", kv.name(), before + 1, isa.describe());
                if !options.wants(&label) {
                    continue;
                }
                let page_bytes = kv.page_bytes(HEAD_DIM);
                let in_context = (before + tokens) / PAGE;
                let kv_bytes = in_context * page_bytes;
                let memory = pages(isa, kv, bytes.max(2 * pool.threads() * kv_bytes));
                let heads = memory.len() / kv_bytes;
                // A token's splits are work for several threads; a page of a prompt attends to all positions before it.
                let splits = if tokens == 1 { (before + 1) / SPLIT } else { 1 };
                let items: Vec<Item> = (0..heads * splits).map(|_| Item::new(tokens, before)).collect();
                let peaks = probe::measure(isa, options.threads, options.time / 2, false)
                    .expect("memory to read through");
                let seconds = options.time(|| {
                    pool.split(items.len(), 1, &|range| {
                        let mut scratch = Scratch::default();
                        for i in range {
                            let (head, split) = (i / splits, i % splits);
                            let page = |index: usize| {
                                &memory[(head * in_context + index) * page_bytes..][..page_bytes]
                            };
                            Attend {
                                queries: &items[i].queries,
                                split: (tokens == 1).then_some(split),
                                head_dim: HEAD_DIM,
                                scale: 0.1,
                                softcap: None,
                                kv,
                                holds: Holds::Both,
                                page: &page,
                                scratch: &mut scratch,
                            }
                            .on(isa);
                        }
                    });
                });
                let seen: usize = (0..items[0].queries.len()).map(|i| before + i / GROUP + 1).sum();
                let (rate, unit, peak) = if tokens == 1 {
                    ((heads * kv_bytes) as f64 / seconds, "GB/s", peaks.read_bytes_per_s.all_threads)
                } else {
                    ((heads * 4 * seen * HEAD_DIM) as f64 / seconds, "GOPS", peaks.f32_ops_per_s.all_threads)
                };
                let (ms, share) = (seconds * 1e3, 100.0 * rate / peak);
                println!("{label:60} {ms:9.3} ms {:8.1} {unit} {share:4.0}%", rate / 1e9);
            }
        }
    }
}

fn main() {
    let options = Options::parse().unwrap_or_else(|message| {
        eprintln!("error: {message}");
        std::process::exit(2);
    });
    let pool = Pool::new(options.threads);
    let sets: Vec<Isa> = Isa::all().into_iter().filter(|isa| isa.name() != "scalar").collect();
    matmuls(&options, &pool, &sets);
    attentions(&options, &pool, &sets);
}
