//! The order of choices, and which one is recommended: by speed, and by quality where it is worth some speed.

use super::choice::Choice;
use zonda_bench::analyse::predict::quality;
use zonda_bench::analyse::recommend::ALIKE;

/// Better quality is worth this share of the fastest choice's speed.
pub(super) const WORTH: f64 = 0.05;
/// A choice that loses more of its perplexity than this, compared with the best form measured, is recommended only if
/// there is no other.
pub(super) const MOST_LOSS: f64 = 0.05;

/// Sorts the choices, those that fit first, then by decode speed, and marks the recommended one.
pub(super) fn rank(choices: impl Iterator<Item = Choice>) -> Vec<Choice> {
    let mut choices: Vec<Choice> = choices.collect();
    let speed = |c: &Choice| c.decode_tps.unwrap_or(0.0);
    choices.sort_by(|a, b| {
        let order = b.fits.cmp(&a.fits).then(speed(b).total_cmp(&speed(a)));
        order.then(quality(&a.quant).cmp(&quality(&b.quant)))
    });
    let runs = |c: &Choice| c.fits && c.decode_tps.is_some();
    let loses = |c: &Choice| c.quality.as_ref().is_some_and(|q| q.loss > MOST_LOSS);
    let any_ready = choices.iter().any(|c| runs(c) && c.ready);
    let able = |c: &Choice| runs(c) && (c.ready || !any_ready);
    let any_good = choices.iter().any(|c| able(c) && !loses(c));
    let able = |c: &Choice| able(c) && (!loses(c) || !any_good);
    let Some(fastest) = choices.iter().find(|c| able(c)).map(speed) else { return choices };
    let near = |c: &Choice| able(c) && speed(c) >= (1.0 - WORTH) * fastest;
    // Measured perplexities if all have one, otherwise the usual order of the quantisations.
    let measured = choices.iter().filter(|c| near(c)).all(|c| c.quality.is_some());
    let worse = |c: &Choice| match &c.quality {
        Some(found) if measured => (found.loss / ALIKE).round() as usize,
        _ => quality(&c.quant),
    };
    // Among equals the first, which is the fastest.
    if let Some(best) = choices.iter_mut().filter(|c| near(c)).min_by_key(|c| worse(c)) {
        best.recommended = true;
    }
    choices
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonda_bench::analyse::predict::past::MeasuredQuality;

    fn choice(quant: &str, decode_tps: f64, loss: Option<f64>) -> Choice {
        Choice {
            model: "m".into(),
            backend: "native",
            format: "gguf".into(),
            quant: quant.into(),
            weights: quant.into(),
            context: 512,
            weights_bytes: 1,
            kv_bytes: 1,
            memory_bytes: 2,
            fits: true,
            why: None,
            prefill_tps: None,
            decode_tps: Some(decode_tps),
            shares: None,
            basis: None,
            measured: None,
            quality: loss.map(|loss| MeasuredQuality {
                ppl: 10.0 * (1.0 + loss),
                loss,
                kl_mean: None,
                text: "text".into(),
                record: "record".into(),
            }),
            ready: true,
            needs: None,
            command: String::new(),
            recommended: false,
        }
    }

    fn recommended(choices: Vec<Choice>) -> String {
        let ranked = rank(choices.into_iter());
        let marked: Vec<_> = ranked.iter().filter(|c| c.recommended).map(|c| c.quant.clone()).collect();
        assert_eq!(marked.len(), 1, "{marked:?}");
        marked[0].clone()
    }

    #[test]
    fn usual_quality_counts_where_none_was_measured() {
        let all = |q4_k_m| {
            vec![choice("q8_0", 50.0, None), choice("q4_0", 100.0, None), choice("q4_k_m", q4_k_m, None)]
        };
        assert_eq!(recommended(all(96.0)), "q4_k_m");
        assert_eq!(recommended(all(94.0)), "q4_0");
        // one perplexity says nothing of the other
        let one = vec![choice("q4_0", 100.0, Some(0.0)), choice("q4_k_m", 96.0, None)];
        assert_eq!(recommended(one), "q4_k_m");
    }

    #[test]
    fn measured_quality_goes_before_what_is_usual() {
        let all = |of_0, of_k| vec![choice("q4_0", 100.0, Some(of_0)), choice("q4_k_m", 96.0, Some(of_k))];
        assert_eq!(recommended(all(0.030, 0.010)), "q4_k_m");
        assert_eq!(recommended(all(0.010, 0.030)), "q4_0");
        assert_eq!(recommended(all(0.011, 0.010)), "q4_0", "alike, so the faster");
    }

    #[test]
    fn speed_does_not_buy_a_large_loss() {
        let fast = || choice("q2_k", 200.0, Some(0.30));
        assert_eq!(recommended(vec![fast(), choice("q4_k_m", 100.0, Some(0.01))]), "q4_k_m");
        assert_eq!(recommended(vec![fast(), choice("q2_k+q6_k", 190.0, Some(0.20))]), "q2_k+q6_k");
        let large = Choice { fits: false, ..choice("q4_k_m", 100.0, Some(0.01)) };
        assert_eq!(recommended(vec![fast(), large]), "q2_k", "nothing else can be run");
    }
}
