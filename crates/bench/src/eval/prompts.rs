//! The token sequences on which backends are compared, and how a backend evaluates them: a prompt in batches, then an answer
//! token by token, as in normal use. The caller gets the logits of every position.

use crate::rng::Rng;
use serde::{Deserialize, Serialize};
use zonda_engine::forward::{Backend, BackendError, Batch, Logits, Span, Want};
use zonda_engine::tokenize::Message;
use zonda_engine::{Prompt, RequestError, TextProcessor, TokenId};

/// Prompt tokens per forward call, which limits the memory for their logits.
const CHUNK: usize = 64;
/// Tokens of a random prompt, for a model without a tokenizer.
const RANDOM_TOKENS: usize = 64;

/// The project's own requests, in order.
const CONVERSATIONS: &str = include_str!("../../data/eval_prompts.toml");

/// A prompt and, once a backend has generated it, the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvalPrompt {
    /// Never empty.
    pub prompt: Vec<TokenId>,
    /// The generated answer.
    pub answer: Vec<TokenId>,
}

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
pub enum WalkError<E> {
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The caller's `look` refused the logits.
    #[error("{0}")]
    Refused(E),
}

/// The file of requests.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    conversation: Vec<Conversation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Conversation {
    system: Option<String>,
    user: String,
}

impl EvalPrompt {
    /// All prompts for a model: conversations in its chat template, as plain text without a template, or random ids below `vocab`
    /// without a tokenizer.
    ///
    /// # Errors
    /// If templating or tokenising fails.
    pub fn all(text: Option<&TextProcessor>, vocab: usize) -> Result<Vec<EvalPrompt>, RequestError> {
        let file: File = toml::from_str(CONVERSATIONS).expect("a test reads the embedded file");
        let mut rng = Rng::new(0, 0x7e57);
        file.conversation
            .into_iter()
            .map(|conversation| {
                let prompt = match text {
                    None => (0..RANDOM_TOKENS).map(|_| rng.below(vocab) as TokenId).collect(),
                    Some(text) => conversation.prompt(text).encode(Some(text))?,
                };
                Ok(EvalPrompt { prompt, answer: Vec::new() })
            })
            .collect()
    }

    /// The first prompts with at most `positions` tokens in total; the last `answer` tokens of each are its answer, which a
    /// backend reads token by token. For comparing backends with logits that were computed for all positions at once.
    ///
    /// # Errors
    /// As [`EvalPrompt::all`].
    pub fn fixed(
        text: Option<&TextProcessor>,
        vocab: usize,
        positions: usize,
        answer: usize,
    ) -> Result<Vec<EvalPrompt>, RequestError> {
        let mut left = positions;
        let mut passages = Vec::new();
        for mut passage in EvalPrompt::all(text, vocab)? {
            passage.prompt.truncate(left);
            left -= passage.prompt.len();
            if !passage.prompt.is_empty() {
                passage.answer = passage.prompt.split_off(passage.prompt.len().saturating_sub(answer).max(1));
                passages.push(passage);
            }
        }
        Ok(passages)
    }

    /// The tokens of prompt and answer.
    pub fn tokens(&self) -> Vec<TokenId> {
        self.prompt.iter().chain(&self.answer).copied().collect()
    }

    /// The number of tokens of prompt and answer.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.answer.len()
    }

    /// True for a prompt without tokens; this crate makes no such prompts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs the prompt in slot 0 of a backend and passes the logits of every position to `look`, in order, `[vocab]` each.
    /// With `extend`, the answer is first generated greedily: at most this many tokens, until one of `ends`.
    ///
    /// # Errors
    /// The errors of the backend and of `look`.
    pub fn walk<E>(
        &mut self,
        backend: &mut dyn Backend,
        extend: Option<(usize, &[TokenId])>,
        look: &mut dyn FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), WalkError<E>> {
        backend.truncate(0, 0)?;
        let mut logits = Logits::new();
        let mut best = 0;
        let mut start = 0;
        let mut run = |tokens: &[TokenId], best: &mut TokenId| {
            let span = Span { slot: 0, start, tokens, want: Want::All };
            backend.forward(&Batch { spans: vec![span] }, &mut logits)?;
            start += tokens.len();
            for row in 0..logits.rows() {
                look(logits.row(row)).map_err(WalkError::Refused)?;
            }
            *best = largest(logits.row(logits.rows() - 1));
            Ok::<_, WalkError<E>>(())
        };
        for tokens in self.prompt.chunks(CHUNK) {
            run(tokens, &mut best)?;
        }
        if let Some((most, ends)) = extend {
            self.answer.clear();
            while self.answer.len() < most && !ends.contains(&best) {
                self.answer.push(best);
                run(&[best], &mut best)?;
            }
            return Ok(());
        }
        self.answer.iter().try_for_each(|&token| run(&[token], &mut best))
    }
}

impl Conversation {
    fn prompt(self, text: &TextProcessor) -> Prompt {
        if text.template.is_none() {
            return Prompt::Text(self.system.into_iter().map(|s| s + "\n\n").chain([self.user]).collect());
        }
        let system = self.system.map(|system| Message::new("system", system));
        Prompt::chat(system.into_iter().chain([Message::new("user", self.user)]).collect())
    }
}

/// The token with the largest logit; among equals the lowest id.
fn largest(row: &[f32]) -> TokenId {
    let mut best = 0;
    for (i, logit) in row.iter().enumerate() {
        if *logit > row[best] {
            best = i;
        }
    }
    best as TokenId
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonda_engine::mock::{Mock, MockOptions};

    fn rows(passage: &mut EvalPrompt, extend: Option<(usize, &[TokenId])>) -> Vec<TokenId> {
        let mut backend = Mock::new(MockOptions::default());
        let mut best = Vec::new();
        let looked = passage.walk(&mut backend, extend, &mut |row| {
            best.push(largest(row));
            Ok::<_, std::convert::Infallible>(())
        });
        looked.unwrap();
        best
    }

    #[test]
    fn an_answer_follows_the_logits_and_is_evaluated_again() {
        let text = TextProcessor::mock();
        let passages = EvalPrompt::all(Some(&text), 0).unwrap();
        assert!(passages.len() >= 20);
        let mut passage = passages[0].clone();
        let first = rows(&mut passage, Some((10, &[])));
        assert_eq!((passage.answer.len(), first.len()), (10, passage.len()));
        assert_eq!(passage.answer, first[passage.prompt.len() - 1..][..10]);
        assert_eq!(rows(&mut passage, None), first);
        // Generation stops before an end token.
        let end = passage.answer[3];
        let until = passage.answer.iter().position(|&t| t == end).unwrap();
        rows(&mut passage, Some((10, &[end])));
        assert_eq!(passage.answer.len(), until);
    }

    #[test]
    fn without_a_tokenizer_prompts_are_random_and_always_the_same() {
        let passages = EvalPrompt::all(None, 50).unwrap();
        assert!(passages.iter().all(|p| p.len() == RANDOM_TOKENS && p.prompt.iter().all(|&t| t < 50)));
        assert_ne!(passages[0], passages[1]);
        assert_eq!(passages, EvalPrompt::all(None, 50).unwrap());
    }

    #[test]
    fn a_refusal_ends_the_evaluation() {
        let mut passage = EvalPrompt { prompt: vec![1, 2, 3], answer: vec![4] };
        let mut seen = 0;
        let walked = passage.walk(&mut Mock::new(MockOptions::default()), None, &mut |_| {
            seen += 1;
            if seen == 2 { Err("enough") } else { Ok(()) }
        });
        assert!(matches!(walked, Err(WalkError::Refused("enough"))), "{walked:?}");
        assert_eq!(seen, 2);
    }
}
