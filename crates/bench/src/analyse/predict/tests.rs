//! The predictions against examples computed by hand.

use super::*;
use crate::analyse::predict::built_in;
use crate::analyse::predict::built_in::Costs;
use crate::analyse::predict::dims::Dims;
use crate::analyse::predict::efficiency::Efficiency;
use crate::analyse::predict::form::Form;
use crate::analyse::predict::token_time::TokenTime;
use crate::analyse::roofline::{Limits as _, Reading};
use crate::machine::Machine;
use crate::record::model_cost::Arithmetic;
use crate::record::peaks::{Peaks, Rate};
use zonda_convert::SynthSpec;

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

/// The counts match those of real files in records.
#[test]
fn costs_of_mistral_7b() {
    let q4_0 = mistral("q4_0");
    assert_eq!((q4_0.weights.as_str(), q4_0.base(), q4_0.quant.as_str()), ("q4_0+q6_k", "q4_0", "q4_0"));
    let cost = q4_0.cost;
    assert_eq!((cost.parameters, cost.prefill_parameters), (7_248_023_552, 6_979_321_856));
    assert_eq!((cost.decode_parameters, cost.kv_bytes), (7_113_539_584, 131_072));
    // 4.5 bits per value in the layers, 6.5625 in the head of 32768 × 4096.
    assert_eq!(cost.decode_bytes, 6_979_321_856 * 9 / 16 + 134_217_728 * 105 / 128);
    assert_eq!(mistral("q4_k_m").cost.decode_bytes, 4_295_491_584);
    assert_eq!(mistral("q4_k_m").weights, "q4_k+q6_k");
    assert_eq!(mistral("bf16").cost.decode_bytes, 2 * 7_113_539_584);
    assert_eq!(mistral("bf16").cost.arithmetic, Arithmetic::Bf16);
    // All values take two bytes, except for 65 norms of 4096 with four.
    assert_eq!(mistral("bf16").weight_bytes, 2 * 7_248_023_552 + 2 * 65 * 4096);
}

#[test]
fn speeds_by_hand() {
    let share = Efficiency { prefill: 0.70, decode: 0.80 };
    let speed = mistral("q4_0").predict("native", share, &peaks(), 1000);
    // 13.96 GOP at 0.70 × 2 TOPS are 9.9705 ms, 32 layers of 4096 values at 2.3 ns are 0.3015 ms, and attention over
    // 500 tokens, 0.262 GOP at half of 0.5 TFLOPS, is 1.0486 ms
    assert!((1e3 / speed.prefill_tps - 11.3206).abs() < 1e-3, "{speed:?}");
    // 4.0360 GB at 0.80 × 80 GB/s are 63.0625 ms, 32 layers at 14 µs are 0.448 ms, and 131 MB of keys and values at
    // 0.41 × 80 GB/s are 3.9961 ms
    assert!((1e3 / speed.decode_tps - 67.5066).abs() < 1e-3, "{speed:?}");
    // For an unknown backend the shares include all costs.
    let unknown = mistral("q4_0").predict("abacus", share, &peaks(), 1000);
    assert!((1e3 / unknown.prefill_tps - 9.9705).abs() < 1e-3, "{unknown:?}");
}

/// Computing a time from a share and a share from a time are inverse.
#[test]
fn shares_and_times_agree() {
    let form = mistral("q4_k_m");
    for backend in ["native", "llama-cpp", "mlx", "abacus"] {
        let work = TokenTime { cost: form.cost, dims: form.dims, costs: Costs::of(backend) };
        let reading = peaks().reading(&form.cost, None);
        let (prefill, decode) = (work.prefill_s(0.5, &peaks(), 300.0), work.decode_s(0.6, reading, 300.0));
        let back = (work.prefill_share(prefill, &peaks(), 300.0), work.decode_share(decode, reading, 300.0));
        assert!((back.0.unwrap() - 0.5).abs() < 1e-9 && (back.1.unwrap().0 - 0.6).abs() < 1e-9, "{back:?}");
        assert!(!back.1.unwrap().1, "there is no contention");
        assert_eq!(
            work.prefill_share(1e-9, &peaks(), 300.0).filter(|s| *s > 1.0),
            None,
            "no share is above 1"
        );
    }
}

/// Two cores that read 40 GB/s each get 48 GB/s together while other programs use the memory.
#[test]
fn shared_bandwidth_limits_only_backends_that_would_read_more() {
    let form = mistral("q4_0");
    let work = TokenTime { cost: form.cost, dims: form.dims, costs: Costs::of("abacus") };
    let quiet = Reading { cores: 80e9, together: 80e9 };
    let busy = Reading { cores: 80e9, together: 48e9 };
    let rate = |share, reading| form.cost.decode_bytes as f64 / work.decode_s(share, reading, 0.0);
    assert!((rate(0.8, quiet) - 64e9).abs() < 1.0 && (rate(0.8, busy) - 0.95 * 48e9).abs() < 1.0);
    assert!((rate(0.5, quiet) - 40e9).abs() < 1.0 && (rate(0.5, busy) - 40e9).abs() < 1.0);
    let back = |share, reading| work.decode_share(work.decode_s(share, reading, 0.0), reading, 0.0).unwrap();
    assert!((back(0.8, quiet).0 - 0.8).abs() < 1e-9 && !back(0.8, quiet).1);
    assert!((back(0.4, busy).0 - 0.4).abs() < 1e-9 && !back(0.4, busy).1);
    assert!(back(0.8, busy).1, "the share is only known to be at least 57%");
}

#[test]
fn unmeasured_combinations_are_unknown() {
    assert_eq!(built_in::shares("mock", "q4_0"), None);
    assert_eq!(built_in::shares("llama-cpp", "f32"), None);
    assert_eq!(built_in::shares("mlx", "q4_0"), None);
    for backend in ["native", "llama-cpp", "mlx"] {
        for base in ["q4_0", "q4_1", "q5_0", "q8_0", "q4_k", "q5_k", "q6_k", "bf16", "f32"] {
            let Some(known) = built_in::shares(backend, base) else { continue };
            assert!(known.share.prefill > 0.0 && known.share.prefill < 1.0, "{backend} {base}");
            assert!(known.share.decode > 0.0 && known.share.decode < 1.0, "{backend} {base}");
        }
    }
}

#[test]
fn dims_are_read_from_a_records_shape() {
    let form = mistral("q4_0");
    assert_eq!(Dims::of_shape(&form.shape), Some(form.dims));
    assert_eq!(form.dims, Dims { layers: 32, width: 4096, attention_width: 4096 });
    for bad in ["", "30 layers", "x layers, width 5, 9/3 heads of 64", "30 layers, width 576"] {
        assert_eq!(Dims::of_shape(bad), None, "{bad}");
    }
}

#[test]
fn models_that_do_not_fit_give_the_reason() {
    let form = mistral("q4_0");
    let machine = |available, cgroup_available_bytes| Machine {
        available_bytes: available,
        cgroup_available_bytes,
        ..Machine::default()
    };
    // 4.0 GB of weights and half a GiB of keys and values.
    assert_eq!(form.kv_bytes(4096), 1 << 29);
    assert_eq!(form.too_large(&machine(8 << 30, None), 4096), None);
    assert_eq!(form.too_large(&machine(form.memory_bytes(4096), None), 4096), None, "exactly");
    let why = form.too_large(&machine(4 << 30, None), 4096).unwrap();
    assert!(
        why.contains("0.5 GiB of KV cache for 4096 tokens") && why.contains("available are 4.0 GiB"),
        "{why}"
    );
    let why = form.too_large(&machine(8 << 30, Some(2 << 30)), 4096).unwrap();
    assert!(why.contains("the control group has room for 2.0 GiB"), "{why}");
    assert_eq!(form.too_large(&machine(8 << 30, Some(16 << 30)), 4096), None);
    // 131072 tokens take 16 GiB.
    assert!(form.too_large(&machine(8 << 30, None), 131_072).is_some());
}

#[test]
fn quantisations_are_ordered_by_quality() {
    let mut types = ["q4_0", "bf16", "q4_k_m", "q8_0"];
    types.sort_by_key(|t| quality(t));
    assert_eq!(types, ["bf16", "q8_0", "q4_k_m", "q4_0"]);
    assert_eq!((quality("q4_1+q8_0"), quality("q8_g64"), quality("f16")), (6, 2, 1));
    let mut types = ["q1_0", "tq2_0", "iq4_xs+q6_k", "q3_k"];
    types.sort_by_key(|t| quality(t));
    assert_eq!(types, ["iq4_xs+q6_k", "q3_k", "tq2_0", "q1_0"]);
}
