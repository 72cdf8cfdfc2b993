//! Perplexity: how well a model predicts a text, as defined by llama.cpp's tool of that name. It shows the cost of quantised
//! weights or a quantised KV cache.
//!
//! The text's tokens are split into windows of the context's length. Each begins with BOS, if the model adds one to texts, and
//! is evaluated separately. The tokens of a window's second half are scored, so each has at least half a window before it:
//! perplexity = e^(mean of −ln p(token)).

use serde::{Deserialize, Serialize};
use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, BackendError, Batch, Logits, Span, Want};
use zonda_engine::sample::logprobs;
use zonda_engine::tokenize::{Encode, TokenizeError, Tokenizer};

/// Tokens of a window by default.
pub const WINDOW: usize = 512;
/// Shortest window: BOS, a token before the scored one, and that one.
pub const SHORTEST: usize = 4;
/// Maximum rows of logits per forward call, which limits their memory.
const ROWS: usize = 256;

/// Why a text's perplexity can't be computed.
#[derive(Debug, thiserror::Error)]
pub enum PerplexityError {
    /// The text can't be tokenised.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// It is shorter than a window.
    #[error("the text has {tokens} tokens; a window is {window}")]
    TooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// A window that leaves nothing to score.
    #[error("a window of {0} tokens; expected at least {SHORTEST}")]
    Window(usize),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A row of logits with NaN or infinity.
    #[error("window {window}, position {position}: the logits hold a NaN or an infinity")]
    NonFinite {
        /// The window, from 0.
        window: usize,
        /// The position in it.
        position: usize,
    },
    /// The caller's `look` refused the logits.
    #[error("{0}")]
    Refused(String),
}

/// The perplexity of a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// e^(mean of −ln p) over the scored tokens.
    pub ppl: f64,
    /// Its standard error: that of the mean times `ppl`.
    pub stderr: f64,
    /// Tokens scored.
    pub tokens: usize,
}

/// A text's windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    windows: Vec<Vec<TokenId>>,
}

impl Windows {
    /// Tokenises a text, with names of special tokens as plain text, and splits it into at most `most` windows of `length`
    /// tokens. An incomplete window at the end is left out.
    ///
    /// # Errors
    /// If the text is shorter than a window, or a window too short to score anything.
    pub fn of(
        text: &str,
        tokenizer: &Tokenizer,
        length: usize,
        most: Option<usize>,
    ) -> Result<Windows, PerplexityError> {
        if length < SHORTEST {
            return Err(PerplexityError::Window(length));
        }
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let ids = tokenizer.encode(text, Encode { add_bos: bos.is_some(), parse_special: false })?;
        let mut windows: Vec<Vec<TokenId>> =
            ids.chunks_exact(length).take(most.unwrap_or(usize::MAX)).map(<[TokenId]>::to_vec).collect();
        if windows.is_empty() {
            return Err(PerplexityError::TooShort { tokens: ids.len(), window: length });
        }
        if let Some(bos) = bos {
            windows.iter_mut().for_each(|window| window[0] = bos);
        }
        Ok(Windows { windows })
    }

    /// The windows' tokens.
    pub fn tokens(&self) -> &[Vec<TokenId>] {
        &self.windows
    }

    /// The first position of a window whose logits are scored. The last position is not scored: its next token is unknown.
    pub fn first_scored(&self) -> usize {
        self.windows[0].len() / 2
    }

    /// Reads every window in slot 0 of a backend. `look` gets the logits of every scored position, `[vocab]`, in order;
    /// `follow` gets the number of finished windows, and the perplexity so far, after each window.
    ///
    /// # Errors
    /// If the backend fails, logits are not finite, or `look` refuses them.
    pub fn measure(
        &self,
        backend: &mut dyn Backend,
        look: &mut dyn FnMut(&[f32]) -> Result<(), String>,
        follow: &mut dyn FnMut(usize, Perplexity),
    ) -> Result<Perplexity, PerplexityError> {
        let most = backend.limits().batch_tokens;
        let first = self.first_scored();
        let mut logits = Logits::new();
        let mut scores = Scores::default();
        for (w, window) in self.windows.iter().enumerate() {
            backend.truncate(0, 0)?;
            let mut start = 0;
            while start + 1 < window.len() {
                let scored = start >= first;
                // The last token is only predicted.
                let end = if scored { window.len() - 1 } else { first };
                let end = end.min(start + if scored { ROWS.min(most) } else { most });
                let want = if scored { Want::All } else { Want::None };
                let span = Span { slot: 0, start, tokens: &window[start..end], want };
                backend.forward(&Batch { spans: vec![span] }, &mut logits)?;
                if scored {
                    scores
                        .add(&logits, &window[start + 1..=end])
                        .map_err(|row| PerplexityError::NonFinite { window: w, position: start + row })?;
                    (0..logits.rows())
                        .try_for_each(|row| look(logits.row(row)))
                        .map_err(PerplexityError::Refused)?;
                }
                start = end;
            }
            follow(w + 1, scores.perplexity());
        }
        Ok(scores.perplexity())
    }
}

/// Sums over scored tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Scores {
    tokens: usize,
    sum: f64,
    squares: f64,
}

impl Scores {
    /// Scores the token after each row. The error is the first row that is not finite.
    fn add(&mut self, logits: &Logits, next: &[TokenId]) -> Result<(), usize> {
        for (row, &token) in next.iter().enumerate() {
            let nll = surprise(logits.row(row), token).ok_or(row)?;
            self.tokens += 1;
            self.sum += nll;
            self.squares += nll * nll;
        }
        Ok(())
    }

    fn perplexity(&self) -> Perplexity {
        let n = self.tokens as f64;
        let mean = self.sum / n;
        let variance = (self.squares / n - mean * mean).max(0.0);
        let ppl = mean.exp();
        Perplexity { ppl, stderr: ppl * (variance / (n - 1.0).max(1.0)).sqrt(), tokens: self.tokens }
    }
}

/// `−ln p(token)` under a row of logits, `[vocab]`; `None` if one of them is not finite.
fn surprise(row: &[f32], token: TokenId) -> Option<f64> {
    let finite = row.iter().all(|l| l.is_finite());
    finite.then(|| -f64::from(logprobs(row, token, 0).chosen.logprob))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonda_engine::mock::{Fault, FaultKind, Mock, MockOptions};
    use zonda_engine::tokenize::Tokenizer;

    const TEXT: &str = "The warm wind that blows from the east is called zonda. It comes down from the mountains, \
        dry and full of dust, and people close their windows and wait until it has gone over the fields.";

    #[test]
    fn a_tokens_surprise_by_hand() {
        assert!((surprise(&[1.0, 1.0, 1.0, 1.0], 2).unwrap() - 4f64.ln()).abs() < 1e-6);
        let row = [3f32.ln() + 40.0, 40.0];
        assert!((surprise(&row, 0).unwrap() - (4f64 / 3.0).ln()).abs() < 1e-5);
        assert!((surprise(&row, 1).unwrap() - 4f64.ln()).abs() < 1e-5);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(surprise(&[0.0, bad, 1.0], 0), None);
        }
    }

    /// Small batches and whole windows give the same figure, which is also that of a plain loop over the rows.
    #[test]
    fn the_figure_follows_the_formula_for_every_batch_size() {
        let tokenizer = Tokenizer::mock();
        let windows = Windows::of(TEXT, &tokenizer, 16, None).unwrap();
        assert!(windows.tokens().len() > 1 && windows.tokens().iter().all(|w| w.len() == 16));
        assert!(windows.tokens().iter().all(|w| Some(w[0]) == tokenizer.bos()));
        let measure = |batch_tokens| {
            let mut options = MockOptions::default();
            options.limits.batch_tokens = batch_tokens;
            let mut heard = Vec::new();
            let mut rows = 0;
            let found = windows
                .measure(
                    &mut Mock::new(options),
                    &mut |_| {
                        rows += 1;
                        Ok(())
                    },
                    &mut |n, _| heard.push(n),
                )
                .unwrap();
            assert_eq!(heard, (1..=windows.tokens().len()).collect::<Vec<_>>());
            assert_eq!(rows, found.tokens);
            found
        };
        let found = measure(512);
        assert_eq!(found, measure(3));
        assert_eq!(found.tokens, 7 * windows.tokens().len());

        let mut nll = Vec::new();
        for window in windows.tokens() {
            let mut mock = Mock::new(MockOptions::default());
            let mut logits = Logits::new();
            let span = Span { slot: 0, start: 0, tokens: window, want: Want::All };
            mock.forward(&Batch { spans: vec![span] }, &mut logits).unwrap();
            for position in 8..15 {
                let row = logits.row(position);
                let sum: f64 = row.iter().map(|&l| f64::from(l).exp()).sum();
                nll.push(sum.ln() - f64::from(row[window[position + 1] as usize]));
            }
        }
        let n = nll.len() as f64;
        let mean = nll.iter().sum::<f64>() / n;
        let deviation = (nll.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        assert!((found.ppl / mean.exp() - 1.0).abs() < 1e-5, "{found:?}, expected {}", mean.exp());
        assert!((found.stderr / (mean.exp() * deviation / n.sqrt()) - 1.0).abs() < 1e-4, "{found:?}");
    }

    #[test]
    fn texts_that_cannot_be_scored_are_refused() {
        let tokenizer = Tokenizer::mock();
        let error = Windows::of("too short", &tokenizer, 512, None).unwrap_err();
        assert!(matches!(error, PerplexityError::TooShort { window: 512, .. }), "{error}");
        assert!(matches!(Windows::of(TEXT, &tokenizer, 3, None), Err(PerplexityError::Window(3))));
        let windows = Windows::of(TEXT, &tokenizer, 16, Some(1)).unwrap();
        assert_eq!(windows.tokens().len(), 1);
        let faults = vec![Fault::call(1, FaultKind::Nan)];
        let mut mock = Mock::new(MockOptions { faults, ..MockOptions::default() });
        let error = windows.measure(&mut mock, &mut |_| Ok(()), &mut |_, _| ()).unwrap_err();
        assert!(matches!(error, PerplexityError::NonFinite { window: 0, position: 8 }), "{error}");
    }
}
