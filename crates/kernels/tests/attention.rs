//! Attention, norms, RoPE, activations and conversions on every instruction set, against plain `f64` formulas.

use half::f16;
use proptest::prelude::*;
use zonda_kernels::Isa;
use zonda_kernels::attention::{Attend, Hadamard, KvType, Merge, PAGE, Query, SPLIT, Scratch, StoreKv};
use zonda_kernels::elementwise::{Activation, AddScaled, GatedMul, ScaleAndCap};
use zonda_kernels::norm::{LayerNorm, RmsNorm, RmsNormInPlace};
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
    rows.flat_map(|block| match kv {
        KvType::F32 => block.iter().map(|&x| f64::from(x)).collect(),
        KvType::F16 => block.iter().map(|&x| f64::from(f16::from_f32(x).to_f32())).collect(),
        KvType::Q8_0 => {
            let amax = block.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            let scale = f64::from(f16::from_f32(amax / 127.0).to_f32());
            block.iter().map(|&x| scale * f64::from((x * (127.0 / amax)).round_ties_even())).collect()
        }
        KvType::Q4_0 => by_levels(block),
    })
    .collect()
}

/// The levels of [`KvType::Q4_0`], as multiples of the block's scale.
const LEVELS: [i8; 16] = [-126, -104, -83, -65, -50, -36, -22, -10, 2, 14, 26, 38, 51, 66, 84, 110];

/// Whether rounding decides how a block is stored in levels: two values share the largest magnitude, a value is halfway between
/// two levels, or both ends fit equally well.
fn undecided(block: &[f32]) -> bool {
    let mut sizes: Vec<f64> = block.iter().map(|&v| f64::from(v.abs())).collect();
    sizes.sort_by(|a, b| b.total_cmp(a));
    let largest = block.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
    let with = |end: f32| -> (f64, f64) {
        let scale = f64::from(f16::from_f32(largest / end).to_f32());
        let padded = (0..32).map(|i| block.get(i).map_or(0.0, |&v| f64::from(v) / scale));
        let (mut error, mut margin) = (0.0, f64::INFINITY);
        for x in padded {
            let mut off = LEVELS.map(|level| (f64::from(level) - x).abs());
            off.sort_by(f64::total_cmp);
            error += (scale * off[0]).powi(2);
            margin = margin.min(off[1] - off[0]);
        }
        (error, margin)
    };
    let (low, high) = (with(-126.0), with(110.0));
    sizes.get(1).is_some_and(|second| *second > 0.999_999 * sizes[0])
        || (low.0 - high.0).abs() <= 1e-4 * (low.0 + high.0)
        || low.1.min(high.1) < 1e-3
}

/// Values whose stored form does not depend on the last bit.
fn decided(kv: KvType, n: usize, head_dim: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut all = values(n, seed, scale);
    let rows = all.chunks_mut(head_dim).filter(|_| kv == KvType::Q4_0);
    for (i, block) in rows.flat_map(|row| row.chunks_mut(32)).enumerate() {
        let mut other = seed + 20_000 * (i as u64 + 1);
        while undecided(block) {
            other += 1;
            block.copy_from_slice(&values(block.len(), other, scale));
        }
    }
    all
}

/// A block in levels: the largest magnitude is the lowest or the highest, whichever gives the smaller error.
fn by_levels(block: &[f32]) -> Vec<f64> {
    let largest = block.iter().fold(0.0f32, |max, &v| if v.abs() > max.abs() { v } else { max });
    let with = |end: f32| -> (f32, Vec<f64>) {
        let scale = f16::from_f32(largest / end).to_f32();
        let level = |x: f32| {
            LEVELS.map(f32::from).into_iter().min_by(|a, b| (a - x).abs().total_cmp(&(b - x).abs())).unwrap()
        };
        // Summed in the kernels' order, since the choice of the better end may depend on the last bit.
        let mut squares = [0.0f32; LANES];
        let mut stored = Vec::new();
        for i in 0..32 {
            let x = block.get(i).copied().unwrap_or(0.0) * (1.0 / scale);
            squares[i % LANES] += (x - level(x)) * (x - level(x));
            stored.push(f64::from(scale) * f64::from(level(x)));
        }
        stored.truncate(block.len());
        (scale * scale * squares.iter().sum::<f32>(), stored)
    };
    let (low, high) = (with(-126.0), with(110.0));
    if low.0 <= high.0 { low.1 } else { high.1 }
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

/// Queries `[ranges, head_dim]` that see these positions, and their rows of `out`, `[ranges, width]`.
fn queries(
    q: &[f32],
    out: &mut [f32],
    head_dim: usize,
    width: usize,
    ranges: &[(usize, usize)],
) -> Vec<Query> {
    let rows = q.chunks(head_dim).zip(out.chunks_mut(width)).zip(ranges);
    // SAFETY: every test here keeps both slices alive, and reads `out` only after the kernel has returned.
    rows.map(|((q, out), &(from, to))| unsafe { Query::new(q, out, from, to) }).collect()
}

fn attend(
    isa: Isa,
    queries: &[Query],
    head_dim: usize,
    (scale, softcap): (f32, Option<f32>),
    kv: KvType,
    pages: &[Vec<u32>],
    split: Option<usize>,
) {
    let page = |i: usize| bytemuck::cast_slice::<u32, u8>(&pages[i]);
    let scratch = &mut Scratch::default();
    Attend { queries, head_dim, scale, softcap, kv, page: &page, scratch, split }.on(isa);
}

fn check_attention(positions: usize, head_dim: usize, kv: KvType, windows: &[(usize, usize)], seed: u64) {
    let keys = decided(kv, positions * head_dim, head_dim, seed, 1.0);
    let vals = decided(kv, positions * head_dim, head_dim, seed + 1, 2.0);
    let q = values(windows.len() * head_dim, seed + 2, 3.0);
    let mut pages = vec![vec![0u32; kv.page_bytes(head_dim) / 4]; positions.div_ceil(PAGE)];
    for p in 0..positions {
        // Every instruction set writes the same bits.
        let isa = Isa::all()[p % Isa::all().len()];
        StoreKv {
            page: bytemuck::cast_slice_mut(&mut pages[p / PAGE]),
            kv,
            at: p % PAGE,
            key: &keys[p * head_dim..][..head_dim],
            value: &vals[p * head_dim..][..head_dim],
        }
        .on(isa);
    }
    let (stored_keys, stored_vals) = (as_stored(kv, &keys, head_dim), as_stored(kv, &vals, head_dim));
    // sinks larger and smaller than the scores, for every other
    let sinks: Vec<Option<f32>> = values(windows.len(), seed + 3, 6.0)
        .into_iter()
        .map(|s| seed.is_multiple_of(2).then_some(s))
        .collect();
    // a cap among the scores, for every third
    let (scale, softcap) = (1.0 / (head_dim as f32).sqrt(), seed.is_multiple_of(3).then_some(1.5));
    let mut want = Vec::new();
    for ((q, &(from, to)), sink) in q.chunks(head_dim).zip(windows).zip(&sinks) {
        let score = |p: usize| -> f64 {
            let key = &stored_keys[p * head_dim..][..head_dim];
            let score = q.iter().zip(key).map(|(&q, &k)| f64::from(q) * k).sum::<f64>() * f64::from(scale);
            softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let weights: Vec<f64> = (from..to).map(|p| score(p).exp()).collect();
        let total = weights.iter().sum::<f64>() + sink.map_or(0.0, |sink| f64::from(sink).exp());
        for d in 0..head_dim {
            let mixed: f64 = (from..to).map(|p| weights[p - from] * stored_vals[p * head_dim + d]).sum();
            want.push(mixed / total);
        }
    }
    for isa in Isa::all() {
        let mut out = vec![f32::NAN; want.len()];
        let mut work = queries(&q, &mut out, head_dim, head_dim, windows);
        work.iter_mut().zip(&sinks).for_each(|(query, &sink)| *query = query.with_sink(sink));
        attend(isa, &work, head_dim, (scale, softcap), kv, &pages, None);
        close(&out, &want, 2e-5, &format!("attention on {} ({})", isa.describe(), kv.name()));
        assert_eq!(
            by_splits(isa, &q, (windows, &sinks), head_dim, (scale, softcap), kv, &pages),
            out,
            "in splits on {}",
            isa.describe()
        );
    }
}

/// As several threads process a long context: every split separately, then the merge.
fn by_splits(
    isa: Isa,
    q: &[f32],
    (windows, sinks): (&[(usize, usize)], &[Option<f32>]),
    head_dim: usize,
    scale: (f32, Option<f32>),
    kv: KvType,
    pages: &[Vec<u32>],
) -> Vec<f32> {
    let (from, to) = windows.iter().fold((usize::MAX, 0), |(from, to), w| (from.min(w.0), to.max(w.1)));
    let splits = from / SPLIT..to.div_ceil(SPLIT);
    let stride = windows.len() * (head_dim + 2);
    let mut parts = vec![f32::NAN; splits.len() * stride];
    for (split, part) in splits.zip(parts.chunks_mut(stride)) {
        let work = queries(q, part, head_dim, head_dim + 2, windows);
        attend(isa, &work, head_dim, scale, kv, pages, Some(split));
    }
    let mut out = vec![f32::NAN; windows.len() * head_dim];
    for (i, out) in out.chunks_mut(head_dim).enumerate() {
        Merge { parts: &parts[i * (head_dim + 2)..], stride, out, sink: sinks[i] }.on(isa);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn attention(positions in 1usize..200, dim in 1usize..9, queries in 1usize..30, kv in prop::sample::select(&KvType::ALL[..]), window in 1usize..120, seed in 0u64..10_000) {
        // Also head sizes that are not a multiple of the vector.
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
        let gelu: Vec<f64> = x
            .iter()
            .zip(&w)
            .map(|(&g, &u)| {
                let g = f64::from(g);
                let tanh = ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3))).tanh();
                0.5 * g * (1.0 + tanh) * f64::from(u)
            })
            .collect();
        // limits that act on some of them
        let clamped: Vec<f64> = x
            .iter()
            .zip(&w)
            .map(|(&g, &u)| {
                let (g, u) = (f64::from(g).min(1.5), f64::from(u).clamp(-1.5, 1.5));
                g / (1.0 + (-1.702 * g).exp()) * (u + 1.0)
            })
            .collect();
        let centre = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let variance = x.iter().map(|&v| (f64::from(v) - centre).powi(2)).sum::<f64>() / n as f64;
        let layer: Vec<f64> = x.iter().zip(&w).map(|(&x, &w)| (f64::from(x) - centre) / (variance + 1e-2).sqrt() * f64::from(w)).collect();
        let scaled: Vec<f64> = x.iter().map(|&v| 1.5 * f64::from(v)).collect();
        let capped: Vec<f64> = scaled.iter().map(|v| 3.0 * (v / 3.0).tanh()).collect();
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
            RmsNorm { x: &x, weight: &w, eps: 1e-5, out: &mut out }.on(isa);
            close(&out, &normed, 2e-6, &format!("norm on {on}"));
            let mut out = x.clone();
            RmsNormInPlace { x: &mut out, weight: &w, eps: 1e-5 }.on(isa);
            close(&out, &normed, 2e-6, &format!("norm in place on {on}"));
            let mut out = vec![f32::NAN; n];
            GatedMul { activation: Activation::Silu, gate: &x, up: &w, out: &mut out }.on(isa);
            close(&out, &silu, 2e-6, &format!("silu on {on}"));
            let mut out = vec![f32::NAN; n];
            GatedMul { activation: Activation::GeluTanh, gate: &x, up: &w, out: &mut out }.on(isa);
            close(&out, &gelu, 2e-6, &format!("gelu on {on}"));
            let mut out = vec![f32::NAN; n];
            let activation = Activation::Clamped { alpha: 1.702, limit: 1.5 };
            GatedMul { activation, gate: &x, up: &w, out: &mut out }.on(isa);
            close(&out, &clamped, 2e-6, &format!("clamped on {on}"));
            let mut out = vec![f32::NAN; n];
            LayerNorm { x: &x, weight: &w, eps: 1e-2, out: &mut out }.on(isa);
            close(&out, &layer, 1e-5, &format!("layer norm on {on}"));
            let mut out = x.clone();
            ScaleAndCap { x: &mut out, scale: 1.5, cap: None }.on(isa);
            close(&out, &scaled, 1e-6, &format!("scale on {on}"));
            let mut out = x.clone();
            ScaleAndCap { x: &mut out, scale: 1.5, cap: Some(3.0) }.on(isa);
            close(&out, &capped, 2e-6, &format!("cap on {on}"));
            let mut out = x.clone();
            AddScaled { x: &mut out, y: &w, scale: 0.25 }.on(isa);
            close(&out, &added, 1e-6, &format!("sum on {on}"));
            let mut out = head.clone();
            Rotate { head: &mut out, cos: &cos, sin: &sin }.on(isa);
            close(&out, &turned, 2e-6, &format!("rope on {on}"));
        }
    }
}

#[test]
fn long_contexts_and_whole_pages() {
    for positions in [PAGE - 1, PAGE, PAGE + 1, SPLIT, SPLIT + 1, 40 * PAGE] {
        let windows = [(0, positions), (positions - 1, positions), (positions / 2, positions / 2 + 1)];
        for (kv, seed) in KvType::ALL.into_iter().flat_map(|kv| [(kv, 11), (kv, 14)]) {
            check_attention(positions, 64, kv, &windows, seed);
        }
    }
}

#[test]
fn a_sink_far_above_the_scores_takes_everything_and_one_far_below_nothing() {
    let kv = KvType::F32;
    let mut page = vec![0u32; kv.page_bytes(32) / 4];
    for at in 0..3 {
        let page = bytemuck::cast_slice_mut(&mut page);
        StoreKv { page, kv, at, key: &[0.5; 32], value: &[0.5; 32] }.on(Isa::best());
    }
    for isa in Isa::all() {
        let run = |sink: Option<f32>| {
            let (q, mut out) = ([1.0f32; 32], [f32::NAN; 32]);
            let work = queries(&q, &mut out, 32, 32, &[(0, 3)]).remove(0).with_sink(sink);
            attend(isa, &[work], 32, (1.0, None), kv, std::slice::from_ref(&page), None);
            out
        };
        assert_eq!(run(Some(1e4)), [0.0; 32], "on {}", isa.describe());
        assert_eq!(run(Some(-1e4)), run(None), "on {}", isa.describe());
        assert!(run(Some(f32::NAN)).iter().all(|v| v.is_nan()), "on {}", isa.describe());
    }
}

#[test]
fn limits_of_activations_keep_non_finite_values_visible() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (isa, n) in Isa::all().iter().flat_map(|&isa| [(isa, 5), (isa, 40)]) {
            let activation = Activation::Clamped { alpha: 1.702, limit: 7.0 };
            let (plain, mut wrong, mut out) = (vec![0.5; n], vec![0.5; n], vec![0.0; n]);
            wrong[3] = bad;
            for (gate, up) in [(&plain, &wrong), (&wrong, &plain)] {
                GatedMul { activation, gate, up, out: &mut out }.on(isa);
                assert!(out[3].is_nan() && out[4].is_finite(), "{bad} on {}", isa.describe());
            }
        }
    }
}

#[test]
fn a_cap_keeps_non_finite_values_visible() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (isa, n) in Isa::all().iter().flat_map(|&isa| [(isa, 5), (isa, 40)]) {
            let mut x = vec![0.5; n];
            x[3] = bad;
            ScaleAndCap { x: &mut x, scale: 1.0, cap: Some(3.0) }.on(isa);
            assert!(x[3].is_nan() && x[4].is_finite(), "{bad} on {}", isa.describe());
        }
    }
}

/// With many queries the kernel widens a page first, with few it does not.
#[test]
fn the_bits_do_not_depend_on_the_number_of_queries() {
    let (positions, head_dim) = (3 * PAGE + 5, 72);
    let (keys, vals) = (values(positions * head_dim, 5, 1.0), values(positions * head_dim, 6, 1.0));
    let q = values(head_dim, 7, 3.0);
    for kv in KvType::ALL {
        let mut pages = vec![vec![0u32; kv.page_bytes(head_dim) / 4]; positions.div_ceil(PAGE)];
        for (p, (key, value)) in keys.chunks(head_dim).zip(vals.chunks(head_dim)).enumerate() {
            let page = bytemuck::cast_slice_mut(&mut pages[p / PAGE]);
            StoreKv { page, kv, at: p % PAGE, key, value }.on(Isa::best());
        }
        for isa in Isa::all() {
            let run = |queries: usize| {
                let mut out = vec![f32::NAN; queries * head_dim];
                let rows = out.chunks_mut(head_dim);
                // SAFETY: `q` and `out` are alive, and `out` is read only afterwards.
                let work: Vec<Query> = rows.map(|row| unsafe { Query::new(&q, row, 0, positions) }).collect();
                attend(isa, &work, head_dim, (0.125, None), kv, &pages, None);
                out
            };
            let one = run(1);
            for row in run(30).chunks(head_dim) {
                assert_eq!(row, one, "{} on {}", kv.name(), isa.describe());
            }
        }
    }
}

#[test]
fn hadamard_is_its_own_inverse_and_keeps_scores() {
    for head_dim in [2, 24, 48, 64, 80, 96, 112, 128, 256] {
        let (x, y) = (values(head_dim, 3, 1.0), values(head_dim, 4, 2.0));
        let part = 1usize << head_dim.trailing_zeros();
        let want: Vec<f64> = (0..head_dim)
            .map(|i| {
                let (from, i) = (i / part * part, i % part);
                let sign = |j: usize| if (i & j).count_ones() % 2 == 1 { -1.0 } else { 1.0 };
                (0..part).map(|j| sign(j) * f64::from(x[from + j])).sum::<f64>() / (part as f64).sqrt()
            })
            .collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        for isa in Isa::all() {
            let turned = |x: &[f32]| {
                let mut head = x.to_vec();
                Hadamard { head: &mut head }.on(isa);
                head
            };
            let what = format!("{head_dim} on {}", isa.describe());
            close(&turned(&x), &want, 1e-6, &what);
            let back: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            close(&turned(&turned(&x)), &back, 1e-6, &what);
            assert!((dot(&turned(&x), &turned(&y)) - dot(&x, &y)).abs() < 1e-4, "{what}");
        }
    }
}

#[test]
fn a_nan_in_the_cache_reaches_the_output() {
    for (kv, (key, value)) in
        KvType::ALL.into_iter().flat_map(|kv| [(f32::NAN, 1.0), (1.0, f32::NAN)].map(|pair| (kv, pair)))
    {
        let mut page = vec![0u32; kv.page_bytes(32) / 4];
        for at in 0..3 {
            let (k, v) = if at == 1 { (key, value) } else { (0.5, 0.5) };
            let page = bytemuck::cast_slice_mut(&mut page);
            StoreKv { page, kv, at, key: &[k; 32], value: &[v; 32] }.on(Isa::best());
        }
        for isa in Isa::all() {
            let (q, mut out) = ([1.0f32; 32], [0.0f32; 32]);
            let work = queries(&q, &mut out, 32, 32, &[(0, 3)]);
            attend(isa, &work, 32, (1.0, None), kv, std::slice::from_ref(&page), None);
            assert!(out.iter().all(|v| v.is_nan()), "{out:?} on {}", isa.describe());
        }
    }
}

#[test]
#[should_panic(expected = "queries and outputs of one head")]
fn a_query_of_the_wrong_length_is_refused() {
    let page = vec![0u32; KvType::F32.page_bytes(64) / 4];
    let (q, mut out) = ([1.0f32; 32], [0.0f32; 32]);
    let work = queries(&q, &mut out, 32, 32, &[(0, 3)]);
    attend(Isa::best(), &work, 64, (1.0, None), KvType::F32, std::slice::from_ref(&page), None);
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
fn exponentials_are_accurate() {
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
fn f16_rounds_to_nearest_even_on_every_set() {
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
