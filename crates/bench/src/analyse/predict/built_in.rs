//! The knowledge available without a record, read from `data/built_in_shares.toml`: the shares of a machine's peaks that each
//! backend reached in past measurements, and the cost of a token apart from products with weights. The file names the source
//! of each figure.

use crate::analyse::predict::dims::Dims;
use crate::analyse::predict::efficiency::Efficiency;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    toml::from_str(include_str!("../../../data/built_in_shares.toml"))
        .expect("a test reads the embedded file")
});

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// The sources of figures, by short name.
    sources: BTreeMap<String, String>,
    backends: BTreeMap<String, Backend>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backend {
    #[serde(default)]
    layer_s: f64,
    #[serde(default)]
    value_s: f64,
    #[serde(default = "infinite")]
    attention: f64,
    #[serde(default = "infinite")]
    kv: f64,
    shares: Vec<TypeShares>,
}

/// The shares of some weight types.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypeShares {
    weights: Vec<String>,
    prefill: (f64, String),
    decode: (f64, String),
}

fn infinite() -> f64 {
    f64::INFINITY
}

/// Shares of the peaks, with the source of each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BuiltInShares {
    /// The shares.
    pub share: Efficiency,
    /// The sources of the shares of prefill and of decode.
    pub measured: [&'static str; 2],
}

/// The shares of a backend with weights of a type; `None` if neither the type nor one with a similar kernel was measured.
pub fn shares(backend: &str, base: &str) -> Option<BuiltInShares> {
    let known = TABLE.backends.get(backend)?.shares.iter().find(|s| s.weights.iter().any(|w| w == base))?;
    let source = |name: &'static String| TABLE.sources.get(name).map_or(name.as_str(), String::as_str);
    let ((prefill, prefill_from), (decode, decode_from)) = (&known.prefill, &known.decode);
    Some(BuiltInShares {
        share: Efficiency { prefill: *prefill, decode: *decode },
        measured: [source(prefill_from), source(decode_from)],
    })
}

/// The cost of a token apart from the products and reading the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Costs {
    /// Seconds that each layer adds to a generated token.
    layer_s: f64,
    /// Seconds that each value of a layer's width adds to a prompt token.
    value_s: f64,
    /// The share of the `f32` peak that attention over a prompt reaches.
    attention: f64,
    /// The share of the cores' read bandwidth at which keys and values are read.
    pub kv: f64,
}

impl Costs {
    /// The costs of a backend. An unknown backend has none: the shares from records then include all costs.
    pub fn of(backend: &str) -> Costs {
        match TABLE.backends.get(backend) {
            Some(&Backend { layer_s, value_s, attention, kv, .. }) => {
                Costs { layer_s, value_s, attention, kv }
            }
            None => Costs { layer_s: 0.0, value_s: 0.0, attention: f64::INFINITY, kv: f64::INFINITY },
        }
    }

    /// Seconds per prompt token apart from products, in a prompt of `prompt` tokens; `peak`: `f32` operations per second.
    pub fn prefill_s(&self, dims: Dims, prompt: f64, peak: f64) -> f64 {
        // Scores and weighted values over half the prompt, a multiply-add each.
        let attention = 4.0 * (dims.layers * dims.attention_width) as f64 * prompt / 2.0;
        (dims.layers * dims.width) as f64 * self.value_s + attention / (peak * self.attention)
    }

    /// Seconds that starting threads adds to a generated token.
    pub fn layers_s(&self, dims: Dims) -> f64 {
        dims.layers as f64 * self.layer_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_named_and_every_share_is_between_0_and_1() {
        for backend in TABLE.backends.values() {
            for shares in &backend.shares {
                for (share, source) in [&shares.prefill, &shares.decode] {
                    assert!(*share > 0.0 && *share < 1.0 && TABLE.sources.contains_key(source), "{source}");
                }
            }
        }
    }
}
