//! [`Chooser`]: a token's experts and their weights, from its router's logits.

use zonda_engine::load::{ExpertGroups, GroupScore, Moe, RouterScore};

/// Added to the sum that sigmoid weights are divided by, as `transformers` does: all may be zero.
const TINY: f32 = 1e-20;

/// Working memory of the choice.
#[derive(Debug, Default)]
pub(crate) struct Chooser {
    /// What experts are ranked by, where it is not their scores, `[experts]`
    ranks: Vec<f32>,
    /// Experts, the best first
    order: Vec<usize>,
    /// Scores of groups, and their numbers, the best first
    groups: Vec<(f32, usize)>,
}

/// The biases of a router, `[experts]` each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Biases<'a> {
    /// Added to its logits.
    pub logits: Option<&'a [f32]>,
    /// Added to its scores when they are ranked.
    pub correction: Option<&'a [f32]>,
}

impl Chooser {
    /// Hands each of a token's experts with its weight to `take`, the best first (ties: the lower number). `route` are the logits
    /// of its router, `[experts]`, which are overwritten. Where a logit is NaN, the weights are, so that it shows in the output.
    pub fn choose(
        &mut self,
        moe: &Moe,
        biases: Biases<'_>,
        route: &mut [f32],
        mut take: impl FnMut(usize, f32),
    ) {
        let router = &moe.router;
        if let Some(bias) = biases.logits {
            route.iter_mut().zip(bias).for_each(|(r, b)| *r += b);
        }
        // what the scores of all experts are still to be divided by
        let mut total = 1.0;
        match router.score {
            RouterScore::Softmax => total = exponentials(route),
            RouterScore::Sigmoid => route.iter_mut().for_each(|r| *r = 1.0 / (1.0 + (-*r).exp())),
            RouterScore::SoftmaxOfUsed => {}
        }
        let broken = route.iter().any(|r| r.is_nan());
        let ranks = match biases.correction {
            None => &*route,
            Some(correction) => {
                self.ranks.clear();
                self.ranks.extend(route.iter().zip(correction).map(|(r, c)| r / total + c));
                &self.ranks
            }
        };
        self.order.clear();
        match router.groups {
            None => self.order.extend(0..moe.experts),
            Some(groups) => {
                let size = moe.experts / groups.count;
                rank_groups(groups, ranks, size, &mut self.groups);
                let used = self.groups.iter().take(groups.used);
                self.order.extend(used.flat_map(|&(_, g)| g * size..(g + 1) * size));
            }
        }
        let by_rank = |a: &usize, b: &usize| ranks[*b].total_cmp(&ranks[*a]).then(a.cmp(b));
        // Only the used ones are sorted: models have up to hundreds of experts and use a few.
        self.order.select_nth_unstable_by(moe.used - 1, by_rank);
        self.order[..moe.used].sort_unstable_by(by_rank);
        let used = &self.order[..moe.used];
        match router.score {
            RouterScore::SoftmaxOfUsed => {
                let max = used.iter().map(|&e| route[e]).fold(f32::NEG_INFINITY, f32::max);
                used.iter().for_each(|&e| route[e] = (route[e] - max).exp());
                total = used.iter().map(|&e| route[e]).sum();
            }
            RouterScore::Softmax if router.normalize => total = used.iter().map(|&e| route[e]).sum(),
            RouterScore::Sigmoid if router.normalize => {
                total = used.iter().map(|&e| route[e]).sum::<f32>() + TINY;
            }
            RouterScore::Softmax | RouterScore::Sigmoid => {}
        }
        for &e in used {
            take(e, if broken { f32::NAN } else { route[e] / total * router.scale });
        }
    }
}

/// `e^(r − max)` in place; returns the sum.
fn exponentials(route: &mut [f32]) -> f32 {
    let max = route.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    route.iter_mut().for_each(|r| *r = (*r - max).exp());
    route.iter().sum()
}

/// Ranks groups of `size` experts by their best ones, into `out`: the best group first (ties: the lower number).
fn rank_groups(groups: ExpertGroups, ranks: &[f32], size: usize, out: &mut Vec<(f32, usize)>) {
    out.clear();
    out.extend(ranks.chunks_exact(size).enumerate().map(|(g, ranks)| {
        let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for &rank in ranks {
            if rank > best {
                (best, second) = (rank, best);
            } else if rank > second {
                second = rank;
            }
        }
        match groups.score {
            GroupScore::Best => (best, g),
            GroupScore::BestTwo => (best + second, g),
        }
    }));
    out.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonda_engine::load::Router;

    fn moe(used: usize, change: impl FnOnce(&mut Router)) -> Moe {
        let mut moe = Moe::plain(LOGITS.len(), used, 1, false);
        change(&mut moe.router);
        moe
    }

    fn choose(moe: &Moe, biases: Biases<'_>, logits: &[f32]) -> Vec<(usize, f32)> {
        let mut out = Vec::new();
        Chooser::default().choose(moe, biases, &mut logits.to_vec(), |e, weight| out.push((e, weight)));
        out
    }

    fn assert_close(found: &[(usize, f32)], expected: &[(usize, f64)]) {
        let numbers = |e: &[usize]| e.to_vec();
        let (a, b): (Vec<_>, Vec<_>) =
            (found.iter().map(|p| p.0).collect(), expected.iter().map(|p| p.0).collect());
        assert_eq!(numbers(&a), numbers(&b), "experts");
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(found.1) - expected.1).abs() < 1e-6, "{found:?}, expected {expected:?}");
        }
    }

    const LOGITS: [f32; 8] = [2.0, -1.0, 1.5, 1.4, 0.0, 0.25, 1.0, -2.0];

    fn sigmoid(logit: f32) -> f64 {
        1.0 / (1.0 + (-f64::from(logit)).exp())
    }

    fn softmax(of: &[usize], e: usize) -> f64 {
        let exp = |e: usize| f64::from(LOGITS[e]).exp();
        exp(e) / of.iter().map(|&e| exp(e)).sum::<f64>()
    }

    #[test]
    fn a_softmax_is_over_all_or_the_used() {
        let all: Vec<usize> = (0..8).collect();
        let plain = choose(&moe(3, |_| ()), Biases::default(), &LOGITS);
        assert_close(&plain, &[0, 2, 3].map(|e| (e, softmax(&all, e))));
        let normalized = [0, 2, 3].map(|e| (e, softmax(&[0, 2, 3], e)));
        let found = choose(&moe(3, |r| r.normalize = true), Biases::default(), &LOGITS);
        assert_close(&found, &normalized);
        let found = choose(&moe(3, |r| r.score = RouterScore::SoftmaxOfUsed), Biases::default(), &LOGITS);
        assert_close(&found, &normalized);
    }

    #[test]
    fn a_bias_changes_choice_and_weights() {
        let bias = [-9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0];
        let biases = Biases { logits: Some(&bias), ..Biases::default() };
        let found = choose(&moe(2, |r| r.score = RouterScore::Sigmoid), biases, &LOGITS);
        assert_close(&found, &[(7, sigmoid(2.0)), (2, sigmoid(1.5))]);
    }

    #[test]
    fn a_correction_changes_the_choice_alone() {
        let correction = [-0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9];
        let biases = Biases { correction: Some(&correction), ..Biases::default() };
        let sigmoids = moe(2, |r| (r.score, r.scale) = (RouterScore::Sigmoid, 2.5));
        let found = choose(&sigmoids, biases, &LOGITS);
        assert_close(&found, &[7, 2].map(|e| (e, 2.5 * sigmoid(LOGITS[e]))));
        let found = choose(&moe(2, |_| ()), biases, &LOGITS);
        let all: Vec<usize> = (0..8).collect();
        assert_close(&found, &[7, 2].map(|e| (e, softmax(&all, e))));
        let normalized = moe(2, |r| (r.score, r.normalize, r.scale) = (RouterScore::Sigmoid, true, 2.5));
        let sum = sigmoid(LOGITS[7]) + sigmoid(LOGITS[2]);
        assert_close(
            &choose(&normalized, biases, &LOGITS),
            &[7, 2].map(|e| (e, 2.5 * sigmoid(LOGITS[e]) / sum)),
        );
    }

    #[test]
    fn groups_exclude_experts() {
        let groups = |score| Some(ExpertGroups { count: 4, used: 1, score });
        let sigmoids = |score| moe(2, |r| (r.score, r.groups) = (RouterScore::Sigmoid, groups(score)));
        // the first group has the best expert, the second the best two
        let best = choose(&sigmoids(GroupScore::Best), Biases::default(), &LOGITS);
        assert_close(&best, &[0, 1].map(|e| (e, sigmoid(LOGITS[e]))));
        let best_two = choose(&sigmoids(GroupScore::BestTwo), Biases::default(), &LOGITS);
        assert_close(&best_two, &[2, 3].map(|e| (e, sigmoid(LOGITS[e]))));
    }

    #[test]
    fn nan_shows_whatever_ranks() {
        for score in [RouterScore::Softmax, RouterScore::Sigmoid, RouterScore::SoftmaxOfUsed] {
            for nan in [f32::NAN, -f32::NAN] {
                let mut logits = LOGITS;
                logits[4] = nan;
                let found = choose(&moe(2, |r| r.score = score), Biases::default(), &logits);
                assert!(found.len() == 2 && found.iter().all(|(_, weight)| weight.is_nan()), "{score:?}");
            }
        }
    }
}
