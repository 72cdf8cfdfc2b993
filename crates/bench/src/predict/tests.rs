//! The predictor against examples computed by hand.

use super::*;
use crate::ceilings::Rate;
use zonda_engine::make::SynthSpec;

fn mistral(mix: &str) -> Form {
    Form::mixed(&SynthSpec::find("mistral-7b").unwrap().spec, "gguf", mix.parse().unwrap()).unwrap()
}

fn peaks() -> Peaks {
    let rate = |all| Rate { one_core: all / 2.0, all_threads: all };
    Peaks {
        threads: 2,
        instruction_set: "avx512".into(),
        read_bytes_per_s: rate(90e9),
        read_large_bytes_per_s: Some(rate(80e9)),
        int8_ops_per_s: rate(2e12),
        bf16_ops_per_s: Some(rate(1e12)),
        f32_ops_per_s: rate(5e11),
    }
}

/// The counts are those that records have of files in these types.
#[test]
fn costs_of_mistral_7b() {
    let q4_0 = mistral("q4_0");
    assert_eq!((q4_0.weights.as_str(), q4_0.base(), q4_0.quant.as_str()), ("q4_0+q6_k", "q4_0", "q4_0"));
    let facts = q4_0.facts;
    assert_eq!((facts.parameters, facts.prefill_parameters), (7_248_023_552, 6_979_321_856));
    assert_eq!((facts.decode_parameters, facts.kv_bytes), (7_113_539_584, 131_072));
    // 4.5 bits a value in the layers, 6.5625 in the head of 32768 × 4096
    assert_eq!(facts.decode_bytes, 6_979_321_856 * 9 / 16 + 134_217_728 * 105 / 128);
    assert_eq!(mistral("q4_k_m").facts.decode_bytes, 4_295_491_584);
    assert_eq!(mistral("q4_k_m").weights, "q4_k+q6_k");
    assert_eq!(mistral("bf16").facts.decode_bytes, 2 * 7_113_539_584);
    assert_eq!(mistral("bf16").facts.arithmetic, Arithmetic::Bf16);
    // all values in two bytes, but for 65 norms of 4096 in four
    assert_eq!(mistral("bf16").weight_bytes, 2 * 7_248_023_552 + 2 * 65 * 4096);
}

#[test]
fn speeds_by_hand() {
    let table = Efficiency::built_in("native", "q4_0").unwrap();
    assert_eq!(table, Efficiency { prefill: 0.70, decode: 0.82 });
    let speed = mistral("q4_0").predict(table, &peaks(), 0.0);
    // 13.96 GOP at 0.70 × 2 TOPS are 9.970 ms, 32 layers of 4096 values at 7 ns are 0.918 ms
    assert!((speed.prefill_tps - 91.845).abs() < 0.01, "{speed:?}");
    // 4.036 GB at 0.82 × 80 GB/s are 61.524 ms, 32 layers at 14 µs are 0.448 ms
    assert!((speed.decode_tps - 16.136).abs() < 0.01, "{speed:?}");
    // 1000 tokens are 131 MB more to read: 1.998 ms
    let later = mistral("q4_0").predict(table, &peaks(), 1000.0);
    assert!((1e3 / later.decode_tps - 1e3 / speed.decode_tps - 1.998).abs() < 0.01, "{later:?}");
    assert_eq!(Efficiency::built_in("mock", "q4_0"), None);
    assert_eq!(Efficiency::built_in("native", "q4_1"), Some(table), "its nearest neighbour's");
}

#[test]
fn what_does_not_fit_says_why() {
    let form = mistral("q4_0");
    let machine = |available, cgroup_memory_bytes| Machine {
        available_bytes: available,
        cgroup_memory_bytes,
        ..Machine::default()
    };
    // 4.0 GB of weights and half a GiB of keys and values
    assert_eq!(form.kv_bytes(4096), 1 << 29);
    assert_eq!(form.too_large(&machine(8 << 30, None), 4096), None);
    assert_eq!(form.too_large(&machine(form.memory_bytes(4096), None), 4096), None, "exactly");
    let why = form.too_large(&machine(4 << 30, None), 4096).unwrap();
    assert!(
        why.contains("0.5 GiB of KV cache for 4096 tokens") && why.contains("available are 4.0 GiB"),
        "{why}"
    );
    let why = form.too_large(&machine(8 << 30, Some(2 << 30)), 4096).unwrap();
    assert!(why.contains("the control group allows 2.0 GiB"), "{why}");
    assert_eq!(form.too_large(&machine(8 << 30, Some(16 << 30)), 4096), None);
    // 131072 tokens are 16 GiB
    assert!(form.too_large(&machine(8 << 30, None), 131_072).is_some());
}

#[test]
fn quality_orders() {
    let mut types = ["q4_0", "bf16", "q4_k_m", "q8_0"];
    types.sort_by_key(|t| quality(t));
    assert_eq!(types, ["bf16", "q8_0", "q4_k_m", "q4_0"]);
    assert_eq!((quality("q4_1+q8_0"), quality("q8_g64"), quality("f16")), (6, 2, 1));
}
