//! How fast each kernel is: for every weight type, the shapes of a 7B model's layer and every instruction set.
//!
//! `cargo bench -p zonda-kernels -- [WORD…] [--quick] [--threads N] [--tokens N]`: rows that hold every WORD
//! (`q4_0`, `avx2`, `4096x14336`, `matmul` …), say which. One token reads weights from memory and is given in GB/s, many
//! tokens in GOPS, both also as shares of what the machine reached on the set's instructions just before, with as many threads:
//! bytes out of half a GiB, operations in registers. Times are medians.

use std::time::{Duration, Instant};
use zonda_kernels::memory::Arena;
use zonda_kernels::probe::Peaks;
use zonda_kernels::quantize::quantize;
use zonda_kernels::{ActKind, Acts, DType, Isa, Job, Packed, Pool, act_kind, cpus, matmul};

/// `[rows, cols]` of a 7B layer's products: Q and O, gate and up, down, K and V.
const SHAPES: [(usize, usize); 4] = [(4096, 4096), (14336, 4096), (4096, 14336), (1024, 4096)];
/// Weights that a decode measurement walks through: more than any cache holds, as a model's layers are.
const COLD_BYTES: usize = 2 << 30;

struct Options {
    words: Vec<String>,
    threads: usize,
    tokens: usize,
    /// How long a figure is measured.
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
                "--bench" => {} // cargo's own
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

    /// The median time of `body`, which is run at least three times and once before.
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

/// As many copies of a matrix as `COLD_BYTES` hold.
fn weights(pool: &Pool, dtype: DType, rows: usize, cols: usize) -> Vec<Packed> {
    let mut stored = Vec::new();
    quantize(dtype, &noise(16 * cols), &mut stored);
    let row_bytes = stored.len() / 16;
    let arena = Arena::new();
    let copies = COLD_BYTES.div_ceil(rows * row_bytes);
    let row = |r: usize| &stored[r % 16 * row_bytes..][..row_bytes];
    (0..copies)
        .map(|_| Packed::pack(pool, &arena, dtype, rows, cols, row).expect("memory for the weights"))
        .collect()
}

fn activations(isa: Isa, tokens: usize, cols: usize, kind: ActKind) -> Acts {
    let mut acts = Acts::new();
    acts.reset(tokens, cols, &[kind]);
    let (rows, x) = (acts.rows(), noise(cols));
    for t in 0..tokens {
        // SAFETY: one thread, each row once, `acts` alive.
        unsafe {
            rows.row(t).copy_from_slice(&x);
            rows.convert(isa, t, &[kind]);
        }
    }
    acts
}

/// What limits products of many tokens.
fn peak(peaks: &Peaks, kind: ActKind) -> f64 {
    match kind {
        ActKind::Quant => peaks.int8.all,
        ActKind::Bf16 => peaks.bf16.unwrap_or(peaks.f32).all,
        ActKind::F32 => peaks.f32.all,
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
                let kind = act_kind(isa, dtype);
                let acts = activations(isa, tokens, cols, kind);
                let peaks = Peaks::measure(isa, options.threads, options.time / 2, false)
                    .expect("memory to read through");
                let mut out = vec![0.0; tokens * rows];
                let mut next = weights.iter().cycle();
                let seconds = options.time(|| {
                    let weights = next.next().expect("an endless walk");
                    let job = Job { weights, out: &mut out, stride: rows, add: false };
                    matmul(isa, pool, &acts, &mut [job]);
                });
                let (rate, unit, peak) = if tokens == 1 {
                    (weights[0].bytes() as f64 / seconds, "GB/s", peaks.read.all)
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

fn main() {
    let options = Options::parse().unwrap_or_else(|message| {
        eprintln!("error: {message}");
        std::process::exit(2);
    });
    let pool = Pool::new(options.threads);
    let sets: Vec<Isa> = Isa::all().into_iter().filter(|isa| isa.name() != "scalar").collect();
    matmuls(&options, &pool, &sets);
}
