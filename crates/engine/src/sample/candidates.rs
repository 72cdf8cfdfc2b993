//! The candidate tokens, and the filters that reduce them: top-k, typical, top-p, min-p.
//!
//! A vocabulary has 30 to 150 thousand tokens, of which a filter keeps a few, so nothing here sorts them all. Top-k uses a
//! bounded buffer; the filters by probability mass sort only the head, and extend it as needed.

use super::softmax::{exp, sum};
use crate::TokenId;
use std::cmp::Ordering;

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub id: TokenId,
    pub logit: f32,
}

/// Higher logits first, then lower ids: a total order, as no logit is NaN.
fn better(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// The candidates, in no particular order unless `sorted`. The buffers are reused from token to token.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub list: Vec<Candidate>,
    /// `list` is ordered best first.
    sorted: bool,
    /// Scratch: (key, index) while a filter ranks the list.
    ranked: Vec<(f32, u32)>,
    /// Scratch: probabilities of `list`, not normalised.
    probs: Vec<f32>,
}

impl Candidates {
    /// Takes the best `top_k` tokens of a row (0: all that are not masked with negative infinity).
    pub fn fill(&mut self, row: &[f32], top_k: usize) {
        self.list.clear();
        let all = row.iter().enumerate().map(|(id, &logit)| Candidate { id: id as TokenId, logit });
        let allowed = all.filter(|c| c.logit > f32::NEG_INFINITY);
        if top_k == 0 || top_k >= row.len() {
            self.list.extend(allowed);
            self.sorted = false;
            return;
        }
        // Collect logits above the bound; when the buffer is full, keep its best k, the worst of which is the new bound. Ids only
        // rise, so a later equal logit never wins.
        let room = 2 * top_k + 64;
        let mut bound = f32::NEG_INFINITY;
        for candidate in allowed {
            if candidate.logit > bound || self.list.len() < top_k {
                self.list.push(candidate);
                if self.list.len() == room {
                    bound = self.list.select_nth_unstable_by(top_k - 1, better).1.logit;
                    self.list.truncate(top_k);
                }
            }
        }
        self.list.sort_unstable_by(better);
        self.list.truncate(top_k);
        self.sorted = true;
    }

    /// Locally typical sampling: keeps the candidates whose information content `-ln p` is nearest to the entropy, until they
    /// reach probability `mass`.
    pub fn typical(&mut self, mass: f32) {
        let total = self.weigh(1.0);
        let share = |p: f32| f64::from(p) / total;
        let entropy: f64 = self.probs.iter().filter(|&&p| p > 0.0).map(|&p| -share(p) * share(p).ln()).sum();
        self.ranked.clear();
        let distance = |p: f32| ((-share(p).ln() - entropy).abs()) as f32;
        self.ranked.extend(self.probs.iter().zip(0..).map(|(&p, i)| (distance(p), i)));
        self.keep_mass(mass, total);
        self.sorted = false;
    }

    /// Nucleus sampling (arXiv 1904.09751): keeps the most probable candidates until they reach probability `mass`.
    pub fn top_p(&mut self, mass: f32) {
        let total = self.weigh(1.0);
        // All candidates below this probability together have less than the mass to drop, so they need no ranking. Half of it is a
        // margin for rounding.
        let least = (f64::from(1.0 - mass) * total / self.list.len() as f64 / 2.0) as f32;
        self.ranked.clear();
        let head = self.list.iter().zip(0..).filter(|&(_, i)| self.probs[i as usize] >= least);
        self.ranked.extend(head.map(|(c, i)| (-c.logit, i)));
        self.keep_mass(mass, total);
        self.sorted = true;
    }

    /// Keeps candidates at least `share` times as probable as the best.
    pub fn min_p(&mut self, share: f32) {
        let bound = self.max() + share.ln();
        self.list.retain(|c| c.logit >= bound);
    }

    /// Draws one candidate with the probabilities at `temperature`; `u` is uniform in `0.0..1.0`.
    ///
    /// `None` if there is no candidate.
    pub fn draw(&mut self, temperature: f32, u: f64) -> Option<TokenId> {
        let total = self.weigh(temperature);
        let mut left = u * total;
        for (candidate, &weight) in self.list.iter().zip(&self.probs) {
            left -= f64::from(weight);
            if left < 0.0 {
                return Some(candidate.id);
            }
        }
        // A rounding remainder goes to the last candidate with a weight.
        self.probs.iter().rposition(|&p| p > 0.0).map(|i| self.list[i].id)
    }

    fn max(&self) -> f32 {
        match self.list.first() {
            Some(first) if self.sorted => first.logit,
            _ => self.list.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c.logit)),
        }
    }

    /// Fills `probs` with `exp((logit - max) / temperature)` and returns their sum.
    fn weigh(&mut self, temperature: f32) -> f64 {
        let max = self.max();
        self.probs.clear();
        self.probs.extend(self.list.iter().map(|c| exp((c.logit - max) / temperature)));
        sum(&self.probs)
    }

    /// Keeps the head of `ranked` (lowest key first, then lowest index) whose probabilities reach `mass`, at least
    /// one candidate.
    fn keep_mass(&mut self, mass: f32, total: f64) {
        let order = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let goal = f64::from(mass) * total;
        let (mut kept, mut reached, mut head) = (0, 0.0, 0);
        while kept < self.ranked.len() && (kept == 0 || reached < goal) {
            if kept == head {
                // The sorted head is exhausted: sort four times as many.
                head = (4 * head).clamp(64, self.ranked.len().max(64)).min(self.ranked.len());
                if head < self.ranked.len() {
                    self.ranked[kept..].select_nth_unstable_by(head - kept, order);
                }
                self.ranked[kept..head].sort_unstable_by(order);
            }
            reached += f64::from(self.probs[self.ranked[kept].1 as usize]);
            kept += 1;
        }
        let list = &self.list;
        let chosen: Vec<Candidate> = self.ranked[..kept].iter().map(|&(_, i)| list[i as usize]).collect();
        self.list = chosen;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(candidates: &Candidates) -> Vec<TokenId> {
        candidates.list.iter().map(|c| c.id).collect()
    }

    fn sorted_ids(candidates: &Candidates) -> Vec<TokenId> {
        let mut ids = ids(candidates);
        ids.sort_unstable();
        ids
    }

    /// Logits whose softmax is `p`.
    fn from_probabilities(p: &[f32]) -> Candidates {
        let row: Vec<f32> = p.iter().map(|p| p.ln()).collect();
        let mut candidates = Candidates::default();
        candidates.fill(&row, 0);
        candidates
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_the_mass() {
        let p = [0.1, 0.4, 0.2, 0.3];
        for (mass, kept) in [
            (0.0, vec![1]),
            (0.39, vec![1]),
            (0.5, vec![1, 3]),
            (0.75, vec![1, 3, 2]),
            (0.95, vec![1, 3, 2, 0]),
        ] {
            let mut c = from_probabilities(&p);
            c.top_p(mass);
            assert_eq!(ids(&c), kept, "top-p {mass}");
        }
    }

    #[test]
    fn min_p_is_relative_to_the_best() {
        let mut c = from_probabilities(&[0.05, 0.5, 0.2, 0.25]);
        c.min_p(0.3);
        assert_eq!(ids(&c), [1, 2, 3]);
        c.min_p(1.0);
        assert_eq!(ids(&c), [1]);
    }

    #[test]
    fn typical_also_drops_too_probable_tokens() {
        // Entropy 1.16 nats: the surprises 0.51, 1.61, 2.30, 2.30 differ from it by 0.64, 0.45, 1.15, 1.15.
        let mut c = from_probabilities(&[0.6, 0.2, 0.1, 0.1]);
        c.typical(0.15);
        assert_eq!(ids(&c), [1]);
        let mut c = from_probabilities(&[0.6, 0.2, 0.1, 0.1]);
        c.typical(0.5);
        assert_eq!(ids(&c), [1, 0]);
    }

    #[test]
    fn masked_tokens_are_not_candidates() {
        let mut c = Candidates::default();
        c.fill(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY], 0);
        assert_eq!(ids(&c), [1]);
        c.fill(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY], 2);
        assert_eq!(ids(&c), [1]);
        assert_eq!(c.draw(1.0, 0.999), Some(1));
        c.fill(&[f32::NEG_INFINITY; 3], 0);
        assert_eq!(c.draw(1.0, 0.0), None);
    }

    #[test]
    fn draw_covers_the_whole_interval() {
        let mut c = from_probabilities(&[0.25, 0.5, 0.25]);
        let drawn: Vec<_> = [0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1.0 - 1e-16]
            .map(|u| c.draw(1.0, u).expect("three candidates"))
            .into();
        assert_eq!(drawn, [0, 0, 1, 1, 2, 2]);
        // A temperature near 0 leaves weight only on the best.
        assert_eq!(c.draw(1e-6, 1.0 - 1e-16), Some(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, rng_seed: proptest::test_runner::RngSeed::Fixed(2), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn top_k_equals_a_full_sort(row in prop::collection::vec(-8i8..8, 1..600), k in 1usize..300) {
            let row: Vec<f32> = row.into_iter().map(f32::from).collect();
            let mut expected: Vec<TokenId> = (0..row.len() as TokenId).collect();
            expected.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
            expected.truncate(k);
            let mut c = Candidates::default();
            c.fill(&row, k);
            if k < row.len() {
                prop_assert_eq!(ids(&c), expected);
            } else {
                expected.sort_unstable();
                prop_assert_eq!(sorted_ids(&c), expected);
            }
        }

        #[test]
        fn top_p_equals_a_full_sort(row in prop::collection::vec(-6f32..6.0, 1..800), mass in 0f32..1.0) {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            let max = row[order[0]];
            let p: Vec<f64> = row.iter().map(|x| f64::from((x - max).exp())).collect();
            let goal = f64::from(mass) * p.iter().sum::<f64>();
            let (mut expected, mut reached) = (Vec::new(), 0.0);
            for i in order {
                if !expected.is_empty() && reached >= goal {
                    break;
                }
                expected.push(i as TokenId);
                reached += p[i];
            }
            let mut c = Candidates::default();
            c.fill(&row, 0);
            c.top_p(mass);
            prop_assert_eq!(ids(&c), expected);
        }
    }
}
