//! The reference path: a model's weights, of any type, as f32, with f32 activations, keys and values. Other
//! computations of the same weights are compared with its logits, and calibration records the inputs of each matrix
//! here.
//!
//! It runs layer by layer, all tokens at once: at most one layer's weights are in memory as f32, so that a model can be
//! compared on a machine too small for its f32 form.

use crate::buffers::Buffers;
use crate::kv::KvCache;
use crate::native::{Native, pool};
use crate::rope::Angles;
use crate::run::{Run, Step};
use crate::weights::Loader;
use zonda_engine::TokenId;
use zonda_engine::forward::{BackendError, Batch, Limits, Span, Want};
use zonda_engine::load::{LayerTensor, Model, ModelSpec, Moe, TensorRole};
use zonda_engine::quant::Importance;
use zonda_kernels::attention::{KvType, PAGE};
use zonda_kernels::{Isa, Job, Pool, matmul};

/// Logits rows that are computed at once, which limits their memory.
const ROWS: usize = 32;
/// Sequences of a calibration text that go through a layer together, which limits the memory for their buffers.
const GROUP: usize = 8;

impl Native {
    /// Passes the reference logits of every position of every sequence to `look`, in order, `[vocab]` each. The calling
    /// thread becomes one of the pool's, as with [`Native::open`]. The context is that of the longest sequence, which matters to LongRoPE.
    ///
    /// # Errors
    /// As [`Native::open`]; if a sequence is empty, longer than the model's context or has an id beyond its vocabulary; and
    /// the errors of `look`.
    pub fn reference<E: From<BackendError>>(
        model: &Model,
        threads: Option<usize>,
        sequences: &[Vec<TokenId>],
        look: &mut dyn FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let pool = pool(threads)?;
        let mut reference = Reference::new(model, &pool);
        let mut x = Vec::new();
        reference.layers(&[sequences], &mut x, &mut |_, _, _| ())?;
        let Reference { run, loader, buffers, .. } = &mut reference;
        let (hidden, vocab) = (model.spec.hidden_size, model.spec.vocab_size);
        let (norm, head) = loader.head()?;
        let mut logits = vec![0.0; ROWS * vocab];
        for x in x.chunks(ROWS * hidden) {
            run.norm(x, Some(&norm), &mut buffers.normed, &[&head]);
            let out = &mut logits[..x.len() / hidden * vocab];
            let job = Job { weights: &head.packed, out, stride: vocab, add: false };
            matmul(run.isa, run.pool, &buffers.normed, &mut [job]);
            run.finish(&mut logits[..x.len() / hidden * vocab], &model.spec);
            logits[..x.len() / hidden * vocab].chunks_exact(vocab).try_for_each(&mut *look)?;
        }
        Ok(())
    }

    /// The importance of the columns of the layers' matrices for a text, which is cut into sequences. `progress(done,
    /// total)` counts passes of a group of sequences through a layer.
    ///
    /// # Errors
    /// As [`Native::reference`], and if a computed value is not finite.
    pub fn calibrate(
        model: &Model,
        threads: Option<usize>,
        sequences: &[Vec<TokenId>],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Importance, BackendError> {
        let pool = pool(threads)?;
        let mut reference = Reference::new(model, &pool);
        reference.buffers.ffn.kept = model.spec.moe.as_ref().map(|moe| vec![Vec::new(); moe.experts]);
        let groups: Vec<_> = sequences.chunks(GROUP).collect();
        let (mut done, total) = (0, groups.len() * model.spec.layers);
        let mut importance = Importance::default();
        let mut x = Vec::new();
        reference.layers(&groups, &mut x, &mut |layer, half, buffers| {
            add(&mut importance, layer, half, model.spec.experts_of(layer), buffers);
            if half == Half::FeedForward {
                done += 1;
                progress(done, total);
            }
        })?;
        match x.iter().all(|v| v.is_finite()) {
            true => Ok(importance),
            false => {
                Err(BackendError::Failed("the model computes a NaN or an infinity on this text".to_owned()))
            }
        }
    }
}

/// A model with one layer at a time in memory.
struct Reference<'a> {
    model: &'a Model,
    run: Run<'a>,
    loader: Loader<'a>,
    buffers: Buffers,
}

impl<'a> Reference<'a> {
    fn new(model: &'a Model, pool: &'a Pool) -> Reference<'a> {
        let isa = Isa::best();
        let run = Run::new(isa, pool, &model.spec);
        Reference { model, run, loader: Loader::reference(model, isa, pool), buffers: Buffers::default() }
    }

    /// Runs groups of sequences through all layers. The output of the last one is in `x`, `[tokens of all groups, hidden]`;
    /// `seen(layer, half, buffers)` is called when a group has gone through a half of a layer.
    fn layers(
        &mut self,
        groups: &[&[Vec<TokenId>]],
        x: &mut Vec<f32>,
        seen: &mut dyn FnMut(usize, Half, &mut Buffers),
    ) -> Result<(), BackendError> {
        let spec = &self.model.spec;
        let hidden = spec.hidden_size;
        // The cache of one layer: the next layer, and the next group, overwrite it.
        let one = ModelSpec { layers: 1, ..spec.clone() };
        let longest = longest(groups);
        let limits = room(&one, &longest)?;
        let batches: Vec<Batch<'_>> = groups.iter().map(|sequences| batch(sequences.iter())).collect();
        for batch in &batches {
            batch.check(&limits, one.vocab_size, |_| 0).map_err(BackendError::from)?;
        }
        let mut kv = KvCache::new(&one, &limits, KvType::F32)?;
        kv.reserve(&batch(longest.iter().copied())).map_err(BackendError::from)?;

        let mut angles = Angles::all(spec, limits.context);
        self.buffers.attention.reserve(&one, &limits);
        let tokens: usize = batches.iter().map(Batch::tokens).sum();
        x.resize(tokens * hidden, 0.0);
        let embedding = self.loader.embedding(true)?;
        let tokens = groups.iter().flat_map(|sequences| sequences.iter().flatten());
        for (&token, row) in tokens.zip(x.chunks_exact_mut(hidden)) {
            embedding.row(token, row);
        }
        let run = self.run;
        for l in 0..spec.layers {
            let layer = self.loader.layer(l)?;
            let mut rest = &mut x[..];
            for batch in &batches {
                let x = rest.split_off_mut(..batch.tokens() * hidden).expect("a row for every token");
                for angles in &mut angles {
                    angles.set(batch.spans.iter().flat_map(|s| 0..s.tokens.len()));
                }
                let Buffers { normed, attention, .. } = &mut self.buffers;
                run.norm(x, layer.attn_norm.as_deref(), normed, &layer.first_readers());
                let step = Step { run, spec: &one, batch, angles: &angles };
                attention.run(step, &layer, 0, &mut kv, normed, x);
                seen(l, Half::Attention, &mut self.buffers);
                let Buffers { normed, ffn, .. } = &mut self.buffers;
                ffn.run(step, &layer, normed, x);
                seen(l, Half::FeedForward, &mut self.buffers);
            }
        }
        Ok(())
    }
}

/// The halves of a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Attention,
    FeedForward,
}

/// Adds the inputs of the matrices of one half of a layer, which may have experts.
fn add(importance: &mut Importance, layer: usize, half: Half, moe: Option<&Moe>, buffers: &mut Buffers) {
    use LayerTensor::{AttnOut, ExpertDown, ExpertGate, FfnDown, FfnGate, Q};
    let Buffers { normed, attention, ffn, .. } = buffers;
    let mut add = |tensor, inputs: &[f32], cols: usize| {
        if !inputs.is_empty() {
            importance.add(TensorRole::Layer(layer, tensor), inputs, cols);
        }
    };
    let cols = normed.cols();
    match (half, ffn.kept.as_mut().filter(|_| moe.is_some())) {
        (Half::Attention, _) => {
            add(Q, normed.f32(), cols);
            add(AttnOut, attention.mixed.f32(), attention.mixed.cols());
        }
        (Half::FeedForward, None) => {
            add(FfnGate, normed.f32(), cols);
            add(FfnDown, ffn.mlp.activated.f32(), ffn.mlp.activated.cols());
        }
        (Half::FeedForward, Some(kept)) => {
            for (e, (picked, kept)) in ffn.picked.iter().zip(kept).enumerate() {
                for &(t, weight) in picked {
                    let input = &normed.f32()[t * cols..][..cols];
                    if moe.is_some_and(|moe| moe.weigh_inputs) {
                        let input: Vec<f32> = input.iter().map(|v| v * weight).collect();
                        add(ExpertGate(e), &input, cols);
                    } else {
                        add(ExpertGate(e), input, cols);
                    }
                }
                add(ExpertDown(e), kept, kept.len() / picked.len().max(1));
                kept.clear();
            }
        }
    }
}

/// All tokens of some sequences, a slot for each.
fn batch<'a>(sequences: impl Iterator<Item = &'a Vec<TokenId>>) -> Batch<'a> {
    let spans = sequences.enumerate();
    let spans = spans.map(|(slot, tokens)| Span { slot, start: 0, tokens, want: Want::All });
    Batch { spans: spans.collect() }
}

/// The longest sequence of each slot.
fn longest<'a>(groups: &[&'a [Vec<TokenId>]]) -> Vec<&'a Vec<TokenId>> {
    let slots = groups.iter().map(|g| g.len()).max().unwrap_or(0);
    let of_slot = |slot: usize| groups.iter().filter_map(|g| g.get(slot)).max_by_key(|s| s.len());
    (0..slots).filter_map(of_slot).collect()
}

/// The capacity for sequences in one batch, a slot for each.
fn room(spec: &ModelSpec, sequences: &[&Vec<TokenId>]) -> Result<Limits, BackendError> {
    let tokens = sequences.iter().map(|s| s.len());
    let longest = tokens.clone().max().unwrap_or(0);
    let pages = tokens.clone().map(|n| n.next_multiple_of(PAGE)).sum();
    Limits::paged(spec, Some(longest), sequences.len(), tokens.sum(), Some(pages), PAGE)
}
