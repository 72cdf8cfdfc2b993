//! llama.cpp's information about this build and this machine: version, instruction sets and devices.

use crate::safe;

/// A device that llama.cpp can compute on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// llama.cpp's short name: `CPU`, `CUDA0`, `Vulkan0`.
    pub name: String,
    /// The product's name.
    pub description: String,
    /// Whether `--device gpu` would use it.
    pub gpu: bool,
    /// Its total memory in bytes; 0 if unknown.
    pub memory_total: u64,
    /// Its free memory at the time of the call, in bytes.
    pub memory_free: u64,
}

/// The present devices that this build supports.
pub fn devices() -> Vec<DeviceInfo> {
    let info = |d: safe::RawDevice| DeviceInfo {
        name: d.name,
        description: d.description,
        gpu: d.gpu,
        memory_total: d.memory_total as u64,
        memory_free: d.memory_free as u64,
    };
    safe::devices().into_iter().map(info).collect()
}

/// Why no GPU can be used; `None` if one can.
pub fn no_gpu() -> Option<String> {
    let devices = devices();
    if devices.iter().any(|d| d.gpu) {
        return None;
    }
    let kinds = [
        ("CUDA", cfg!(feature = "cuda")),
        ("Metal", cfg!(feature = "metal")),
        ("Vulkan", cfg!(feature = "vulkan")),
        ("ROCm", cfg!(feature = "rocm")),
    ];
    let built: Vec<_> = kinds.iter().filter(|(_, built)| *built).map(|(name, _)| *name).collect();
    if built.is_empty() {
        return Some(
            "this program's llama.cpp is built for the CPU only; build it with the feature cuda, metal, vulkan or rocm to \
             use a GPU"
                .to_owned(),
        );
    }
    let found: Vec<_> = devices.iter().map(|d| d.name.as_str()).collect();
    Some(format!(
        "llama.cpp is built with {}, but finds no GPU, only {}",
        built.join(" and "),
        found.join(", ")
    ))
}

/// llama.cpp's version and ggml's.
pub fn version() -> &'static str {
    &safe::library().version
}

/// The instruction sets of this build, such as `avx512 (VNNI, BF16)`. They are fixed at compile time.
pub fn instruction_sets() -> String {
    describe(&safe::library().system)
}

/// Summarises `llama_print_system_info`: `CPU : AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1 | LLAMAFILE = 1 | `.
fn describe(system: &str) -> String {
    /// Instruction set families, best first, with the extensions to report: llama.cpp's name and ours.
    const FAMILIES: &[(&str, &[(&str, &str)])] = &[
        ("AVX512", &[("AVX512_VNNI", "VNNI"), ("AVX512_BF16", "BF16"), ("AMX_INT8", "AMX")]),
        ("AVX2", &[("AVX_VNNI", "VNNI"), ("FMA", "FMA"), ("F16C", "F16C")]),
        ("AVX", &[]),
        ("SSSE3", &[]),
        ("NEON", &[("DOTPROD", "DOTPROD"), ("MATMUL_INT8", "I8MM"), ("SVE", "SVE"), ("SME", "SME")]),
    ];
    let cpu = system.split_once("CPU : ").map_or("", |(_, cpu)| cpu);
    let on: Vec<&str> = cpu
        .split('|')
        // The name of the next device library ends with a colon.
        .take_while(|part| !part.contains(" : "))
        .filter_map(|part| part.split_once('='))
        .filter(|(_, value)| value.trim() != "0")
        .map(|(name, _)| name.trim())
        .collect();
    let Some((family, extensions)) = FAMILIES.iter().find(|(name, _)| on.contains(name)) else {
        return "baseline".to_owned();
    };
    let extensions: Vec<_> =
        extensions.iter().filter(|(name, _)| on.contains(name)).map(|(_, short)| *short).collect();
    match extensions.join(", ") {
        none if none.is_empty() => family.to_ascii_lowercase(),
        extensions => format!("{} ({extensions})", family.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn the_best_family_and_its_extensions() {
        let zen5 = "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX_VNNI = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | \
                    AVX512 = 1 | AVX512_VBMI = 1 | AVX512_VNNI = 1 | AVX512_BF16 = 1 | LLAMAFILE = 1 | REPACK = 1 | ";
        assert_eq!(describe(zen5), "avx512 (VNNI, BF16)");
        assert_eq!(
            describe("CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | "),
            "avx2 (FMA, F16C)"
        );
        assert_eq!(
            describe("Metal : EMBED_LIBRARY = 1 | CPU : NEON = 1 | ARM_FMA = 1 | DOTPROD = 1 | "),
            "neon (DOTPROD)"
        );
        assert_eq!(describe("CPU : NEON = 0 | LLAMAFILE = 1 | CUDA : AVX2 = 1 | "), "baseline");
        assert_eq!(describe(""), "baseline");
    }
}
