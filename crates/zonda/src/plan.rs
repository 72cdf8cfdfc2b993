//! The memory plan: how much memory a model needs, compared with what the machine and its control group have available,
//! before anything is loaded. A model that does not fit is refused, with the figures and with what would fit.

use crate::options::{Device, OpenOptions};
use crate::units::human_bytes;
use zonda_engine::forward::{BackendError, Limits};
use zonda_engine::load::{Model, ModelSpec};
use zonda_kernels::attention::{Holds, KvType, PAGE};
use zonda_machine::memory::Available;

/// Prompt tokens that are computed together.
const BATCH: u64 = 512;

/// How much memory a model needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    weights: u64,
    /// Keys and values of one token.
    per_token: u64,
    /// Tokens that the KV cache has room for.
    tokens: u64,
    /// The activations of a batch and its logits.
    working: u64,
}

impl Plan {
    fn of(model: &Model, options: &OpenOptions) -> Plan {
        let spec = &model.spec;
        let context = options.ctx.unwrap_or(spec.context_length.min(Limits::DEFAULT_CONTEXT));
        let contexts = options.kv_contexts.or(options.parallel).unwrap_or(1);
        let quantized =
            options.quantize.map(|quantize| (model.parameters() as f64 * quantize.bits() / 8.0) as u64);
        Plan {
            weights: quantized.unwrap_or(u64::MAX).min(model.held_bytes()),
            per_token: per_token(spec, options.kv_type.unwrap_or(KvType::F16)),
            tokens: (context.next_multiple_of(PAGE) as u64).saturating_mul(contexts as u64),
            working: working(spec),
        }
    }

    fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv()).saturating_add(self.working)
    }

    fn kv(&self) -> u64 {
        self.per_token.saturating_mul(self.tokens)
    }

    /// Options with which the model would fit into `available` bytes.
    fn instead(&self, model: &Model, options: &OpenOptions, available: u64) -> Vec<String> {
        let fixed = self.weights + self.working;
        let Some(left) = available.checked_sub(fixed) else {
            let bits = available.saturating_sub(self.working) as f64 * 8.0 / model.parameters() as f64;
            return match bits {
                2.0.. => vec![format!("a smaller quantisation: at most {bits:.1} bits per weight")],
                _ => vec!["a smaller model".to_owned()],
            };
        };
        let contexts = options.kv_contexts.or(options.parallel).unwrap_or(1).max(1) as u64;
        let fits = |per_token: u64, contexts: u64| left / per_token.max(1) / contexts / 256 * 256;
        let mut out = Vec::new();
        if fits(self.per_token, contexts) > 0 {
            out.push(format!("--ctx {}", fits(self.per_token, contexts)));
        }
        // If two types can hold the whole context, the larger one is better.
        for kv in [KvType::Q8_0, KvType::Q4_0] {
            let small = per_token(&model.spec, kv);
            let context = fits(small, contexts).min(self.tokens / contexts);
            if small < self.per_token && context > 0 {
                out.push(format!("--kv-type {} with --ctx {context}", kv.name()));
            }
            if context == self.tokens / contexts {
                break;
            }
        }
        if contexts > 1 && self.tokens / contexts * self.per_token <= left {
            out.push(format!("--parallel {}", left / (self.tokens / contexts * self.per_token).max(1)));
        }
        if out.is_empty() { vec!["a smaller quantisation".to_owned()] } else { out }
    }
}

/// Bytes of a token's keys and values in all layers.
pub fn per_token(spec: &ModelSpec, kv: KvType) -> u64 {
    let holds = Holds::if_values_are_keys(spec.values_are_keys());
    (spec.layers * spec.kv_heads * kv.page_bytes_of(holds, spec.head_dim) / PAGE) as u64
}

/// Bytes of a batch's activations (the residual stream and its normalised form, queries, keys and values, both halves
/// of the feed-forward layer, as `f32`), and of the logits of 64 positions.
fn working(spec: &ModelSpec) -> u64 {
    let heads = (2 * spec.heads + 2 * spec.kv_heads) * spec.head_dim;
    // the queries, inputs of the heads' projections and values of latent attention
    let latent = spec
        .extras
        .mla
        .as_ref()
        .map_or(0, |mla| spec.heads * (mla.query() + mla.nope.max(mla.kv_rank) + 2 * mla.value));
    let row = 4 * spec.hidden_size + heads + latent + 3 * spec.ffn_size;
    BATCH * 4 * row as u64 + 64 * 4 * spec.vocab_size as u64
}

/// Refuses a model that does not fit into memory, unless the options skip the check.
///
/// # Errors
/// [`BackendError::Unsupported`], with the figures and with what would fit.
pub(crate) fn check(model: &Model, options: &OpenOptions) -> Result<(), BackendError> {
    // A GPU has its own memory.
    if options.no_memory_check || options.device == Device::Gpu {
        return Ok(());
    }
    let Some(available) = Available::now().bytes() else { return Ok(()) };
    match refusal(&Plan::of(model, options), model, options, available) {
        None => Ok(()),
        Some(why) => Err(BackendError::Unsupported(why)),
    }
}

fn refusal(plan: &Plan, model: &Model, options: &OpenOptions, available: u64) -> Option<String> {
    (plan.total() > available).then(|| {
        format!(
            "not enough memory: {} weights + {} KV cache ({} tokens of {}) + {} working memory = {}, and {} are available; \
             what would fit: {}; --no-memory-check skips this check",
            human_bytes(plan.weights),
            human_bytes(plan.kv()),
            plan.tokens,
            human_bytes(plan.per_token),
            human_bytes(plan.working),
            human_bytes(plan.total()),
            human_bytes(available),
            plan.instead(model, options, available).join(", or ")
        )
    })
}
