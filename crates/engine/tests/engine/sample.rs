//! The sampling chain: its order, edge cases, distributions and errors.

use std::collections::HashMap;
use zonda_engine::sample::{SampleError, Sampler, logprobs};
use zonda_engine::{SamplingParams, TokenId};

/// Temperature 1 and no filters: the plain softmax.
fn plain() -> SamplingParams {
    SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: Some(42),
        ..SamplingParams::default()
    }
}

/// Logits whose softmax is `p`.
fn logits(p: &[f32]) -> Vec<f32> {
    p.iter().map(|p| p.ln() + 1.5).collect()
}

fn sample(params: SamplingParams, row: &[f32], history: &[TokenId]) -> Result<TokenId, SampleError> {
    params.validate(row.len()).expect("valid parameters");
    Sampler::new(params).sample(&mut row.to_vec(), history).map(|s| s.token)
}

/// How often each token is drawn at positions 0, 1, 2 … of one seed.
fn draws(params: &SamplingParams, row: &[f32], n: usize) -> HashMap<TokenId, usize> {
    let mut sampler = Sampler::new(params.clone());
    let history: Vec<TokenId> = vec![TokenId::MAX; n];
    let mut counts = HashMap::new();
    for position in 0..n {
        let drawn = sampler.sample(&mut row.to_vec(), &history[..position]).expect("finite logits");
        *counts.entry(drawn.token).or_insert(0) += 1;
    }
    counts
}

/// The chi-square statistic of the draws against these probabilities; no other token may be drawn.
fn chi_square(counts: &HashMap<TokenId, usize>, expected: &[(TokenId, f64)]) -> f64 {
    let n: usize = counts.values().sum();
    let total: f64 = expected.iter().map(|(_, p)| p).sum();
    assert!(counts.keys().all(|id| expected.iter().any(|(e, _)| e == id)), "{counts:?}");
    let term = |&(id, p): &(TokenId, f64)| {
        let e = n as f64 * p / total;
        (counts.get(&id).copied().unwrap_or(0) as f64 - e).powi(2) / e
    };
    expected.iter().map(term).sum()
}

/// Draws 20,000 times and bounds the statistic by the 99.9% quantiles of chi-square for 1 to 7 degrees of freedom.
fn assert_distribution(params: SamplingParams, p: &[f32], expected: &[(TokenId, f64)]) {
    const QUANTILE: [f64; 8] = [0.0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32];
    let counts = draws(&params, &logits(p), 20_000);
    let found = chi_square(&counts, expected);
    let bound = QUANTILE[expected.len() - 1];
    assert!(found <= bound, "chi-square {found:.1} above {bound} for {params:?}: {counts:?}");
}

const P: [f32; 6] = [0.05, 0.4, 0.1, 0.25, 0.05, 0.15];

fn shares(ids: &[TokenId]) -> Vec<(TokenId, f64)> {
    ids.iter().map(|&id| (id, f64::from(P[id as usize]))).collect()
}

#[test]
fn temperature_alone_draws_from_the_softmax() {
    assert_distribution(plain(), &P, &shares(&[0, 1, 2, 3, 4, 5]));
    // Before normalisation, temperature 1/2 squares the probabilities and temperature 2 takes their square roots.
    for (temperature, power) in [(0.5, 2.0), (2.0, 0.5)] {
        let expected: Vec<(TokenId, f64)> =
            shares(&[0, 1, 2, 3, 4, 5]).into_iter().map(|(id, p)| (id, p.powf(power))).collect();
        assert_distribution(SamplingParams { temperature, ..plain() }, &P, &expected);
    }
}

#[test]
fn filters_keep_the_right_tokens_in_the_right_proportions() {
    assert_distribution(SamplingParams { top_k: 3, ..plain() }, &P, &shares(&[1, 3, 5]));
    assert_distribution(SamplingParams { top_p: 0.7, ..plain() }, &P, &shares(&[1, 3, 5]));
    assert_distribution(SamplingParams { min_p: 0.3, ..plain() }, &P, &shares(&[1, 3, 5]));
    // Entropy 1.55: the surprises 0.92, 1.39, 1.90, 2.30, 3.00 differ from it by 0.63, 0.16, 0.35, 0.75, 1.45.
    assert_distribution(SamplingParams { typical_p: 0.35, ..plain() }, &P, &shares(&[3, 5]));
    // Extreme values keep only the best token.
    for one in [
        SamplingParams { top_k: 1, ..plain() },
        SamplingParams { top_p: 0.0, ..plain() },
        SamplingParams { min_p: 1.0, ..plain() },
    ] {
        assert_eq!(draws(&one, &logits(&P), 50), HashMap::from([(1, 50)]), "{one:?}");
    }
    // Values that disable a filter change no draw.
    let off = SamplingParams { top_k: 6, typical_p: 1.0, ..plain() };
    assert_eq!(draws(&off, &logits(&P), 500), draws(&plain(), &logits(&P), 500));
}

#[test]
fn each_filter_sees_the_output_of_the_one_before() {
    // Top-k leaves 0.4, 0.25, 0.15; renormalised 0.5, 0.31, 0.19. So top-p 0.75 needs two of them; of all six it would
    // need three.
    assert_distribution(SamplingParams { top_k: 3, top_p: 0.75, ..plain() }, &P, &shares(&[1, 3]));
    // Temperature comes last: however high it is, top-p has already filtered.
    let hot = SamplingParams { top_p: 0.6, temperature: 100.0, ..plain() };
    assert_distribution(
        hot,
        &P,
        &shares(&[1, 3]).iter().map(|&(id, p)| (id, p.powf(0.01))).collect::<Vec<_>>(),
    );
    // Penalties come first: after its penalty the best token is not one of the two that top-k keeps.
    let history = [1; 3];
    let penalised = SamplingParams { top_k: 2, frequency_penalty: 2.0, ..plain() };
    let mut sampler = Sampler::new(penalised);
    for _ in 0..200 {
        let token = sampler.sample(&mut logits(&P), &history).unwrap().token;
        assert!([3, 5].contains(&token), "{token}");
    }
}

#[test]
fn greedy_takes_the_highest_logit_and_breaks_ties_by_lowest_id() {
    let row = [0.5, 2.0, -1.0, 2.0];
    assert_eq!(sample(SamplingParams::greedy(), &row, &[]), Ok(1));
    let all_negative = [-5.0, -3.0, -4.0];
    assert_eq!(sample(SamplingParams::greedy(), &all_negative, &[]), Ok(1));
}

/// The logits after bias and penalties.
fn adjusted(params: SamplingParams, row: &[f32], history: &[TokenId]) -> Vec<f32> {
    let mut row = row.to_vec();
    Sampler::new(params).sample(&mut row, history).unwrap();
    row
}

#[test]
fn penalties_match_llama_cpp() {
    let row = [2.0, -2.0, 2.0, 0.0];
    let history = [0, 1, 0, 3];
    let base = SamplingParams::greedy();
    // Positive logits are divided, others multiplied, once however often the token occurs.
    let repeat = SamplingParams { repeat_penalty: 2.0, ..base.clone() };
    assert_eq!(adjusted(repeat, &row, &history), [1.0, -4.0, 2.0, 0.0]);
    let presence = SamplingParams { presence_penalty: 0.5, ..base.clone() };
    assert_eq!(adjusted(presence, &row, &history), [1.5, -2.5, 2.0, -0.5]);
    let frequency = SamplingParams { frequency_penalty: 0.5, ..base.clone() };
    assert_eq!(adjusted(frequency, &row, &history), [1.0, -2.5, 2.0, -0.5]);
    // Together: bias, then the repetition penalty, then the two subtractive penalties.
    let all = SamplingParams {
        logit_bias: vec![(2, -3.0), (0, 1.0)],
        repeat_penalty: 2.0,
        presence_penalty: 0.25,
        frequency_penalty: 0.5,
        ..base.clone()
    };
    assert_eq!(adjusted(all, &row, &history), [0.25, -4.75, -1.0, -0.75]);
    // Windows of the last two tokens, of none and of all.
    let window = |repeat_last_n| SamplingParams { frequency_penalty: 1.0, repeat_last_n, ..base.clone() };
    assert_eq!(adjusted(window(2), &row, &history), [1.0, -2.0, 2.0, -1.0]);
    assert_eq!(adjusted(window(0), &row, &history), row);
    assert_eq!(adjusted(window(usize::MAX), &row, &history), [0.0, -3.0, 2.0, -1.0]);
}

#[test]
fn bias_can_force_and_forbid_tokens() {
    let row = logits(&P);
    let biased = |logit_bias, temperature| SamplingParams { logit_bias, temperature, ..plain() };
    for temperature in [0.0, 1.0] {
        assert_eq!(sample(biased(vec![(4, 100.0)], temperature), &row, &[]), Ok(4));
        let forbid_all_but_0 = (1..6).map(|id| (id, f32::NEG_INFINITY)).collect();
        assert_eq!(sample(biased(forbid_all_but_0, temperature), &row, &[]), Ok(0));
        let forbid_all = (0..6).map(|id| (id, f32::NEG_INFINITY)).collect();
        assert_eq!(
            sample(biased(forbid_all, temperature), &row, &[9, 9]),
            Err(SampleError::NothingAllowed { position: 2 })
        );
    }
}

#[test]
fn invalid_logits_are_errors_that_name_the_token() {
    let broken = |at: usize, value: f32| {
        let mut row = vec![0.0; 400];
        row[at] = value;
        ["greedy", "drawn"].map(|how| {
            let params = if how == "greedy" { SamplingParams::greedy() } else { plain() };
            sample(params, &row, &[1, 2, 3]).expect_err("a broken row").to_string()
        })
    };
    for message in broken(7, f32::NAN) {
        assert_eq!(message, "logits contain NaN at token 7 (position 3)");
    }
    for message in broken(399, f32::INFINITY) {
        assert_eq!(message, "logits contain inf at token 399 (position 3)");
    }
    for message in broken(0, f32::NEG_INFINITY) {
        assert_eq!(message, "logits contain -inf at token 0 (position 3)");
    }
    let all = sample(plain(), &[f32::NAN; 8], &[1]).expect_err("all NaN");
    assert_eq!(all.to_string(), "the logits at position 1 are all NaN");
}

#[test]
fn extreme_but_finite_logits_can_be_sampled() {
    for row in [[f32::MAX, f32::MIN, 0.0], [f32::MIN, f32::MAX, f32::MIN], [0.0, 0.0, f32::MAX]] {
        let best = row.iter().position(|&x| x == f32::MAX).unwrap() as TokenId;
        for params in [plain(), SamplingParams { typical_p: 0.5, top_p: 0.9, min_p: 0.1, ..plain() }] {
            assert_eq!(sample(params, &row, &[]), Ok(best), "{row:?}");
        }
    }
}

#[test]
fn a_draw_depends_on_seed_and_position_alone() {
    let row = logits(&P);
    let params = plain();
    let history = [9; 40];
    let at = |sampler: &mut Sampler, position: usize| sampler.sample(&mut row.clone(), &history[..position]);
    let mut forward = Sampler::new(params.clone());
    let first: Vec<_> = (0..40).map(|p| at(&mut forward, p)).collect();
    // In reverse order, each with a new sampler: the same tokens at the same positions.
    let mut backward = Sampler::new(params.clone());
    for p in (0..40).rev() {
        assert_eq!(at(&mut backward, p), first[p]);
        assert_eq!(at(&mut Sampler::new(params.clone()), p), first[p]);
    }
    let mut other = Sampler::new(SamplingParams { seed: Some(43), ..params });
    assert!((0..40).any(|p| at(&mut other, p) != first[p]));
}

#[test]
fn reported_logprobs_are_those_of_the_model() {
    let params = SamplingParams {
        logprobs: Some(2),
        logit_bias: vec![(1, -100.0)],
        repeat_penalty: 3.0,
        ..SamplingParams::greedy()
    };
    let row = logits(&P);
    let sampled = Sampler::new(params).sample(&mut row.clone(), &[0]).unwrap();
    assert_eq!(sampled.token, 3, "the bias forbids the best token");
    let reported = sampled.logprobs.expect("asked for");
    assert_eq!(reported, logprobs(&row, 3, 2));
    assert_eq!(reported.top.iter().map(|t| t.id).collect::<Vec<_>>(), [1, 3]);
    assert!((reported.chosen.logprob - 0.25f32.ln()).abs() < 1e-5);
}
