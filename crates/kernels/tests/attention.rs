//! Attention, norms, RoPE, activations and conversions on every instruction set, against plain `f64` formulas.

use half::f16;
use proptest::prelude::*;
use zonda_kernels::Isa;
use zonda_kernels::activation::{AddScaled, SiluMul};
use zonda_kernels::attention::{Attend, AttendSplit, KvType, Merge, PAGE, Query, SPLIT, Scratch, StoreKv};
use zonda_kernels::norm::{RmsNorm, RmsNormInPlace};
use zonda_kernels::rope::Rotate;
use zonda_kernels::simd::{LANES, Op, Simd};

fn values(n: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            scale * ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
        })
        .collect()
}

/// `[positions, head_dim]` as the cache holds them.
fn as_stored(kv: KvType, values: &[f32], head_dim: usize) -> Vec<f64> {
    let rows = values.chunks(head_dim).flat_map(|row| row.chunks(32));
    rows.flat_map(|block| {
        let amax = block.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        let scale = f64::from(f16::from_f32(amax / 127.0).to_f32());
        block.iter().map(move |&x| match kv {
            KvType::F32 => f64::from(x),
            KvType::F16 => f64::from(f16::from_f32(x).to_f32()),
            KvType::Q8_0 => scale * f64::from((x * (127.0 / amax)).round_ties_even()),
        })
    })
    .collect()
}

#[track_caller]
fn close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!(
            (f64::from(g) - w).abs() <= tolerance * (1.0 + w.abs()),
            "{what}: value {i} is {g}, expected {w}"
        );
    }
}

fn check_attention(positions: usize, head_dim: usize, kv: KvType, windows: &[(usize, usize)], seed: u64) {
    let keys = values(positions * head_dim, seed, 1.0);
    let vals = values(positions * head_dim, seed + 1, 2.0);
    let queries = values(windows.len() * head_dim, seed + 2, 3.0);
    let mut pages = vec![vec![0u32; kv.page_bytes(head_dim) / 4]; positions.div_ceil(PAGE)];
    for p in 0..positions {
        // every set writes the same bits
        let isa = Isa::all()[p % Isa::all().len()];
        isa.run(StoreKv {
            page: bytemuck::cast_slice_mut(&mut pages[p / PAGE]),
            kv,
            at: p % PAGE,
            key: &keys[p * head_dim..][..head_dim],
            value: &vals[p * head_dim..][..head_dim],
        });
    }
    let (stored_keys, stored_vals) = (as_stored(kv, &keys, head_dim), as_stored(kv, &vals, head_dim));
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut want = Vec::new();
    for (q, &(from, to)) in queries.chunks(head_dim).zip(windows) {
        let score = |p: usize| -> f64 {
            let key = &stored_keys[p * head_dim..][..head_dim];
            q.iter().zip(key).map(|(&q, &k)| f64::from(q) * k).sum::<f64>() * f64::from(scale)
        };
        let weights: Vec<f64> = (from..to).map(|p| score(p).exp()).collect();
        let total: f64 = weights.iter().sum();
        for d in 0..head_dim {
            let mixed: f64 = (from..to).map(|p| weights[p - from] * stored_vals[p * head_dim + d]).sum();
            want.push(mixed / total);
        }
    }
    for isa in Isa::all() {
        let mut out = vec![f32::NAN; want.len()];
        let work: Vec<Query> = windows
            .iter()
            .enumerate()
            .map(|(i, &(from, to))| Query {
                q: queries[i * head_dim..].as_ptr(),
                out: out[i * head_dim..].as_mut_ptr(),
                from,
                to,
            })
            .collect();
        isa.run(Attend {
            queries: &work,
            head_dim,
            scale,
            kv,
            page: |i: usize| bytemuck::cast_slice::<u32, u8>(&pages[i]),
            scratch: &mut Scratch::default(),
        });
        close(&out, &want, 2e-5, &format!("attention on {} ({})", isa.describe(), kv.name()));
        assert_eq!(
            by_splits(isa, &work, head_dim, scale, kv, &pages),
            out,
            "in splits on {}",
            isa.describe()
        );
    }
}

/// What several threads do with a long context: every split on its own, then merged.
fn by_splits(
    isa: Isa,
    work: &[Query],
    head_dim: usize,
    scale: f32,
    kv: KvType,
    pages: &[Vec<u32>],
) -> Vec<f32> {
    let (from, to) = work.iter().fold((usize::MAX, 0), |(from, to), q| (from.min(q.from), to.max(q.to)));
    let splits = from / SPLIT..to.div_ceil(SPLIT);
    let stride = work.len() * (head_dim + 2);
    let mut parts = vec![f32::NAN; splits.len() * stride];
    for (split, part) in splits.zip(parts.chunks_mut(stride)) {
        let row = |i: usize, q: &Query| Query { out: part[i * (head_dim + 2)..].as_ptr().cast_mut(), ..*q };
        let queries: Vec<Query> = work.iter().enumerate().map(|(i, q)| row(i, q)).collect();
        let page = |i: usize| bytemuck::cast_slice::<u32, u8>(&pages[i]);
        let scratch = &mut Scratch::default();
        isa.run(AttendSplit {
            attend: Attend { queries: &queries, head_dim, scale, kv, page, scratch },
            split,
        });
    }
    let mut out = vec![f32::NAN; work.len() * head_dim];
    for (i, out) in out.chunks_mut(head_dim).enumerate() {
        isa.run(Merge { parts: &parts[i * (head_dim + 2)..], stride, out });
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn attention(positions in 1usize..200, dim in 1usize..9, queries in 1usize..30, kv in prop::sample::select(&KvType::ALL[..]), window in 1usize..120, seed in 0u64..10_000) {
        // head sizes that are no multiple of the vector too
        let head_dim = 2 * (8 * dim - seed as usize % 7);
        let ranges: Vec<(usize, usize)> = (0..queries)
            .map(|i| {
                let to = positions - (i * 13 + seed as usize) % positions;
                (to.saturating_sub(window), to)
            })
            .collect();
        check_attention(positions, head_dim, kv, &ranges, seed);
    }

    #[test]
    fn rows(n in 1usize..200, seed in 0u64..10_000) {
        let (x, w) = (values(n, seed, 4.0), values(n, seed + 1, 1.0));
        let mean = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / n as f64;
        let normed: Vec<f64> = x.iter().zip(&w).map(|(&x, &w)| f64::from(x) / (mean + 1e-5).sqrt() * f64::from(w)).collect();
        let silu: Vec<f64> = x.iter().zip(&w).map(|(&g, &u)| f64::from(g) / (1.0 + (-f64::from(g)).exp()) * f64::from(u)).collect();
        let added: Vec<f64> = x.iter().zip(&w).map(|(&x, &y)| f64::from(x) + 0.25 * f64::from(y)).collect();
        let angles: Vec<f32> = values(n, seed + 2, 3.0);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let head: Vec<f32> = x.iter().chain(&w).copied().collect();
        let turned: Vec<f64> = {
            let part = |sign: f64, a: &[f32], b: &[f32]| -> Vec<f64> {
                (0..n).map(|i| f64::from(a[i]) * f64::from(cos[i]) + sign * f64::from(b[i]) * f64::from(sin[i])).collect()
            };
            [part(-1.0, &x, &w), part(1.0, &w, &x)].concat()
        };
        for isa in Isa::all() {
            let on = isa.describe();
            let mut out = vec![f32::NAN; n];
            isa.run(RmsNorm { x: &x, weight: &w, eps: 1e-5, out: &mut out });
            close(&out, &normed, 2e-6, &format!("norm on {on}"));
            let mut out = x.clone();
            isa.run(RmsNormInPlace { x: &mut out, weight: &w, eps: 1e-5 });
            close(&out, &normed, 2e-6, &format!("norm in place on {on}"));
            let mut out = vec![f32::NAN; n];
            isa.run(SiluMul { gate: &x, up: &w, out: &mut out });
            close(&out, &silu, 2e-6, &format!("silu on {on}"));
            let mut out = x.clone();
            isa.run(AddScaled { x: &mut out, y: &w, scale: 0.25 });
            close(&out, &added, 1e-6, &format!("sum on {on}"));
            let mut out = head.clone();
            isa.run(Rotate { head: &mut out, cos: &cos, sin: &sin });
            close(&out, &turned, 2e-6, &format!("rope on {on}"));
        }
    }
}

#[test]
fn long_contexts_and_whole_pages() {
    for positions in [PAGE - 1, PAGE, PAGE + 1, SPLIT, SPLIT + 1, 40 * PAGE] {
        let windows = [(0, positions), (positions - 1, positions), (positions / 2, positions / 2 + 1)];
        for kv in KvType::ALL {
            check_attention(positions, 64, kv, &windows, 11);
        }
    }
}

#[test]
fn a_nan_in_the_cache_shows() {
    for (kv, (key, value)) in
        KvType::ALL.into_iter().flat_map(|kv| [(f32::NAN, 1.0), (1.0, f32::NAN)].map(|pair| (kv, pair)))
    {
        let mut page = vec![0u32; kv.page_bytes(32) / 4];
        for at in 0..3 {
            let (k, v) = if at == 1 { (key, value) } else { (0.5, 0.5) };
            let page = bytemuck::cast_slice_mut(&mut page);
            Isa::best().run(StoreKv { page, kv, at, key: &[k; 32], value: &[v; 32] });
        }
        for isa in Isa::all() {
            let (q, mut out) = ([1.0f32; 32], [0.0f32; 32]);
            isa.run(Attend {
                queries: &[Query { q: q.as_ptr(), out: out.as_mut_ptr(), from: 0, to: 3 }],
                head_dim: 32,
                scale: 1.0,
                kv,
                page: |_| bytemuck::cast_slice::<u32, u8>(&page),
                scratch: &mut Scratch::default(),
            });
            assert!(out.iter().all(|v| v.is_nan()), "{out:?} on {}", isa.describe());
        }
    }
}

/// Runs one method of every instruction set on 16 lanes.
struct Lanewise<F>(F, [f32; LANES]);

trait Method {
    fn call<S: Simd>(&self, s: S, v: S::F) -> S::F;
}

impl<F: Method> Op for Lanewise<F> {
    type Out = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: both arrays are 16 long.
        unsafe {
            let v = self.0.call(s, s.load(self.1.as_ptr()));
            s.store(out.as_mut_ptr(), v);
        }
        out
    }
}

struct Exp;
impl Method for Exp {
    #[inline(always)]
    fn call<S: Simd>(&self, s: S, v: S::F) -> S::F {
        s.exp(v)
    }
}

struct ThroughF16;
impl Method for ThroughF16 {
    #[inline(always)]
    fn call<S: Simd>(&self, s: S, v: S::F) -> S::F {
        let mut half = [f16::ZERO; LANES];
        // SAFETY: 16 values.
        unsafe {
            s.store_f16(half.as_mut_ptr(), v);
            s.load_f16(half.as_ptr())
        }
    }
}

#[test]
fn exponentials() {
    for isa in Isa::all() {
        for step in 0..2000 {
            let x: [f32; LANES] = std::array::from_fn(|i| -87.0 + 0.08 * step as f32 + 0.005 * i as f32);
            let got = isa.run(Lanewise(Exp, x));
            for (x, got) in x.iter().zip(got) {
                let want = f64::from(x.min(88.0)).exp();
                let error = (f64::from(got) - want).abs() / want;
                assert!(error < 4e-7, "e^{x} is {got} on {}, expected {want}", isa.describe());
            }
        }
    }
}

#[test]
fn halves_round_to_nearest_even_on_every_set() {
    for isa in Isa::all() {
        let special = [0.0, -0.0, 1.0, 65504.0, 65520.0, 1e-8, 5.96e-8, 6.1e-5, 1.000_488_3, 1.001_464_8];
        for (n, x) in
            values(4000, 3, 70_000.0).into_iter().chain(values(4000, 4, 1e-4)).chain(special).enumerate()
        {
            let got = isa.run(Lanewise(ThroughF16, [x; LANES]))[n % LANES];
            assert_eq!(got, f16::from_f32(x).to_f32(), "{x} on {}", isa.describe());
        }
    }
}
