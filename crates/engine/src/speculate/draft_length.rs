//! How many tokens to draft: the number with the highest expected throughput, given the acceptance and the costs so far.

use super::cost::Costs;

/// Drafting has to be expected to be faster by at least this factor.
const WORTH: f64 = 1.05;
/// The weight of an observation decays by this factor with each later one.
const FADE: f64 = 0.97;
/// The weight of a prior, in observations.
const PRIOR: f64 = 3.0;

/// How often drafted tokens were right, by class: counts that decay.
#[derive(Clone, Debug)]
pub struct Acceptance<const CLASSES: usize> {
    right: [f64; CLASSES],
    tried: [f64; CLASSES],
}

impl<const CLASSES: usize> Default for Acceptance<CLASSES> {
    fn default() -> Self {
        Acceptance { right: [0.0; CLASSES], tried: [0.0; CLASSES] }
    }
}

impl<const CLASSES: usize> Acceptance<CLASSES> {
    /// Records whether a drafted token of a class was right.
    pub fn saw(&mut self, class: usize, right: bool) {
        self.tried[class] = self.tried[class] * FADE + 1.0;
        self.right[class] = self.right[class] * FADE + f64::from(u8::from(right));
    }

    /// The probability that a token of a class is right, given a prior.
    pub fn of(&self, class: usize, prior: f64) -> f64 {
        (self.right[class] + PRIOR * prior) / (self.tried[class] + PRIOR)
    }
}

/// A sequence whose draft the next step could verify.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// For each token of its draft, the probability that it and all before it are right. Descending.
    pub chances: Vec<f64>,
    /// Seconds to draft one token.
    pub drafting: f64,
}

/// How many tokens of each candidate's draft to verify in a step with `decoding` sequences (including the candidates), for the
/// highest expected tokens per second.
///
/// Tokens are added in descending order of probability, over all drafts; the best of these steps is chosen if it pays.
/// `tokens(m) / time(m)`, with `tokens(m) = decoding + Σ chances` and `time(m) = cost(decoding + m) + Σ drafting`.
pub fn choose(costs: &Costs, decoding: usize, candidates: &[Candidate]) -> Vec<usize> {
    let mut lengths = vec![0; candidates.len()];
    let mut best = lengths.clone();
    let mut best_rate = WORTH * decoding as f64 / costs.of(decoding);
    let (mut expected, mut drafting, mut verified) = (decoding as f64, 0.0, decoding);
    loop {
        let next = |i: usize| candidates[i].chances.get(lengths[i]).map(|&chance| (chance, i));
        let Some((chance, i)) = (0..candidates.len()).filter_map(next).max_by(|a, b| a.0.total_cmp(&b.0))
        else {
            return best;
        };
        lengths[i] += 1;
        expected += chance;
        drafting += candidates[i].drafting;
        verified += 1;
        let rate = expected / (costs.of(verified) + drafting);
        if rate > best_rate {
            best_rate = rate;
            best.clone_from(&lengths);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A step costs 10 ms and `each` for every token after the first.
    fn costs(each: f64) -> Costs {
        let at = |n: usize| (n, Duration::from_secs_f64((10.0 + each * (n - 1) as f64) / 1e3));
        Costs::measured(&[at(1), at(64)])
    }

    fn candidate(p: f64, most: i32, drafting_ms: f64) -> Candidate {
        Candidate { chances: (1..=most).map(|i| p.powi(i)).collect(), drafting: drafting_ms / 1e3 }
    }

    #[test]
    fn drafts_are_as_long_as_they_pay() {
        let lengths = |p, each, drafting| choose(&costs(each), 1, &[candidate(p, 16, drafting)])[0];
        assert_eq!(lengths(1.0, 0.1, 0.0), 16, "all right tokens if they cost little");
        assert_eq!(lengths(0.5, 9.0, 0.0), 0, "none if a token costs as much as a step");
        assert_eq!(lengths(0.0, 0.5, 0.0), 0, "no wrong tokens");
        let some = lengths(0.7, 0.7, 0.0);
        assert!((2..10).contains(&some), "{some}");
        assert!(lengths(0.7, 0.7, 2.0) < some, "fewer if drafting has a cost");
        assert_eq!(lengths(0.6, 0.1, 8.0), 0, "a slow draft model is worse than none");
    }

    #[test]
    fn likelier_tokens_are_verified_first() {
        let sure = candidate(0.95, 8, 0.0);
        let unsure = candidate(0.3, 8, 0.0);
        let lengths = choose(&costs(1.5), 2, &[unsure, sure]);
        assert!(lengths[1] > 2 * lengths[0], "{lengths:?}");
        assert_eq!(choose(&costs(1.0), 3, &[]), Vec::<usize>::new());
    }

    #[test]
    fn acceptance_follows_the_observations() {
        let mut seen = Acceptance::<2>::default();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(close(seen.of(0, 0.4), 0.4));
        for _ in 0..200 {
            seen.saw(0, true);
        }
        assert!(seen.of(0, 0.4) > 0.94 && close(seen.of(1, 0.4), 0.4));
        for _ in 0..100 {
            seen.saw(0, false);
        }
        assert!(seen.of(0, 0.4) < 0.1);
    }
}
