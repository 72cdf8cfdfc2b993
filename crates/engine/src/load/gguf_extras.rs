//! The families of GGUF files: which options each has, under which keys, with llama.cpp's defaults
//! (`llama.cpp/src/models/*.cpp`).

use super::LoadError;
use super::fields::{Fields, MAX_COUNT, Prefixed, Scalar};
use super::spec::{Architecture, Extras, QueryTemperature, Rope, RopePairing, RopeScaling};
use super::validate::inverse_root;

/// A value of `general.architecture` that is run.
pub(super) struct Family {
    pub name: &'static str,
    /// What its files are called unless [`Family::architecture`] finds more.
    pub base: Architecture,
    pub pairing: RopePairing,
    /// Keys that change the computation, beyond those every family has.
    pub keys: &'static [&'static str],
    /// Without a pattern in the file, every n-th layer has no window.
    pub full_every: Option<usize>,
    /// The window if the file names none.
    pub window: Option<usize>,
    pub norm_eps: &'static str,
}

/// Positions in a chunk of Llama 4's context, and with the same factor of queries: no key says either.
const LLAMA4_CHUNK: usize = 8192;

const RMS_EPS: &str = "attention.layer_norm_rms_epsilon";
const SOFTCAPS: &[&str] = &["attn_logit_softcapping", "final_logit_softcapping", "attention.scale"];
const SCALES: &[&str] = &["attention.scale", "embedding_scale", "residual_scale", "logit_scale"];

/// A family of Llama's kind, without windows of its own.
const fn plain(
    name: &'static str,
    base: Architecture,
    pairing: RopePairing,
    keys: &'static [&'static str],
) -> Family {
    Family { name, base, pairing, keys, full_every: None, window: None, norm_eps: RMS_EPS }
}

/// All that are run.
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
    plain("smollm3", Architecture::SmolLm3, RopePairing::Adjacent, &[]),
    Family { full_every: Some(4), ..plain("olmo2", Architecture::Olmo2, RopePairing::Halves, &[]) },
    Family {
        full_every: Some(4),
        norm_eps: "attention.layer_norm_epsilon",
        ..plain("cohere2", Architecture::Cohere2, RopePairing::Adjacent, &["logit_scale"])
    },
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

    /// RoPE's scaling as the family's models have it where no key says all of it: gpt-oss's YaRN changes from one frequency to the
    /// next without rounding the first and the last.
    pub fn scaling(&self, mut scaling: RopeScaling) -> RopeScaling {
        if let (Architecture::GptOss, RopeScaling::Yarn { truncate, .. }) = (self.base, &mut scaling) {
            *truncate = false;
        }
        scaling
    }

    /// What a file of the family is called.
    pub fn architecture(&self, extras: &Extras, windows: &[Option<usize>], moe: bool) -> Architecture {
        let slides = windows.iter().any(Option::is_some);
        match self.base {
            Architecture::Llama | Architecture::Ministral3 if moe => Architecture::Mixtral,
            Architecture::Ministral3 if extras.query_temperature.is_none() => Architecture::Mistral,
            // GGUF calls Llama and Mistral both `llama`; only Mistral has a window.
            Architecture::Llama if slides => Architecture::Mistral,
            Architecture::Olmo2 if slides => Architecture::Olmo3,
            base => base,
        }
    }

    /// What the family computes beyond Llama, with this file's numbers.
    pub fn extras(
        &self,
        keys: &Prefixed<'_>,
        (hidden, heads, head_dim): (usize, usize, usize),
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
        // RoPE of windowed layers: never scaled, with a base of its own
        let window_rope = |theta: f32| -> Result<Option<Rope>, LoadError> {
            let theta = keys.positive("rope.freq_base_swa")?.map_or(theta, |x| x as f32);
            let own = Rope { theta, pairing: self.pairing, scaling: RopeScaling::None };
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
                // The 27B models, which llama.cpp knows by their layers, divide by the hidden size's share of a head.
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
            Architecture::Granite => {
                extras.attention_scale = attention_scale;
                extras.embedding_scale = unless_zero("embedding_scale")?.unwrap_or(1.0);
                extras.residual_scale = unless_zero("residual_scale")?.unwrap_or(1.0);
                // The file holds the divisor.
                extras.logit_scale = 1.0 / keys.need_positive("logit_scale")? as f32;
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

    /// Of each layer whether it has the window, if the file has no pattern of booleans.
    pub fn slides(&self, keys: &Prefixed<'_>, pattern: &str, layers: usize) -> Result<Vec<bool>, LoadError> {
        let every = match keys.lookup(pattern) {
            Some(Scalar::Int(0)) => None,
            _ => keys.count(pattern, MAX_COUNT)?.or(self.full_every),
        };
        Ok((0..layers).map(|l| every.is_none_or(|n| (l + 1) % n != 0)).collect())
    }
}
