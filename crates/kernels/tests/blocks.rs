//! Dequantisation against gguf-py, bit for bit, on the committed blocks of `testdata/blocks`.

use std::path::Path;
use zonda_kernels::DType;
use zonda_kernels::dequantize::dequantize;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/blocks").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_type_dequantises_to_gguf_pys_bits() {
    for dtype in DType::ALL.into_iter().filter(|&t| t != DType::F32 && t.in_gguf()) {
        let name = dtype.name().to_uppercase();
        let blocks = golden(&format!("{name}.bin"));
        let expected: Vec<u32> = golden(&format!("{name}.f32.bin"))
            .chunks_exact(4)
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert!(expected.len() >= 10_000, "{name}: too few goldens");

        let mut values = vec![f32::NAN; expected.len()];
        dequantize(dtype, &blocks, &mut values);
        for (i, (value, &bits)) in values.iter().zip(&expected).enumerate() {
            assert_eq!(
                value.to_bits(),
                bits,
                "{name}: value {i} is {value}, gguf-py has {}",
                f32::from_bits(bits)
            );
        }
    }
}

#[test]
fn f32_is_read_unchanged() {
    let values = [0.0f32, -0.0, 1.5, f32::INFINITY, f32::MIN_POSITIVE / 2.0];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut out = [1.0; 5];
    dequantize(DType::F32, &bytes, &mut out);
    assert_eq!(out.map(f32::to_bits), values.map(f32::to_bits));
}

#[test]
#[should_panic(expected = "byte count of q4_0")]
fn a_wrong_byte_count_is_refused() {
    dequantize(DType::Q4_0, &[0; 17], &mut [0.0; 32]);
}
