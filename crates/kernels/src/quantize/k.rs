//! The K types: a search finds each sub-block's scale (and minimum), which is rounded to its few bits; the codes are then
//! computed from the rounded scales.

use super::scale::{inverse, scale_or_nan, weights};
use super::search::{affine, nearest, symmetric};
use crate::blocks::*;

/// `d·q − m` per sub-block with integer scales and minima, shared by Q2_K, Q4_K and Q5_K.
struct Affine<const SUBS: usize> {
    d: Half,
    dmin: Half,
    /// `(scale, minimum)` of each sub-block, `0..=level`.
    pairs: [(u8, u8); SUBS],
    /// `0..=max`
    codes: [u8; SUPER],
}

/// Fits `SUBS` sub-blocks of `N` values with codes `0..=max` and scales `0..=level`.
fn fit_affine<const SUBS: usize, const N: usize>(
    x: &[f32; SUPER],
    importance: Option<&[f32; SUPER]>,
    max: f32,
    level: f32,
    weight: impl Fn(f32, f32) -> f32,
) -> Affine<SUBS> {
    const { assert!(SUBS * N == SUPER) };
    let subs = x.as_chunks::<N>().0;
    let weighted = importance.map(|importance| weights(x, importance));
    let fits: [(f32, f32); SUBS] = std::array::from_fn(|j| {
        let sub = &subs[j];
        if let Some(w) = &weighted {
            return affine::<N, false>(sub, &w.as_chunks().0[j], max);
        }
        let rms = (sub.iter().map(|v| v * v).sum::<f32>() / N as f32).sqrt();
        affine::<N, false>(sub, &sub.map(|v| weight(v, rms)), max)
    });
    let (max_d, max_m) = fits.iter().fold((0.0f32, 0.0f32), |(d, m), f| (d.max(f.0), m.max(f.1)));
    let d = Half::from_f32(scale_or_nan(max_d / level, x));
    let dmin = Half::from_f32(max_m / level);
    let (id, im) = (level * inverse(max_d), level * inverse(max_m));
    let pairs = fits.map(|(d, m)| (nearest(d * id).min(level) as u8, nearest(m * im).min(level) as u8));
    let mut codes = [0; SUPER];
    for (j, (sub, codes)) in subs.iter().zip(codes.as_chunks_mut::<N>().0).enumerate() {
        let scale = inverse(d.to_f32() * f32::from(pairs[j].0));
        let min = dmin.to_f32() * f32::from(pairs[j].1);
        *codes = sub.map(|v| nearest((v + min) * scale).clamp(0.0, max) as u8);
    }
    Affine { d, dmin, pairs, codes }
}

/// `d·sc·q` per sub-block of 16 with signed scales, shared by Q3_K and Q6_K.
struct Symmetric {
    d: Half,
    /// `−level..level`
    scales: [i8; 16],
    /// Plus `half`, so `0..2·half`.
    codes: [u8; SUPER],
}

/// Fits 16 sub-blocks with codes `−half..half` and scales `−level..level`.
fn fit_symmetric(x: &[f32; SUPER], importance: Option<&[f32; SUPER]>, half: f32, level: f32) -> Symmetric {
    let subs = x.as_chunks::<16>().0;
    // Squared errors are weighted by magnitude: large values matter more in products.
    let w = importance.map_or_else(|| x.map(f32::abs), |importance| weights(x, importance));
    let fits: [f32; 16] = std::array::from_fn(|j| symmetric(&subs[j], &w.as_chunks().0[j], half));
    let extreme = fits.iter().fold(0.0f32, |best, &v| if v.abs() > best.abs() { v } else { best });
    // The extreme scale gets −level, the one code without a positive counterpart.
    let d = Half::from_f32(scale_or_nan(extreme / -level, x));
    let id = -level * inverse(extreme);
    let scales = fits.map(|s| nearest(s * id).clamp(-level, level - 1.0) as i8);
    let mut codes = [0; SUPER];
    for (j, (sub, codes)) in subs.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
        let scale = inverse(d.to_f32() * f32::from(scales[j]));
        *codes = sub.map(|v| (nearest(v * scale).clamp(-half, half - 1.0) + half) as u8);
    }
    Symmetric { d, scales, codes }
}

/// Two bits per code, runs of 32 bytes for 128 codes ([`BlockQ2K::qs`]).
fn pack_two_bits(codes: impl Fn(usize) -> u8) -> [u8; 64] {
    std::array::from_fn(|byte| {
        let first = 128 * (byte / 32) + byte % 32;
        (0..4).fold(0, |packed, k| packed | (codes(first + 32 * k) & 3) << (2 * k))
    })
}

/// Four bits per code, runs of 32 bytes for two sub-blocks of 32 ([`BlockQ4K::qs`]).
fn pack_four_bits(codes: &[u8; SUPER]) -> [u8; 128] {
    std::array::from_fn(|byte| {
        let first = 64 * (byte / 32) + byte % 32;
        (codes[first] & 15) | (codes[first + 32] & 15) << 4
    })
}

/// One bit per code: bit `j` of byte `i` belongs to code `32j + i`.
fn pack_bits(bit: impl Fn(usize) -> bool) -> [u8; 32] {
    std::array::from_fn(|byte| (0..8).fold(0, |packed, j| packed | u8::from(bit(32 * j + byte)) << j))
}

pub(super) fn q2_k(x: &[f32; SUPER], w: Option<&[f32; SUPER]>) -> BlockQ2K {
    let fit = fit_affine::<16, 16>(x, w, 3.0, 15.0, |v, _| v.abs());
    BlockQ2K {
        scales: fit.pairs.map(|(scale, min)| scale | min << 4),
        qs: pack_two_bits(|i| fit.codes[i]),
        d: fit.d,
        dmin: fit.dmin,
    }
}

pub(super) fn q3_k(x: &[f32; SUPER], w: Option<&[f32; SUPER]>) -> BlockQ3K {
    let fit = fit_symmetric(x, w, 4.0, 32.0);
    BlockQ3K {
        hmask: pack_bits(|i| fit.codes[i] >= 4),
        qs: pack_two_bits(|i| fit.codes[i]),
        scales: BlockQ3K::pack_scales(fit.scales),
        d: fit.d,
    }
}

pub(super) fn q4_k(x: &[f32; SUPER], w: Option<&[f32; SUPER]>) -> BlockQ4K {
    let fit = fit_affine::<8, 32>(x, w, 15.0, 63.0, |v, rms| rms + v.abs());
    BlockQ4K {
        d: fit.d,
        dmin: fit.dmin,
        scales: pack_scales_and_minima(fit.pairs),
        qs: pack_four_bits(&fit.codes),
    }
}

pub(super) fn q5_k(x: &[f32; SUPER], w: Option<&[f32; SUPER]>) -> BlockQ5K {
    let fit = fit_affine::<8, 32>(x, w, 31.0, 63.0, |v, rms| rms + v.abs());
    BlockQ5K {
        d: fit.d,
        dmin: fit.dmin,
        scales: pack_scales_and_minima(fit.pairs),
        qh: pack_bits(|i| fit.codes[i] >= 16),
        qs: pack_four_bits(&fit.codes),
    }
}

pub(super) fn q6_k(x: &[f32; SUPER], w: Option<&[f32; SUPER]>) -> BlockQ6K {
    let fit = fit_symmetric(x, w, 32.0, 128.0);
    let ql = std::array::from_fn(|byte| {
        let first = 128 * (byte / 64) + byte % 64;
        (fit.codes[first] & 15) | (fit.codes[first + 64] & 15) << 4
    });
    BlockQ6K { ql, qh: pack_two_bits(|i| fit.codes[i] >> 4), scales: fit.scales, d: fit.d }
}
