//! Speculative decoding: several tokens per step, and exactly those that would have come one by one.
//!
//! A step that computes a few tokens costs little more than a step with a single one: both read all weights. So the tokens
//! that are expected next (a *draft*) are computed together with the last one, in one span that wants logits of every
//! position, and each position is sampled as usual. While the sampled token equals the drafted one, the next row of logits
//! belongs to the true sequence. The first difference ends the step, and the rest of the draft is cut from the slot (Leviathan
//! et al. 2023, Chen et al. 2023).
//!
//! # Exactness
//! The request's own sampler draws every token from the model's logits; the draft only decides how many are drawn in one step.
//! So there is no rejection sampling: the papers accept a drafted token with a probability and correct the distribution after
//! a rejection, while here the token is drawn first and the draft is right or wrong. A deterministic draft (n-gram) is
//! accepted equally often in both schemes: with the probability that the model gives it. A draw is a function of seed and
//! position ([`crate::sample`]), so not only the distribution but the tokens are the same, if the backend's logits do not
//! depend on the batch. Penalties, grammars, stop strings and log-probabilities are unaffected.
//! A draft model draws with the same seed at the same position, so it predicts sampled text nearly as well as greedy text.
//!
//! # Where drafts come from
//! * [`ngram`]: the tokens that followed the last occurrence of the current ones in the prompt or the answer;
//! * a draft model: a smaller model with the same tokenizer, which the worker runs.
//!
//! # How many
//! [`draft_length`] chooses the lengths, over all sequences together, with the highest expected tokens per second, from the
//! acceptance so far ([`draft_length::Acceptance`]) and the cost of a step ([`cost::Costs`]). If drafting does not pay, nothing is
//! drafted. Even then n-gram guesses are compared with the sampled tokens, which costs nothing, and a draft model is tried
//! again from time to time.
//!
//! Nothing in this module reads a clock: the worker does.

pub mod cost;
pub mod draft_length;
pub mod ngram;

use crate::TokenId;
use crate::schedule::SeqId;
use cost::Costs;
use draft_length::{Acceptance, Candidate, choose};
use ngram::Ngram;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The source of a request's drafts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speculate {
    /// No drafts: one token per step.
    #[default]
    Off,
    /// From the request's own tokens.
    Ngram,
    /// From the engine's draft model.
    Draft,
}

impl Speculate {
    /// The name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Speculate::Off => "off",
            Speculate::Ngram => "ngram",
            Speculate::Draft => "draft",
        }
    }
}

/// The default maximum length of a draft, in tokens.
pub const DRAFT_MAX: usize = 16;

/// Upper bounds of the classes of match lengths: the longer a match, the likelier it continues.
const BOUNDS: [usize; 8] = [2, 3, 4, 6, 9, 15, 24, usize::MAX];
/// The prior probability that a match of each class continues. Rather too low: a higher value is found at no cost, from guesses
/// that were not verified.
const NGRAM_PRIOR: [f64; 8] = [0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.85];
/// The prior probability that a draft model's token is right.
const DRAFT_PRIOR: f64 = 0.7;
/// Steps after which a draft model that did not pay is tried again; doubled after each failure.
const PATIENCE: u32 = 16;
const MOST_PATIENCE: u32 = 1024;
/// Tokens that it drafts in such a trial.
const TRIAL: usize = 2;
/// The rate at which the estimated cost of drafting follows the measurements.
const DRAFTING_RATE: f64 = 0.1;

fn class(matched: usize) -> usize {
    BOUNDS.iter().position(|&bound| matched <= bound).unwrap_or(BOUNDS.len() - 1)
}

/// A sequence that will decode in the next step.
#[derive(Clone, Copy, Debug)]
pub struct DraftRequest<'a> {
    /// The sequence.
    pub id: SeqId,
    /// Its prompt and answer as the model sees them.
    pub tokens: &'a [TokenId],
    /// The same including tokens dropped by context shifts.
    pub text: &'a [TokenId],
    /// The maximum number of tokens that can be verified for it.
    pub room: usize,
}

/// The drafts of all sequences of one engine.
#[derive(Debug)]
pub struct Speculator {
    least: usize,
    most: usize,
    costs: Costs,
    /// There is a draft model and it has not failed.
    has_draft_model: bool,
    /// Seconds that the draft model takes for one token of every sequence it drafts for.
    drafting: f64,
    /// Acceptance over all sequences: the prior of a new one.
    matches: Acceptance<8>,
    drafts: Acceptance<1>,
    sequences: HashMap<SeqId, Guesser>,
}

#[derive(Debug)]
struct Guesser {
    source: Source,
    /// The tokens expected next, not yet compared with the sampled ones.
    guess: VecDeque<TokenId>,
    /// How many tokens before the guess match.
    matched: usize,
    /// How many tokens of the guess the next step verifies.
    length: usize,
}

#[derive(Debug)]
enum Source {
    Ngram { index: Ngram, seen: Acceptance<8> },
    Draft { seen: Acceptance<1>, idle: u32, patience: u32 },
}

impl Speculator {
    /// Drafts of at most `most` tokens each, and of at least `least` if that many are guessed, even if they do not pay.
    pub fn new(least: usize, most: usize, costs: Costs, has_draft_model: bool) -> Speculator {
        Speculator {
            least,
            most,
            costs,
            has_draft_model,
            drafting: 0.0,
            matches: Acceptance::default(),
            drafts: Acceptance::default(),
            sequences: HashMap::new(),
        }
    }

    /// Whether there is a draft model that has not failed.
    pub fn has_draft_model(&self) -> bool {
        self.has_draft_model
    }

    /// The estimated cost of steps.
    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// A sequence begins and uses speculation.
    pub fn begin(&mut self, id: SeqId, how: Speculate) {
        let source = match how {
            Speculate::Off => return,
            Speculate::Ngram => Source::Ngram { index: Ngram::default(), seen: Acceptance::default() },
            Speculate::Draft => Source::Draft { seen: Acceptance::default(), idle: 0, patience: PATIENCE },
        };
        self.sequences.insert(id, Guesser { source, guess: VecDeque::new(), matched: 0, length: 0 });
    }

    /// A sequence has ended.
    pub fn end(&mut self, id: SeqId) {
        self.sequences.remove(&id);
    }

    /// Whether no sequence uses speculation.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Whether a sequence uses speculation.
    pub fn knows(&self, id: SeqId) -> bool {
        self.sequences.contains_key(&id)
    }

    /// Looks up n-gram drafts and decides how many tokens of each sequence to verify in a step with `decoding` sequences.
    /// True: the draft model has to make some of them ([`Speculator::wanted_drafts`]).
    pub fn plan(&mut self, requests: &[DraftRequest<'_>], decoding: usize) -> bool {
        let mut candidates = Vec::with_capacity(requests.len());
        for request in requests {
            let Some(guesser) = self.sequences.get_mut(&request.id) else {
                candidates.push(Candidate { chances: Vec::new(), drafting: 0.0 });
                continue;
            };
            let most = request.room.min(self.most);
            guesser.guess.clear();
            candidates.push(match &mut guesser.source {
                Source::Ngram { index, seen } => {
                    let mut found = Vec::new();
                    // A guess that can't be verified is still compared with the sampled token.
                    guesser.matched = index.propose(request.text, most.max(1), &mut found);
                    guesser.guess.extend(found);
                    let matches = &self.matches;
                    let mut chance = 1.0;
                    let chances = (0..most.min(guesser.guess.len())).map(|i| {
                        let class = class(guesser.matched + i);
                        chance *= seen.of(class, matches.of(class, NGRAM_PRIOR[class]));
                        chance
                    });
                    Candidate { chances: chances.collect(), drafting: 0.0 }
                }
                Source::Draft { seen, .. } => {
                    let most = if self.has_draft_model { most } else { 0 };
                    let p = seen.of(0, self.drafts.of(0, DRAFT_PRIOR));
                    let chances = (1..=most).map(|i| p.powi(i as i32));
                    Candidate { chances: chances.collect(), drafting: self.drafting }
                }
            });
        }
        let lengths = choose(&self.costs, decoding, &candidates);
        let mut drafts = false;
        for (request, length) in requests.iter().zip(lengths) {
            let Some(guesser) = self.sequences.get_mut(&request.id) else { continue };
            let guessed = match &guesser.source {
                Source::Ngram { .. } => guesser.guess.len(),
                Source::Draft { .. } if self.has_draft_model => self.most,
                Source::Draft { .. } => 0,
            };
            guesser.length = length.max(self.least.min(guessed).min(request.room).min(self.most));
            if let Source::Draft { idle, patience, .. } = &mut guesser.source {
                if guesser.length > 0 {
                    (*idle, *patience) = (0, PATIENCE);
                } else {
                    *idle += 1;
                    if *idle >= *patience && self.has_draft_model {
                        guesser.length = TRIAL.min(request.room).min(self.most);
                        (*idle, *patience) = (0, (*patience * 2).min(MOST_PATIENCE));
                    }
                }
                drafts |= guesser.length > 0;
            }
        }
        drafts
    }

    /// The sequences for which the draft model has to make drafts, as [`Speculator::plan`] decided, and how many tokens of each;
    /// oldest first.
    pub fn wanted_drafts(&self) -> Vec<(SeqId, usize)> {
        let wants = |g: &Guesser| matches!(g.source, Source::Draft { .. }) && g.length > 0;
        let wanted = self.sequences.iter().filter(|(_, guesser)| wants(guesser));
        let mut wanted: Vec<_> = wanted.map(|(&id, guesser)| (id, guesser.length)).collect();
        wanted.sort_unstable();
        wanted
    }

    /// The draft model has drafted these tokens for a sequence: as many as were wanted, or fewer.
    pub fn drafted(&mut self, id: SeqId, tokens: Vec<TokenId>) {
        if let Some(guesser) = self.sequences.get_mut(&id) {
            guesser.length = tokens.len();
            guesser.guess.extend(tokens);
        }
    }

    /// The draft model failed: nothing more is drafted with it.
    pub fn draft_model_failed(&mut self) {
        self.has_draft_model = false;
        for guesser in self.sequences.values_mut().filter(|g| matches!(g.source, Source::Draft { .. })) {
            guesser.length = 0;
        }
    }

    /// The tokens of a sequence for the next step to verify.
    pub fn proposal(&self, id: SeqId) -> impl Iterator<Item = TokenId> {
        let guesser = self.sequences.get(&id);
        guesser.into_iter().flat_map(|g| g.guess.iter().copied().take(g.length))
    }

    /// Records a sampled token of a sequence.
    pub fn saw(&mut self, id: SeqId, token: TokenId) {
        let Some(guesser) = self.sequences.get_mut(&id) else { return };
        let Some(&expected) = guesser.guess.front() else { return };
        let right = expected == token;
        match &mut guesser.source {
            Source::Ngram { seen, .. } => {
                let class = class(guesser.matched);
                seen.saw(class, right);
                self.matches.saw(class, right);
            }
            Source::Draft { seen, .. } => {
                seen.saw(0, right);
                self.drafts.saw(0, right);
            }
        }
        if right {
            guesser.guess.pop_front();
            guesser.matched += 1;
        } else {
            guesser.guess.clear();
        }
    }

    /// Records the time of a step of `tokens` tokens, all of them decodes or drafts.
    pub fn step_took(&mut self, tokens: usize, took: Duration) {
        self.costs.took(tokens, took);
    }

    /// Records the time of `rounds` forward calls of the draft model.
    pub fn drafting_took(&mut self, rounds: usize, took: Duration) {
        if rounds > 0 {
            let each = took.as_secs_f64() / rounds as f64;
            let rate = if self.drafting == 0.0 { 1.0 } else { DRAFTING_RATE };
            // One long delay has some other cause: it is capped.
            let each = if self.drafting > 0.0 { each.min(2.0 * self.drafting) } else { each };
            self.drafting += rate * (each - self.drafting);
        }
    }
}
