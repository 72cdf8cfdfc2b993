//! The families of GGUF files: which options each has, under which keys, with llama.cpp's defaults
//! (`llama.cpp/src/models/*.cpp`).

use super::LoadError;
use super::fields::{Fields, MAX_COUNT, Prefixed};
use super::mla::Mla;
use super::moe::{Moe, RouterScore};
use super::spec::{Architecture, Extras, QueryTemperature, Rope, RopePairing, RopeScaling};
use super::validate::inverse_root;

/// A supported value of `general.architecture`.
pub(super) struct Family {
    pub name: &'static str,
    /// The architecture of its files, unless [`Family::architecture`] finds a more specific one.
    pub base: Architecture,
    pub pairing: RopePairing,
    /// Keys that change the computation, besides those of every family.
    pub keys: &'static [&'static str],
    /// If the file has no pattern, every n-th layer has no window.
    pub full_every: Option<usize>,
    /// The window if the file has none.
    pub window: Option<usize>,
    pub norm_eps: &'static str,
}

/// Positions in a chunk of Llama 4's context, and with the same factor of queries: no key says either.
const LLAMA4_CHUNK: usize = 8192;

const RMS_EPS: &str = "attention.layer_norm_rms_epsilon";
const SOFTCAPS: &[&str] = &["attn_logit_softcapping", "final_logit_softcapping", "attention.scale"];
const LATENT: &[&str] = &[
    "attention.scale",
    "attention.temperature_scale",
    "expert_shared_count",
    "leading_dense_block_count",
    "nextn_predict_layers",
];
const SCALES: &[&str] = &[
    "attention.scale",
    "embedding_scale",
    "residual_scale",
    "logit_scale",
    "expert_shared_feed_forward_length",
];

/// A family like Llama, without a default window.
const fn plain(
    name: &'static str,
    base: Architecture,
    pairing: RopePairing,
    keys: &'static [&'static str],
) -> Family {
    Family { name, base, pairing, keys, full_every: None, window: None, norm_eps: RMS_EPS }
}

/// All supported families.
const FAMILIES: &[Family] = &[
    plain("llama", Architecture::Llama, RopePairing::Adjacent, &[]),
    plain("mistral3", Architecture::Ministral3, RopePairing::Adjacent, &["attention.temperature_scale"]),
    plain("qwen2", Architecture::Qwen2, RopePairing::Halves, &[]),
    plain("qwen3", Architecture::Qwen3, RopePairing::Halves, &[]),
    plain("qwen2moe", Architecture::Qwen2Moe, RopePairing::Halves, &["expert_shared_feed_forward_length"]),
    plain("qwen3moe", Architecture::Qwen3Moe, RopePairing::Halves, &[]),
    Family {
        full_every: Some(2),
        window: Some(4096),
        ..plain("gemma2", Architecture::Gemma2, RopePairing::Halves, SOFTCAPS)
    },
    Family { full_every: Some(6), ..plain("gemma3", Architecture::Gemma3, RopePairing::Halves, SOFTCAPS) },
    plain("granite", Architecture::Granite, RopePairing::Adjacent, SCALES),
    plain("granitemoe", Architecture::GraniteMoe, RopePairing::Adjacent, SCALES),
    plain("phi3", Architecture::Phi3, RopePairing::Halves, &[]),
    plain("chatglm", Architecture::Glm, RopePairing::Adjacent, &[]),
    plain("glm4", Architecture::Glm4, RopePairing::Adjacent, &[]),
    plain("smollm3", Architecture::SmolLm3, RopePairing::Adjacent, &[]),
    Family { full_every: Some(4), ..plain("olmo2", Architecture::Olmo2, RopePairing::Halves, &[]) },
    Family {
        full_every: Some(4),
        norm_eps: "attention.layer_norm_epsilon",
        ..plain("cohere2", Architecture::Cohere2, RopePairing::Adjacent, &["logit_scale"])
    },
    plain("deepseek2", Architecture::DeepSeekV2, RopePairing::Adjacent, LATENT),
    plain("mistral4", Architecture::Mistral4, RopePairing::Adjacent, LATENT),
    plain(
        "glm4moe",
        Architecture::Glm4Moe,
        RopePairing::Halves,
        &["expert_shared_count", "leading_dense_block_count", "nextn_predict_layers"],
    ),
    Family {
        full_every: Some(4),
        window: Some(LLAMA4_CHUNK),
        ..plain("llama4", Architecture::Llama4, RopePairing::Adjacent, &["expert_shared_feed_forward_length"])
    },
    Family { full_every: Some(2), ..plain("gpt-oss", Architecture::GptOss, RopePairing::Halves, &[]) },
];

impl Family {
    /// The family of this name.
    pub fn find(name: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|f| f.name == name)
    }

    /// The architecture of a file of this family.
    pub fn architecture(
        &self,
        extras: &Extras,
        windows: &[Option<usize>],
        moe: Option<&Moe>,
    ) -> Architecture {
        let slides = windows.iter().any(Option::is_some);
        let sigmoid = moe.is_some_and(|moe| moe.router.score == RouterScore::Sigmoid);
        match self.base {
            Architecture::Llama | Architecture::Ministral3 if moe.is_some() => Architecture::Mixtral,
            // Of Granite's kinds, the hybrid may have no RoPE.
            Architecture::Granite if !extras.no_rope.is_empty() => Architecture::GraniteMoeHybrid,
            Architecture::GraniteMoe if moe.is_some_and(|moe| moe.shared.is_some()) => {
                Architecture::GraniteMoeShared
            }
            Architecture::Ministral3 if extras.query_temperature.is_none() => Architecture::Mistral,
            // GGUF calls Llama and Mistral both `llama`; only Mistral has a window.
            Architecture::Llama if slides => Architecture::Mistral,
            Architecture::Olmo2 if slides => Architecture::Olmo3,
            // Mistral Large 3 is called DeepSeek's, too
            Architecture::DeepSeekV2 if extras.query_temperature.is_some() => Architecture::Mistral4,
            Architecture::DeepSeekV2 if sigmoid => Architecture::DeepSeekV3,
            base => base,
        }
    }

    /// What the family computes beyond Llama, with this file's values.
    pub fn extras(
        &self,
        keys: &Prefixed<'_>,
        (hidden, heads, head_dim): (usize, usize, usize),
        mla: Option<Mla>,
        windows: &[Option<usize>],
        rope: &Rope,
    ) -> Result<Extras, LoadError> {
        let layers = windows.len();
        let slides = windows.iter().any(Option::is_some);
        let unless_zero = |key: &str| -> Result<Option<f32>, LoadError> {
            match keys.number(key)? {
                None | Some(0.0) => Ok(None),
                Some(_) => Ok(keys.positive(key)?.map(|x| x as f32)),
            }
        };
        // RoPE of windowed layers: never scaled, with its own base.
        let window_rope = |theta: f32| -> Result<Option<Rope>, LoadError> {
            let theta = keys.positive("rope.freq_base_swa")?.map_or(theta, |x| x as f32);
            let own = Rope { theta, scaling: RopeScaling::None, ..rope.clone() };
            Ok((slides && own != *rope).then_some(own))
        };
        let plain = || 1.0 / (head_dim as f32).sqrt();
        let attention_scale = unless_zero("attention.scale")?.filter(|&scale| scale != plain());
        let mut extras = Extras::of(self.base, hidden, windows);
        match self.base {
            Architecture::Ministral3 => {
                if let Some(beta) = unless_zero("attention.temperature_scale")? {
                    let step = keys.need_count("rope.scaling.original_context_length", MAX_COUNT)?;
                    extras.query_temperature =
                        Some(QueryTemperature { beta, step, offset: 0, no_rope_only: false });
                }
            }
            Architecture::Gemma2 | Architecture::Gemma3 => {
                let gemma2 = self.base == Architecture::Gemma2;
                // For the 27B models, which llama.cpp recognises by their number of layers, the divisor is the hidden
                // size per head.
                let share = (layers == if gemma2 { 46 } else { 62 }).then(|| hidden / heads);
                let share = share.filter(|&n| n != head_dim && n > 0).map(|n| inverse_root(n as f64));
                extras.attention_scale = attention_scale.or(share);
                extras.final_softcap = unless_zero("final_logit_softcapping")?;
                if gemma2 {
                    let cap = |key| keys.lookup(key).map(|_| unless_zero(key)).transpose();
                    extras.attention_softcap = cap("attn_logit_softcapping")?.unwrap_or(Some(50.0));
                    extras.final_softcap = cap("final_logit_softcapping")?.unwrap_or(Some(30.0));
                } else {
                    if let Some(found) = unless_zero("attn_logit_softcapping")? {
                        return Err(keys.unsupported("attn_logit_softcapping", found, "gemma2 has it"));
                    }
                    extras.window_rope = window_rope(10_000.0)?;
                }
            }
            Architecture::Granite | Architecture::GraniteMoe => {
                // llama.cpp asks this key whether there is RoPE, of files without experts.
                let no_rope = keys.flag("rope.scaling.finetuned")? == Some(false);
                if no_rope && self.base == Architecture::Granite {
                    extras.no_rope = (0..layers).collect();
                }
                extras.attention_scale = attention_scale;
                extras.embedding_scale = unless_zero("embedding_scale")?.unwrap_or(1.0);
                extras.residual_scale = unless_zero("residual_scale")?.unwrap_or(1.0);
                // The file contains the divisor.
                extras.logit_scale = 1.0 / keys.need_positive("logit_scale")? as f32;
            }
            Architecture::DeepSeekV2 | Architecture::Mistral4 => {
                if let Some(beta) = unless_zero("attention.temperature_scale")? {
                    let step = match keys.count("attention.temperature_length", MAX_COUNT)? {
                        Some(step) => step,
                        None => keys.need_count("rope.scaling.original_context_length", MAX_COUNT)?,
                    };
                    extras.query_temperature =
                        Some(QueryTemperature { beta, step, offset: 0, no_rope_only: false });
                }
                if let Some(mla) = mla {
                    let all_dim = self.mscale_all_dim(keys)?;
                    let own = || mla.score_scale(&rope.scaling, all_dim);
                    extras.attention_scale = Some(unless_zero("attention.scale")?.unwrap_or_else(own));
                    extras.mla = Some(mla);
                }
            }
            Architecture::SmolLm3 => extras.no_rope = (3..layers).step_by(4).collect(),
            Architecture::Olmo2 => extras.window_rope = window_rope(rope.theta)?,
            Architecture::Llama4 => {
                const WINDOW: &str = "attention.sliding_window";
                if let Some(found) = keys.number(WINDOW)?.filter(|&n| n != LLAMA4_CHUNK as f64) {
                    return Err(keys.unsupported(WINDOW, found, "8192 is run"));
                }
                extras.no_rope = (3..layers).step_by(4).collect();
                // llama.cpp knows the one model without these norms by its experts.
                extras.norm_behind_rope = keys.number("expert_count")? != Some(128.0);
                extras.query_temperature =
                    Some(QueryTemperature { beta: 0.1, step: LLAMA4_CHUNK, offset: 1, no_rope_only: true });
            }
            Architecture::GptOss => {
                if !slides {
                    return Err(keys.missing("attention.sliding_window", "the window of every second layer"));
                }
                let theta = keys.positive("rope.freq_base_swa")?.map_or(rope.theta, |x| x as f32);
                let own = Rope { theta, ..rope.clone() };
                extras.window_rope = (own != *rope).then_some(own);
            }
            Architecture::Cohere2 => extras.logit_scale = keys.need_positive("logit_scale")? as f32,
            _ => {}
        }
        Ok(extras)
    }

    /// Whether its attention is multi-head latent attention.
    pub fn latent(&self) -> bool {
        self.base.latent()
    }

    /// YaRN's `mscale_all_dim`, of which files of latent attention hold a tenth.
    pub fn mscale_all_dim(&self, keys: &Prefixed<'_>) -> Result<f64, LoadError> {
        let stored = keys.number("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
        Ok(if self.latent() { (stored * 10.0 * 1e6).round() / 1e6 } else { stored })
    }

    /// Widths of multi-head latent attention. Older files name the widths of a query's and a value's head as if they were a key's
    /// and value's.
    pub fn mla(&self, keys: &Prefixed<'_>) -> Result<Option<Mla>, LoadError> {
        if !self.latent() {
            return Ok(None);
        }
        let rope = keys.need_count("rope.dimension_count", MAX_COUNT)?;
        let either = |new: &str, old: &str| match keys.count(new, MAX_COUNT)? {
            Some(n) => Ok(n),
            None => keys.need_count(old, MAX_COUNT),
        };
        let query = either("attention.key_length_mla", "attention.key_length")?;
        if rope >= query || rope % 2 != 0 {
            let expected = format!("an even number less than a query head, {query}");
            return Err(keys.bad("rope.dimension_count", rope, expected));
        }
        let q_rank = keys.count_or_zero("attention.q_lora_rank", MAX_COUNT)?.filter(|&n| n > 0);
        Ok(Some(Mla {
            q_rank,
            kv_rank: keys.need_count("attention.kv_lora_rank", MAX_COUNT)?,
            nope: query - rope,
            rope,
            value: either("attention.value_length_mla", "attention.value_length")?,
            norm_eps: keys.need_positive(self.norm_eps)? as f32,
        }))
    }

    /// Whether each layer has the window, if the file has no pattern of booleans.
    pub fn slides(&self, keys: &Prefixed<'_>, pattern: &str, layers: usize) -> Result<Vec<bool>, LoadError> {
        let every = keys.count_or_zero(pattern, MAX_COUNT)?.or(self.full_every).filter(|&n| n > 0);
        Ok((0..layers).map(|l| every.is_none_or(|n| (l + 1) % n != 0)).collect())
    }
}
