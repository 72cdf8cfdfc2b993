//! e4m3: every code against torch, NaN in weights, rounding, and a row's scales.

use std::path::Path;
use zonda_kernels::dequantize::dequantize;
use zonda_kernels::float8::{BLOCK, e4m3, is_nan, to_e4m3};
use zonda_kernels::memory::Arena;
use zonda_kernels::{Activations, DType, Isa, Job, Packed, Pool, matmul};

/// The values of codes 0 to 255 that torch has.
fn torch() -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/blocks/e4m3.f32.bin");
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn every_code_has_torchs_value() {
    let torch = torch();
    assert_eq!(torch.len(), 256);
    for (code, want) in (0..=255).zip(torch) {
        let got = e4m3(code);
        assert_eq!(got.is_nan(), want.is_nan(), "{code:#x}");
        assert_eq!(is_nan(code), want.is_nan(), "{code:#x}");
        assert!(want.is_nan() || got.to_bits() == want.to_bits(), "{code:#x}: {got}, torch has {want}");
    }
}

#[test]
fn numbers_become_the_nearest_code() {
    let values: Vec<(u8, f32)> = (0..=0x7e).map(|code| (code, e4m3(code))).collect();
    for pair in values.windows(2) {
        let [(low, a), (high, b)] = [pair[0], pair[1]];
        let middle = (a + b) / 2.0;
        let even = if low % 2 == 0 { low } else { high };
        for (value, want) in
            [(a, low), (b, high), (middle, even), (middle.next_down(), low), (middle.next_up(), high)]
        {
            assert_eq!(to_e4m3(value), want, "{value}");
            assert_eq!(to_e4m3(-value), want | 0x80, "-{value}");
        }
    }
    assert_eq!([to_e4m3(1e9), to_e4m3(f32::NEG_INFINITY)], [0x7e, 0xfe]);
    assert!(is_nan(to_e4m3(f32::NAN)));
}

/// A row of two blocks: codes 0 to 127 with a scale of 0.5, then codes 128 to 255 with a scale of 3; codes of NaN become 1.
fn row(nan: Option<usize>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (block, scale) in [0.5f32, 3.0].into_iter().enumerate() {
        bytes.extend(scale.to_le_bytes());
        let code = |i: usize| (BLOCK * block + i) as u8;
        bytes.extend((0..BLOCK).map(code).map(|code| if is_nan(code) { to_e4m3(1.0) } else { code }));
    }
    if let Some(at) = nan {
        bytes[4 + at / BLOCK * 4 + at] = 0xff;
    }
    bytes
}

/// The products of some rows with `x` on a set.
fn products(isa: Isa, rows: &[Vec<u8>], x: &[f32]) -> Vec<f32> {
    let pool = Pool::new(1);
    let packed =
        Packed::pack(&pool, &Arena::new(), DType::F8_E4M3, rows.len(), x.len(), |r| &rows[r]).unwrap();
    let mut activations = Activations::new();
    activations.reset(1, x.len(), &[]);
    // SAFETY: one thread, and no slice of a row is kept.
    unsafe { activations.rows().row(0).copy_from_slice(x) };
    let mut out = vec![0.0; rows.len()];
    let job = Job { weights: &packed, out: &mut out, stride: rows.len(), add: false };
    matmul(isa, &pool, &activations, &mut [job]);
    out
}

#[test]
fn every_code_and_its_blocks_scale_reach_the_product() {
    let mut weights = vec![0.0; 2 * BLOCK];
    dequantize(DType::F8_E4M3, &row(None), &mut weights);
    assert_eq!((weights[1], weights[BLOCK + 2]), (0.5 / 512.0, -3.0 / 256.0));
    for isa in Isa::all() {
        for (k, &weight) in weights.iter().enumerate() {
            let mut x = vec![0.0; 2 * BLOCK];
            x[k] = 1.0;
            assert_eq!(products(isa, &[row(None)], &x), [weight], "column {k} on {}", isa.describe());
        }
    }
}

#[test]
fn a_nan_code_makes_its_rows_product_nan_and_no_other() {
    let rows = [row(None), row(Some(5)), row(None), row(Some(2 * BLOCK - 1))];
    for isa in Isa::all() {
        let out = products(isa, &rows, &[0.25; 2 * BLOCK]);
        assert_eq!([0, 1, 2, 3].map(|r| out[r].is_nan()), [false, true, false, true], "{}", isa.describe());
    }
    let mut values = vec![0.0; 2 * BLOCK];
    dequantize(DType::F8_E4M3, &rows[1], &mut values);
    assert_eq!(values.iter().position(|v| v.is_nan()), Some(5));
}
