//! Speculative decoding: several tokens a step, and exactly those that would have come one by one.
//!
//! A step that computes a few tokens costs little more than one that computes a single one: both read all weights. So the
//! tokens that are expected next (a *draft*) go through the model with the last one, in one span that wants logits of every
//! position, and each is then sampled as always. As long as the sampled token is the drafted one, the next row of logits
//! is that of the true sequence; the first other one ends the step, and what was drafted beyond is cut from the slot
//! (Leviathan et al. 2023 and Chen et al. 2023 had the idea).
//!
//! # Exactness
//! Every token is drawn by the request's own sampler from the model's logits after the tokens before it; the draft
//! decides only how many are drawn in one step. That needs no rejection sampling: where the papers accept a drafted token
//! with a probability and repair the distribution after a refusal, here the token is drawn first and the draft is
//! right or not. A draft that is certain (n-gram) is accepted as often either way: with the probability that the model
//! gives it. And as a draw is a function of seed and position ([`crate::sample`]), not only the distribution is the same
//! but the tokens are, wherever the backend's logits do not depend on the batch. Penalties, grammars, stop strings and
//! log-probabilities work as ever, since nothing about sampling has changed.
//! A draft model draws with the same seed at the same position, so that it guesses a sampled text nearly as well as a greedy
//! one.
//!
//! # Where drafts come from
//! * [`ngram`]: what followed the last time that these tokens stood in the prompt or the answer;
//! * a draft model: a smaller model with the same tokenizer, which the worker runs.
//!
//! # How many
//! [`draft_length`] chooses those lengths, over all sequences together, that promise most tokens per second: by what was accepted
//! so far ([`draft_length::Acceptance`]) and by what a step costs ([`cost::Costs`]). Where nothing pays, nothing is drafted. n-gram
//! guesses are compared with what comes even then, which costs nothing; a draft model is tried again now and then.
//!
//! Nothing in this room reads a clock: the worker does.

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

/// Where a request's drafts come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speculate {
    /// Nowhere: a token a step.
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

/// Most tokens of one draft unless told.
pub const DRAFT_MAX: usize = 16;

/// Match lengths up to each bound are a class: the longer a match, the likelier it goes on.
const BOUNDS: [usize; 8] = [2, 3, 4, 6, 9, 15, 24, usize::MAX];
/// How likely a match of each class goes on, before anything is known. Rather too low: that it is higher is found out for
/// nothing, from guesses that were not verified.
const NGRAM_PRIOR: [f64; 8] = [0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.85];
/// How likely a draft model is right, before anything is known.
const DRAFT_PRIOR: f64 = 0.7;
/// Steps after which a draft model that didn't pay is tried again, at first; then twice as many, and so on.
const PATIENCE: u32 = 16;
const MOST_PATIENCE: u32 = 1024;
/// Tokens that it drafts then.
const TRIAL: usize = 2;
/// How fast the cost of drafting follows what it took.
const DRAFTING_RATE: f64 = 0.1;

fn class(matched: usize) -> usize {
    BOUNDS.iter().position(|&bound| matched <= bound).unwrap_or(BOUNDS.len() - 1)
}

/// A sequence that will decode in the next step.
#[derive(Clone, Copy, Debug)]
pub struct DraftRequest<'a> {
    /// Which.
    pub id: SeqId,
    /// Its prompt and answer as the model has them.
    pub tokens: &'a [TokenId],
    /// The same with what a full context has dropped.
    pub text: &'a [TokenId],
    /// Most tokens that can be verified for it.
    pub room: usize,
}

/// All that is guessed for the sequences of one engine.
#[derive(Debug)]
pub struct Speculator {
    least: usize,
    most: usize,
    costs: Costs,
    /// A draft model is there and has not failed.
    has_draft_model: bool,
    /// Seconds that the draft model takes for a token of each sequence it drafts for.
    drafting: f64,
    /// What was right, over all sequences: what is thought of a new one.
    matches: Acceptance<8>,
    drafts: Acceptance<1>,
    sequences: HashMap<SeqId, Guesser>,
}

#[derive(Debug)]
struct Guesser {
    source: Source,
    /// What is expected next and was not yet compared with what came.
    guess: VecDeque<TokenId>,
    /// How many tokens in front of the guess match.
    matched: usize,
    /// How many tokens of the guess are to be verified.
    length: usize,
}

#[derive(Debug)]
enum Source {
    Ngram { index: Ngram, seen: Acceptance<8> },
    Draft { seen: Acceptance<1>, idle: u32, patience: u32 },
}

impl Speculator {
    /// Drafts of at most `most` tokens each, and at least `least` where so many are guessed, whether they pay or not.
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

    /// A draft model is there and has not failed.
    pub fn has_draft_model(&self) -> bool {
        self.has_draft_model
    }

    /// What steps are thought to cost.
    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// A sequence speculates from now on.
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

    /// No sequence speculates.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Whether a sequence does.
    pub fn knows(&self, id: SeqId) -> bool {
        self.sequences.contains_key(&id)
    }

    /// Looks up what can be, and decides how many tokens of each sequence to verify in a step with `decoding` sequences.
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
                    // What can't be verified is still compared with what comes.
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

    /// The tokens of a sequence that the next step is to verify.
    pub fn proposal(&self, id: SeqId) -> impl Iterator<Item = TokenId> {
        let guesser = self.sequences.get(&id);
        guesser.into_iter().flat_map(|g| g.guess.iter().copied().take(g.length))
    }

    /// A token of a sequence was sampled.
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

    /// A step of `tokens` tokens, all of them decodes or drafts, took so long.
    pub fn step_took(&mut self, tokens: usize, took: Duration) {
        self.costs.took(tokens, took);
    }

    /// So many forward calls of the draft model took so long.
    pub fn drafting_took(&mut self, rounds: usize, took: Duration) {
        if rounds > 0 {
            let each = took.as_secs_f64() / rounds as f64;
            let rate = if self.drafting == 0.0 { 1.0 } else { DRAFTING_RATE };
            // Being held up once by something else says little.
            let each = if self.drafting > 0.0 { each.min(2.0 * self.drafting) } else { each };
            self.drafting += rate * (each - self.drafting);
        }
    }
}
