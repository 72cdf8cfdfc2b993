//! The mock backend: deterministic, for tests and for measuring the overhead of the engine itself.
//!
//! Its logits are a pure function of the seed and of the tokens in the slot: a hash of the whole history picks a few words
//! with high logits. So its text never loops and does not depend on batching, and a token computed at the wrong position or
//! in the wrong slot changes everything after it.
//!
//! It also checks the trait's rules: it refuses a batch that breaks one or for which there is no KV memory left, and a slot
//! that was not emptied after a failed call.

use crate::TokenId;
use crate::forward::{
    Backend, BackendError, BackendInfo, Batch, BatchError, Limits, Logits, Slot, Span, Want,
};
use crate::load::{Architecture, Extras, ModelSpec, Rope, RopePairing, RopeScaling};
use crate::tokenize::Tokenizer;
use std::sync::LazyLock;
use std::time::Duration;
use zonda_kernels::random::Stream;

/// The options of a mock. The default has no delays, no faults, and room for 8 sequences of 8192 tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct MockOptions {
    /// The seed of the text.
    pub seed: u64,
    /// Sleep in each step that ends a slot's first prefill.
    pub ttft: Duration,
    /// Sleep in each step that decodes, for any number of slots.
    pub per_token: Duration,
    /// The end-of-sequence token is the most probable one once in this many tokens; 0: never.
    pub end_every: u64,
    /// Its capacity.
    pub limits: Limits,
    /// How much of a prefix survives truncation and sharing.
    pub prefix: PrefixSupport,
    /// Faults to inject, for tests.
    pub faults: Vec<Fault>,
}

impl Default for MockOptions {
    fn default() -> MockOptions {
        MockOptions {
            seed: 0,
            ttft: Duration::ZERO,
            per_token: Duration::ZERO,
            end_every: 64,
            limits: Limits { slots: 8, batch_tokens: 512, context: 8192, kv_tokens: 8 * 8192, kv_page: 16 },
            prefix: PrefixSupport::Tokens,
            faults: Vec::new(),
        }
    }
}

/// How finely a slot's tokens can be cut; backends differ in this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixSupport {
    /// At any token.
    Tokens,
    /// At whole KV pages when sharing, at any token when truncating.
    Pages,
    /// Truncating at any token; no sharing.
    TruncateOnly,
    /// Not at all: truncating a slot empties it.
    Never,
}

/// A fault in forward calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The calls that have it.
    pub when: When,
    /// The kind of fault.
    pub kind: FaultKind,
}

impl Fault {
    /// A fault in one call, counted from 0.
    pub fn call(call: usize, kind: FaultKind) -> Fault {
        Fault { when: When::Call(call), kind }
    }

    /// A fault in every call that computes a token. The mock generates words with a space in front, so it never generates the
    /// token of a single byte.
    pub fn token(token: TokenId, kind: FaultKind) -> Fault {
        Fault { when: When::Token(token), kind }
    }
}

/// Which forward calls have a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The one with this number, counted from 0.
    Call(usize),
    /// Each one that computes this token.
    Token(TokenId),
}

/// How a forward call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// It returns an error after changing the slots.
    Error,
    /// It panics after changing the slots.
    Panic,
    /// The first row of logits holds a NaN; with [`When::Token`], all rows from that token on in its sequence.
    Nan,
    /// As [`FaultKind::Nan`], with an infinity.
    Infinity,
    /// It takes this much longer.
    Slow(Duration),
    /// It never returns.
    Hang,
}

/// What one slot holds: after each token, the hash of all tokens up to it.
#[derive(Clone, Debug, Default)]
struct SlotState {
    hashes: Vec<u64>,
    /// The length at its first logits, where decoding starts.
    decodes_from: Option<usize>,
    /// A call failed: the slot has to be emptied before it is used again.
    broken: bool,
    /// The position from which on its rows hold this value.
    spoiled: Option<(usize, f32)>,
}

/// The tokens of a mock's text.
struct Vocabulary {
    size: usize,
    /// Words with a space in front.
    words: Vec<TokenId>,
    end: TokenId,
}

static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
    let tokenizer = Tokenizer::mock();
    let size = tokenizer.vocab_size();
    let is_word = |&id: &TokenId| {
        tokenizer.token_bytes(id).is_some_and(|bytes| bytes.len() > 1 && bytes.starts_with(b" "))
    };
    let words = (0..size as TokenId).filter(is_word).collect();
    Vocabulary { size, words, end: tokenizer.eos().unwrap_or(0) }
});

/// The mock backend. See the [module's page](self).
#[derive(Debug)]
pub struct Mock {
    options: MockOptions,
    spec: ModelSpec,
    slots: Vec<SlotState>,
    /// Forward calls so far.
    calls: usize,
}

impl Mock {
    /// A mock with empty slots.
    pub fn new(options: MockOptions) -> Mock {
        let slots = vec![SlotState::default(); options.limits.slots];
        Mock { spec: spec(options.limits.context), options, slots, calls: 0 }
    }

    /// How many tokens a slot holds; 0 if there is no such slot.
    pub fn held(&self, slot: Slot) -> usize {
        self.slots.get(slot).map_or(0, |s| s.hashes.len())
    }

    /// KV pages that no slot holds.
    pub fn free_pages(&self) -> usize {
        let limits = &self.options.limits;
        let used: usize = self.slots.iter().map(|s| s.hashes.len().div_ceil(limits.kv_page)).sum();
        limits.kv_tokens / limits.kv_page - used
    }

    fn check(&self, batch: &Batch<'_>) -> Result<(), BackendError> {
        let limits = &self.options.limits;
        batch.check(limits, self.spec.vocab_size, |slot| self.held(slot))?;
        let pages = |tokens: usize| tokens.div_ceil(limits.kv_page);
        let needed = batch.spans.iter().map(|s| pages(s.start + s.tokens.len()) - pages(s.start)).sum();
        let free = self.free_pages();
        if needed > free {
            return Err(BatchError::KvFull { needed, free }.into());
        }
        match batch.spans.iter().find(|s| self.slots[s.slot].broken) {
            Some(s) => {
                Err(BackendError::Failed(format!("slot {} was not emptied after a failed call", s.slot)))
            }
            None => Ok(()),
        }
    }

    /// How long this step takes: a first answer costs `ttft`, a decode `per_token`.
    fn delay(&self, batch: &Batch<'_>) -> Duration {
        let mut wanted = batch.spans.iter().filter(|s| s.want != Want::None);
        let decodes = |s: &Span<'_>| self.slots[s.slot].decodes_from.is_some();
        let decode = wanted.clone().any(decodes);
        let first = !wanted.all(decodes);
        let ttft = if first { self.options.ttft } else { Duration::ZERO };
        let per_token = if decode { self.options.per_token } else { Duration::ZERO };
        ttft + per_token
    }

    fn slot_mut(&mut self, slot: Slot) -> Result<&mut SlotState, BackendError> {
        let slots = self.slots.len();
        self.slots.get_mut(slot).ok_or(BackendError::NoSuchSlot { slot, slots })
    }

    /// Appends a span to its slot and writes its rows of logits, `[rows, vocab]`.
    fn extend(&mut self, span: &Span<'_>, rows: &mut [f32]) {
        let Mock { options, slots, .. } = self;
        let state = &mut slots[span.slot];
        let mut rows = rows.chunks_exact_mut(VOCABULARY.size);
        for (i, &token) in span.tokens.iter().enumerate() {
            let before = state.hashes.last().copied().unwrap_or(options.seed);
            let hash = mix(before ^ mix(u64::from(token)));
            state.hashes.push(hash);
            for fault in options.faults.iter().filter(|fault| fault.when == When::Token(token)) {
                if let Some(value) = fault.kind.value() {
                    state.spoiled.get_or_insert((span.start + i, value));
                }
            }
            if span.wanted().contains(&i) {
                state.decodes_from.get_or_insert(span.start + i + 1);
                if let Some(row) = rows.next() {
                    write_row(hash, options.end_every, row);
                    if let Some((_, value)) = state.spoiled {
                        row[0] = value;
                    }
                }
            }
        }
    }
}

/// Six words get high logits of random height; the rest of the vocabulary is improbable. Sometimes the end token wins.
fn write_row(hash: u64, end_every: u64, row: &mut [f32]) {
    let Vocabulary { words, end, .. } = &*VOCABULARY;
    row.fill(-12.0);
    let mut random = hash;
    for _ in 0..6 {
        random = mix(random);
        let word = words[(random >> 32) as usize % words.len()];
        row[word as usize] = (random as u32) as f32 / u32::MAX as f32 * 4.0;
    }
    if mix(random).checked_rem(end_every) == Some(0) {
        row[*end as usize] = 6.0;
    }
}

/// A number that follows from another and looks random.
fn mix(x: u64) -> u64 {
    Stream(x).bits()
}

impl Backend for Mock {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: "mock".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            device: "cpu".into(),
            isa: String::new(),
            threads: 1,
            weights: String::new(),
            kv_type: String::new(),
        }
    }

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn limits(&self) -> Limits {
        self.options.limits
    }

    fn forward(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<(), BackendError> {
        self.check(batch)?;
        let delay = self.delay(batch);
        out.reset(batch.rows(), VOCABULARY.size);
        let mut rows = out.as_mut_slice();
        for span in &batch.spans {
            let (own, rest) = rows.split_at_mut(span.rows() * VOCABULARY.size);
            self.extend(span, own);
            rows = rest;
        }
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let call = self.calls;
        self.calls += 1;
        for fault in self.options.faults.clone() {
            match fault.when {
                When::Call(number) if number == call => self.fail(fault.kind, batch, out)?,
                // Faults with a value have changed the rows already.
                When::Token(token)
                    if fault.kind.value().is_none()
                        && batch.spans.iter().any(|s| s.tokens.contains(&token)) =>
                {
                    self.fail(fault.kind, batch, out)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, len: usize) -> Result<usize, BackendError> {
        let support = self.options.prefix;
        let state = self.slot_mut(slot)?;
        let cut = len < state.hashes.len();
        let len = if cut && support == PrefixSupport::Never { 0 } else { len };
        state.hashes.truncate(len);
        state.decodes_from = state.decodes_from.filter(|&from| from <= len);
        state.broken &= len > 0;
        state.spoiled = state.spoiled.filter(|&(at, _)| at < len);
        Ok(state.hashes.len())
    }

    fn share_prefix(&mut self, from: Slot, to: Slot, len: usize) -> Result<usize, BackendError> {
        let Limits { kv_page, .. } = self.options.limits;
        let len = match self.options.prefix {
            PrefixSupport::Tokens => len,
            PrefixSupport::Pages => len - len % kv_page,
            PrefixSupport::TruncateOnly | PrefixSupport::Never => 0,
        };
        let room = self.free_pages() * kv_page;
        let source = self.slot_mut(from)?;
        let shared: Vec<u64> = source.hashes.iter().take(len.min(room)).copied().collect();
        let spoiled = source.spoiled.filter(|&(at, _)| at < shared.len());
        self.options.limits.check_empty(to, |to| self.held(to))?;
        let target = self.slot_mut(to)?;
        (target.hashes, target.spoiled) = (shared, spoiled);
        Ok(target.hashes.len())
    }

    fn export_kv(&mut self, slot: Slot, len: usize, out: &mut Vec<u8>) -> Result<usize, BackendError> {
        let seed = self.options.seed;
        let held = &self.slot_mut(slot)?.hashes;
        let hashes =
            held.get(..len).ok_or_else(|| BackendError::Failed(format!("slot {slot} holds less")))?;
        out.extend(seed.to_le_bytes());
        out.extend(hashes.iter().flat_map(|hash| hash.to_le_bytes()));
        Ok(len)
    }

    fn import_kv(&mut self, slot: Slot, len: usize, from: &[u8]) -> Result<usize, BackendError> {
        let (seed, room) = (self.options.seed, self.free_pages() * self.options.limits.kv_page);
        let mut words =
            from.chunks_exact(8).map(|b| b.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b)));
        let own = words.next() == Some(seed) && words.len() >= len && len <= room;
        self.options.limits.check_empty(slot, |slot| self.held(slot))?;
        if !own {
            return Err(BackendError::Failed(format!("slot {slot} can't take these keys and values")));
        }
        let target = self.slot_mut(slot)?;
        target.hashes = words.take(len).collect();
        Ok(len)
    }
}

impl FaultKind {
    /// The value that spoils logits.
    fn value(self) -> Option<f32> {
        match self {
            FaultKind::Nan => Some(f32::NAN),
            FaultKind::Infinity => Some(f32::INFINITY),
            FaultKind::Error | FaultKind::Panic | FaultKind::Slow(_) | FaultKind::Hang => None,
        }
    }
}

impl Mock {
    fn fail(&mut self, kind: FaultKind, batch: &Batch<'_>, out: &mut Logits) -> Result<(), BackendError> {
        let mut break_slots = || batch.spans.iter().for_each(|s| self.slots[s.slot].broken = true);
        match kind {
            FaultKind::Nan | FaultKind::Infinity => {
                if let (Some(first), Some(value)) = (out.as_mut_slice().first_mut(), kind.value()) {
                    *first = value;
                }
                Ok(())
            }
            FaultKind::Error => {
                break_slots();
                Err(BackendError::Failed("the mock was told to fail".into()))
            }
            FaultKind::Panic => {
                break_slots();
                panic!("the mock was told to panic")
            }
            FaultKind::Slow(time) => {
                std::thread::sleep(time);
                Ok(())
            }
            FaultKind::Hang => loop {
                std::thread::park();
            },
        }
    }
}

/// The spec of a mock's model: the smallest consistent shapes.
fn spec(context: usize) -> ModelSpec {
    ModelSpec {
        architecture: Architecture::Llama,
        name: Some("mock".into()),
        vocab_size: VOCABULARY.size,
        context_length: context,
        hidden_size: 1,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 1,
        ffn_size: 1,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, pairing: RopePairing::Halves, width: None, scaling: RopeScaling::None },
        windows: vec![None],
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: true,
        moe: None,
        extras: Extras::default(),
    }
}
