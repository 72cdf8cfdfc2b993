//! The available shapes: those of published models, from their `config.json`, and tiny ones for tests.

use super::published;
use super::shape::{Shape, deepseek_experts, experts, glm, latent, llama3, sigmoids, tiny};
use crate::error::ConvertError;
use zonda_engine::load::{
    Architecture, ExpertGroups, GroupScore, Mla, ModelSpec, Moe, QueryTemperature, RopeScaling,
};

/// A synthetic model.
#[derive(Clone, Debug, PartialEq)]
pub struct SynthSpec {
    /// Its name on the command line.
    pub name: &'static str,
    /// The model with this shape.
    pub about: &'static str,
    /// The shape.
    pub spec: ModelSpec,
}

impl SynthSpec {
    /// The shape of this name.
    ///
    /// # Errors
    /// If no shape has this name; the message lists all names.
    pub fn find(name: &str) -> Result<SynthSpec, ConvertError> {
        let all = synth_archs();
        let known = all.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
        all.into_iter()
            .find(|s| s.name == name)
            .ok_or_else(|| ConvertError::UnknownArch { name: name.to_owned(), known })
    }

    /// The same shape with another number of layers, of which those with windows are in the same pattern.
    ///
    /// # Errors
    /// If the number is zero or larger than in any real model.
    pub fn with_layers(mut self, layers: usize) -> Result<SynthSpec, ConvertError> {
        if layers == 0 || layers > 1000 {
            return Err(ConvertError::Invalid {
                what: "the number of layers",
                found: layers.to_string(),
                expected: "1 to 1000".to_owned(),
            });
        }
        // The pattern ends with the first layer without a window.
        let windows = &self.spec.windows;
        let pattern = windows.iter().position(Option::is_none).map_or(1, |full| full + 1);
        self.spec.windows = (0..layers).map(|layer| windows[layer % pattern]).collect();
        self.spec.layers = layers;
        Ok(self)
    }
}

/// All shapes by name.
pub fn synth_archs() -> Vec<SynthSpec> {
    use Architecture::{
        DeepSeekV2, DeepSeekV3, Glm4Moe, Llama, Mistral, Mistral4, Mixtral, Qwen2, Qwen3, Qwen3Moe,
    };
    let mistral_7b = Shape {
        architecture: Mistral,
        vocab: 32_768,
        context: 32_768,
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ffn: 14_336,
        eps: 1e-5,
        theta: 1e6,
    };
    let mut llama_8b = Shape {
        architecture: Llama,
        vocab: 128_256,
        context: 131_072,
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ffn: 14_336,
        eps: 1e-5,
        theta: 5e5,
    }
    .spec();
    llama_8b.rope.scaling = llama3(8.0);
    let mut llama_1b = Shape {
        architecture: Llama,
        vocab: 128_256,
        context: 131_072,
        hidden: 2048,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        ffn: 8192,
        eps: 1e-5,
        theta: 5e5,
    }
    .spec();
    llama_1b.rope.scaling = llama3(32.0);
    let smollm2 = Shape {
        architecture: Llama,
        vocab: 49_152,
        context: 8192,
        hidden: 576,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        ffn: 1536,
        eps: 1e-5,
        theta: 1e5,
    };
    let qwen2 = Shape {
        architecture: Qwen2,
        vocab: 151_936,
        context: 32_768,
        hidden: 896,
        layers: 24,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        ffn: 4864,
        eps: 1e-6,
        theta: 1e6,
    };
    let qwen3 = Shape {
        architecture: Qwen3,
        vocab: 151_936,
        context: 40_960,
        hidden: 1024,
        layers: 28,
        heads: 16,
        kv_heads: 8,
        head_dim: 128,
        ffn: 3072,
        eps: 1e-6,
        theta: 1e6,
    };
    let qwen3_moe = Shape {
        architecture: Qwen3Moe,
        vocab: 151_936,
        context: 40_960,
        hidden: 2048,
        layers: 48,
        heads: 32,
        kv_heads: 4,
        head_dim: 128,
        ffn: 6144,
        eps: 1e-6,
        theta: 1e6,
    };
    let mixtral = Shape {
        architecture: Mixtral,
        vocab: 32_000,
        context: 32_768,
        hidden: 4096,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ffn: 14_336,
        eps: 1e-5,
        theta: 1e6,
    };
    let deepseek_lite = Shape {
        architecture: DeepSeekV2,
        vocab: 102_400,
        context: 163_840,
        hidden: 2048,
        layers: 27,
        heads: 16,
        kv_heads: 1,
        head_dim: 576,
        ffn: 10_944,
        eps: 1e-6,
        theta: 1e4,
    };
    let mistral_small_4 = Shape {
        architecture: Mistral4,
        vocab: 131_072,
        context: 1_048_576,
        hidden: 4096,
        layers: 36,
        heads: 32,
        kv_heads: 1,
        head_dim: 320,
        ffn: 12_288,
        eps: 1e-6,
        theta: 1e4,
    };
    let glm_air = Shape {
        architecture: Glm4Moe,
        vocab: 151_552,
        context: 131_072,
        hidden: 4096,
        layers: 46,
        heads: 96,
        kv_heads: 8,
        head_dim: 128,
        ffn: 10_944,
        eps: 1e-5,
        theta: 1e6,
    };
    let mla = |q_rank: Option<usize>, kv_rank: usize, (nope, rope, value): (usize, usize, usize)| Mla {
        q_rank,
        kv_rank,
        nope,
        rope,
        value,
        norm_eps: 1e-6,
    };
    let deepseek_lite = latent(deepseek_lite.spec(), mla(None, 512, (128, 64, 128)), (40.0, 4096, 0.707));
    let unnormalized = |moe: &mut Moe| moe.router.normalize = false;
    let deepseek_lite = deepseek_experts(deepseek_lite, (64, 6, 1408), 2, 1, unnormalized);
    let mistral_small_4 = {
        let of = mla(Some(1024), 256, (64, 64, 128));
        let mut spec = latent(mistral_small_4.spec(), of, (128.0, 8192, 1.0));
        spec.extras.query_temperature =
            Some(QueryTemperature { beta: 0.1, step: 8192, offset: 0, no_rope_only: false });
        deepseek_experts(spec, (128, 4, 2048), 1, 0, |_| ())
    };
    let tiny_latent = |architecture| {
        let mut spec = tiny(architecture);
        spec.norm_eps = 1e-6;
        latent(spec, mla(Some(64), 64, (32, 32, 32)), (8.0, 16, 1.0))
    };
    let grouped = |moe: &mut Moe| {
        sigmoids(2.5)(moe);
        moe.router.groups = Some(ExpertGroups { count: 4, used: 2, score: GroupScore::BestTwo });
    };
    let tied = |mut spec: ModelSpec| {
        spec.tied_embeddings = true;
        spec
    };
    let row = |name, about, spec| SynthSpec { name, about, spec };
    vec![
        row("mistral-7b", "Mistral 7B v0.3", mistral_7b.spec()),
        row("llama-3.1-8b", "Llama 3.1 8B", llama_8b),
        row("llama-3.2-1b", "Llama 3.2 1B", tied(llama_1b)),
        row("smollm2-135m", "SmolLM2 135M", tied(smollm2.spec())),
        row("qwen2.5-0.5b", "Qwen2.5 0.5B", tied(qwen2.spec())),
        row("qwen3-0.6b", "Qwen3 0.6B", tied(qwen3.spec())),
        row("ministral-3-8b", "Ministral 3 8B", published::ministral_3_8b()),
        row("gemma-3-4b", "Gemma 3 4B", published::gemma_3_4b()),
        row("gpt-oss-20b", "gpt-oss-20b, whose own type is mxfp4", published::gpt_oss_20b()),
        row("glm-4-9b", "GLM-4-9B (0414)", published::glm_4_9b()),
        row("phi-4", "Phi-4", published::phi_4()),
        row("qwen3-30b-a3b", "Qwen3 30B-A3B", experts(qwen3_moe.spec(), 128, 8, 768)),
        row("mixtral-8x7b", "Mixtral 8x7B", experts(mixtral.spec(), 8, 2, 14_336)),
        row("deepseek-v2-lite", "DeepSeek-V2-Lite", deepseek_lite),
        row("mistral-small-4", "Mistral Small 4", mistral_small_4),
        row(
            "glm-4.5-air",
            "GLM-4.5-Air",
            deepseek_experts(glm(glm_air.spec()), (128, 8, 1408), 1, 1, sigmoids(1.0)),
        ),
        row("tiny-deepseek", "DeepSeek-V3 with 8 experts, for tests", {
            deepseek_experts(tiny_latent(DeepSeekV3), (8, 2, 256), 1, 1, grouped)
        }),
        row("tiny-mistral4", "Mistral Small 4 with 4 experts, for tests", {
            let mut spec = deepseek_experts(tiny_latent(Mistral4), (4, 2, 256), 1, 0, |_| ());
            spec.extras.query_temperature =
                Some(QueryTemperature { beta: 0.1, step: 16, offset: 0, no_rope_only: false });
            spec
        }),
        row("tiny-glm4moe", "GLM-4.5 with 4 experts, for tests", {
            deepseek_experts(glm(tiny(Glm4Moe)), (4, 2, 256), 1, 1, sigmoids(1.5))
        }),
        row("tiny-mistral", "Mistral with a window of 64, for tests", {
            let mut spec = tiny(Mistral);
            spec.windows = vec![Some(64); 2];
            spec
        }),
        row("tiny-llama", "Llama 3 with tied embeddings, for tests", {
            let mut spec = tied(tiny(Llama));
            spec.rope.theta = 5e5;
            spec.rope.scaling = RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 256,
            };
            spec
        }),
        row("tiny-qwen2", "Qwen2, for tests", tiny(Qwen2)),
        row("tiny-qwen3", "Qwen3, for tests", tiny(Qwen3)),
        row("tiny-mixtral", "Mixtral with 4 experts, for tests", experts(tiny(Mixtral), 4, 2, 512)),
        row("tiny-qwen3moe", "Qwen3-MoE with 4 experts, for tests", experts(tiny(Qwen3Moe), 4, 2, 256)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_published_numbers_of_parameters() {
        for (name, expected) in [
            ("mistral-7b", 7_248_023_552u64),
            ("llama-3.1-8b", 8_030_261_248),
            ("llama-3.2-1b", 1_235_814_400),
            ("smollm2-135m", 134_515_008),
            ("qwen2.5-0.5b", 494_032_768),
            ("qwen3-0.6b", 596_049_920),
            ("qwen3-30b-a3b", 30_532_122_624),
            ("mixtral-8x7b", 46_702_792_704),
            ("deepseek-v2-lite", 15_706_484_224),
            ("gemma-3-4b", 3_880_263_168),
            ("gpt-oss-20b", 20_914_757_184),
            ("glm-4-9b", 9_400_279_040),
            ("phi-4", 14_659_507_200),
        ] {
            let spec = SynthSpec::find(name).unwrap().spec;
            let parameters: u64 =
                spec.roles().map(|r| spec.shape(r).iter().map(|&d| d as u64).product::<u64>()).sum();
            assert_eq!(parameters, expected, "{name}");
        }
    }

    #[test]
    fn unknown_names_and_impossible_depths_are_refused() {
        let error = SynthSpec::find("gpt-5").unwrap_err().to_string();
        assert!(error.contains("gpt-5") && error.contains("mistral-7b"), "{error}");
        let tiny = SynthSpec::find("tiny-mistral").unwrap();
        assert!(tiny.clone().with_layers(0).is_err());
        assert_eq!(tiny.with_layers(5).unwrap().spec.windows, vec![Some(64); 5]);
        let gemma = SynthSpec::find("gemma-3-4b").unwrap().with_layers(13).unwrap().spec.windows;
        let full: Vec<usize> = (0..13).filter(|&l| gemma[l].is_none()).collect();
        assert_eq!(full, [5, 11]);
        assert_eq!(gemma[0], Some(1024));
    }
}
