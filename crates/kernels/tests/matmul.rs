//! Every matmul kernel on every instruction set of this machine, against `f64` sums over dequantised values.

use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use zonda_kernels::dequantize::dequantize;
use zonda_kernels::memory::Arena;
use zonda_kernels::quantize::quantize;
use zonda_kernels::{
    ActivationKind, Activations, DType, HeadJobs, Isa, Job, Packed, Pool, activation_kind, matmul,
    matmul_heads, rows_of_head,
};

/// A small reproducible generator of values in −1..1, with an outlier now and then.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let x = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
            if state.is_multiple_of(97) { 8.0 * x } else { x }
        })
        .collect()
}

fn filled(isa: Isa, x: &[f32], cols: usize, kinds: &[ActivationKind]) -> Activations {
    let tokens = x.len() / cols;
    let mut activations = Activations::new();
    activations.reset(tokens, cols, kinds);
    let rows = activations.rows();
    for t in 0..tokens {
        // SAFETY: one thread, and no slice of a row is kept.
        unsafe {
            rows.row(t).copy_from_slice(&x[t * cols..][..cols]);
            rows.convert(isa, t);
        }
    }
    activations
}

/// The activations as the kernel multiplies them, in plain `f32`.
fn seen(kind: ActivationKind, x: &[f32], cols: usize) -> Vec<f32> {
    match kind {
        ActivationKind::F32 => x.to_vec(),
        ActivationKind::Bf16 => x.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect(),
        ActivationKind::Quant => x
            .chunks(cols)
            .flat_map(|row| row.chunks(zonda_kernels::activations::GROUP))
            .flat_map(|group| {
                let amax = group.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                let (scale, inverse) = (amax / 127.0, if amax > 0.0 { 127.0 / amax } else { 0.0 });
                group.iter().map(move |v| scale * (v * inverse).round_ties_even()).collect::<Vec<_>>()
            })
            .collect(),
    }
}

fn check(dtype: DType, rows: usize, cols: usize, tokens: usize, threads: usize, seed: u64) {
    let mut stored = Vec::new();
    quantize(dtype, &values(rows * cols, seed), &mut stored);
    let mut weights = vec![0.0; rows * cols];
    dequantize(dtype, &stored, &mut weights);
    let x = values(tokens * cols, seed + 1);
    let pool = Pool::new(threads);
    let row_bytes = stored.len() / rows;
    let packed =
        Packed::pack(&pool, &Arena::new(), dtype, rows, cols, |r| &stored[r * row_bytes..][..row_bytes])
            .unwrap();
    for isa in Isa::all() {
        let kind = activation_kind(isa, dtype);
        let activations = filled(isa, &x, cols, &[kind]);
        let stride = rows + 3;
        let base = values(tokens * stride, seed + 2);
        for add in [false, true] {
            let mut out = base.clone();
            matmul(isa, &pool, &activations, &mut [Job { weights: &packed, out: &mut out, stride, add }]);
            let a = seen(kind, &x, cols);
            for t in 0..tokens {
                for r in 0..rows {
                    let products =
                        (0..cols).map(|k| f64::from(weights[r * cols + k]) * f64::from(a[t * cols + k]));
                    let (sum, size) = products.fold((0.0, 0.0), |(s, m), p| (s + p, m + p.abs()));
                    let want = sum + if add { f64::from(base[t * stride + r]) } else { 0.0 };
                    let got = f64::from(out[t * stride + r]);
                    // Rounding of f32 sums; mins and zero points cancel terms larger than the products themselves.
                    let tolerance = 4e-6 * (size + 8.0) + 1e-5;
                    assert!(
                        (got - want).abs() <= tolerance,
                        "{dtype} on {}: [{rows}, {cols}] × {tokens}, token {t} row {r}: {got}, expected {want} ± {tolerance}",
                        isa.describe()
                    );
                }
                for r in rows..stride {
                    assert_eq!(out[t * stride + r], base[t * stride + r], "{dtype}: wrote beyond a row");
                }
            }
        }
    }
}

#[test]
fn every_type_on_every_set() {
    for dtype in DType::ALL {
        let cols = match dtype.block_len() {
            256 => 768,
            128 => 384,
            _ => 288,
        };
        for tokens in [1, 2, 3, 8, 13] {
            check(dtype, 37, cols, tokens, 2, 7);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes(which in 0..DType::ALL.len(), rows in 1usize..70, blocks in 1usize..9, tokens in 1usize..20, seed in 0u64..1000) {
        let dtype = DType::ALL[which];
        let cols = match dtype.block_len() {
            1 => 32 * blocks - seed as usize % 31,
            128 => 128 * blocks.min(4),
            256 => 256 * blocks.min(3),
            n => n * blocks,
        };
        check(dtype, rows, cols, tokens, 1 + seed as usize % 2, seed);
    }
}

#[test]
fn a_product_for_each_head_equals_that_of_the_head_alone() {
    let (heads, rows, cols, step, stride) = (3, 70, 288, 80, 250);
    let pool = Pool::new(2);
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.block_len() <= 32) {
        let weights: Vec<Packed> = (0..heads)
            .map(|h| {
                let mut stored = Vec::new();
                quantize(dtype, &values(rows * cols, h as u64 + 5), &mut stored);
                let bytes = stored.len() / rows;
                Packed::pack(&pool, &Arena::new(), dtype, rows, cols, |r| &stored[r * bytes..][..bytes])
                    .unwrap()
            })
            .collect();
        for (isa, tokens) in Isa::all().iter().flat_map(|&isa| [(isa, 1), (isa, 7), (isa, 65)]) {
            let kinds = [activation_kind(isa, dtype)];
            let room = rows_of_head(tokens);
            // rows beyond a head's tokens are NaN: they must not be read
            let mut all = vec![f32::NAN; heads * room * cols];
            let of_head: Vec<Vec<f32>> = (0..heads).map(|h| values(tokens * cols, h as u64 + 9)).collect();
            for (all, own) in all.chunks_mut(room * cols).zip(&of_head) {
                all[..own.len()].copy_from_slice(own);
            }
            let mut out = vec![0.5; tokens * stride];
            let activations = filled(isa, &all, cols, &kinds);
            let jobs = HeadJobs { weights: &weights, tokens, out: &mut out, stride, step };
            matmul_heads(isa, &pool, &activations, jobs);
            let mut want = vec![0.5; tokens * stride];
            for (h, own) in of_head.iter().enumerate() {
                let activations = filled(isa, own, cols, &kinds);
                let job = Job { weights: &weights[h], out: &mut want[h * step..], stride, add: false };
                matmul(isa, &pool, &activations, &mut [job]);
            }
            assert_eq!(out, want, "{dtype}, {tokens} tokens on {}", isa.describe());
        }
    }
}

#[test]
fn a_tokens_result_does_not_depend_on_its_batch() {
    let (rows, cols) = (50, 512);
    let x = values(11 * cols, 3);
    let pool = Pool::new(2);
    for dtype in DType::ALL {
        let mut stored = Vec::new();
        quantize(dtype, &values(rows * cols, 5), &mut stored);
        let row_bytes = stored.len() / rows;
        let packed =
            Packed::pack(&pool, &Arena::new(), dtype, rows, cols, |r| &stored[r * row_bytes..][..row_bytes])
                .unwrap();
        for isa in Isa::all() {
            let kinds = [activation_kind(isa, dtype)];
            let run = |x: &[f32]| {
                let activations = filled(isa, x, cols, &kinds);
                let mut out = vec![0.0; activations.tokens() * rows];
                matmul(
                    isa,
                    &pool,
                    &activations,
                    &mut [Job { weights: &packed, out: &mut out, stride: rows, add: false }],
                );
                out
            };
            let together = run(&x);
            let alone: Vec<f32> = x.chunks(cols).flat_map(run).collect();
            assert_eq!(together, alone, "{dtype} on {}", isa.describe());
        }
    }
}

#[test]
fn nan_and_infinity_in_activations_reach_the_output() {
    let pool = Pool::new(1);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = values(256, 1);
        x[77] = bad;
        for dtype in DType::ALL {
            let mut stored = Vec::new();
            quantize(dtype, &values(16 * 256, 9), &mut stored);
            let row_bytes = stored.len() / 16;
            let packed =
                Packed::pack(&pool, &Arena::new(), dtype, 16, 256, |r| &stored[r * row_bytes..][..row_bytes])
                    .unwrap();
            for isa in Isa::all() {
                let activations = filled(isa, &x, 256, &[activation_kind(isa, dtype)]);
                let mut out = vec![0.0; 16];
                matmul(
                    isa,
                    &pool,
                    &activations,
                    &mut [Job { weights: &packed, out: &mut out, stride: 16, add: false }],
                );
                let lost = out.iter().filter(|v| v.is_finite()).count();
                assert_eq!(lost, 0, "{bad} in, {out:?} out: {dtype} on {}", isa.describe());
            }
        }
    }
}

/// 16 rows of 32 columns.
fn small(pool: &Pool, dtype: DType) -> Packed {
    let mut stored = Vec::new();
    quantize(dtype, &values(16 * 32, 9), &mut stored);
    let row_bytes = stored.len() / 16;
    Packed::pack(pool, &Arena::new(), dtype, 16, 32, |r| &stored[r * row_bytes..][..row_bytes]).unwrap()
}

#[test]
fn activations_without_the_form_that_weights_read_are_refused() {
    let pool = Pool::new(1);
    for dtype in DType::ALL.into_iter().filter(|t| t.block_len() <= 32) {
        let packed = small(&pool, dtype);
        for isa in Isa::all() {
            let mut activations = Activations::new();
            activations.reset(1, 32, &[]);
            let needed = activation_kind(isa, dtype);
            let multiply = |activations: &Activations| {
                let mut out = vec![0.0; 16];
                let job = Job { weights: &packed, out: &mut out, stride: 16, add: false };
                catch_unwind(AssertUnwindSafe(|| matmul(isa, &pool, activations, &mut [job])))
            };
            assert_eq!(multiply(&activations).is_ok(), needed == ActivationKind::F32, "{dtype}");
            activations.reset(1, 32, &[needed]);
            assert!(multiply(&activations).is_ok(), "{dtype}");
            // A buffer left from an earlier shape does not count as a form of this one.
            activations.reset(1, 32, &[]);
            assert_eq!(activations.holds(needed), needed == ActivationKind::F32);
        }
    }
}

#[test]
#[should_panic(expected = "room for the product")]
fn a_stride_that_overflows_is_refused() {
    let pool = Pool::new(1);
    let mut activations = Activations::new();
    activations.reset(3, 32, &[]);
    let (weights, mut out) = (small(&pool, DType::F32), vec![0.0; 16]);
    // Twice the stride overflows to 0 in a `usize`.
    let job = Job { weights: &weights, out: &mut out, stride: 1 << (usize::BITS - 1), add: false };
    matmul(Isa::best(), &pool, &activations, &mut [job]);
}

#[test]
#[should_panic(expected = "that an address can reach")]
fn activations_whose_size_overflows_are_refused() {
    Activations::new().reset(1 << (usize::BITS / 2), 1 << (usize::BITS / 2), &[]);
}

#[test]
fn a_matrix_whose_size_overflows_is_an_error() {
    // A group of 64 rows takes 256 bytes.
    let rows = 64 << (usize::BITS - 8);
    assert!(Packed::pack(&Pool::new(1), &Arena::new(), DType::F32, rows, 1, |_| &[0; 4]).is_err());
}
