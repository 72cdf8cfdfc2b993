//! Log-probabilities of a generated token and of the most probable tokens.

use super::candidates::Candidates;
use super::scan::argmax;
use super::softmax::sum_exp;
use crate::TokenId;

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: TokenId,
    /// ln p, at most 0.
    pub logprob: f32,
}

/// The log-probability of a generated token in the model's own distribution, before bias, penalties and temperature.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was chosen.
    pub chosen: TokenLogprob,
    /// The most probable tokens, best first; the chosen one may be missing.
    pub top: Vec<TokenLogprob>,
}

/// The log-probability of `chosen` and of the `top` most probable tokens, for a row of finite logits `[vocab]`.
pub fn logprobs(row: &[f32], chosen: TokenId, top: usize) -> TokenLogprobs {
    let max = argmax(row).map_or(0.0, |i| row[i]);
    let log_sum = f64::from(max) + sum_exp(row, max).ln();
    let logprob = |id: TokenId| TokenLogprob { id, logprob: (f64::from(row[id as usize]) - log_sum) as f32 };
    let mut best = Candidates::default();
    if top > 0 {
        best.fill(row, top);
    }
    TokenLogprobs { chosen: logprob(chosen), top: best.list.iter().map(|c| logprob(c.id)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_the_log_softmax() {
        let p = [0.5f32, 0.125, 0.25, 0.125];
        let row: Vec<f32> = p.iter().map(|p| p.ln() + 3.0).collect();
        let found = logprobs(&row, 3, 3);
        assert!((found.chosen.logprob - 0.125f32.ln()).abs() < 1e-6);
        let ids: Vec<TokenId> = found.top.iter().map(|t| t.id).collect();
        assert_eq!(ids, [0, 2, 1]);
        assert!((found.top[1].logprob - 0.25f32.ln()).abs() < 1e-6);
        assert!(logprobs(&row, 0, 0).top.is_empty());
    }
}
