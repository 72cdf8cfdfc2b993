//! A model's exact logits: its weights, whatever their type, as f32, with f32 activations, keys and values. What other
//! computations of the same weights are held against.
//!
//! Layer by layer, all tokens at once: no more than one layer's weights are in memory as f32, so a model is compared on a
//! machine that its f32 form would not fit.

use crate::Native;
use crate::forward::{Buffers, Run};
use crate::kv::KvCache;
use crate::rope::Angles;
use crate::weights::Loader;
use zonda_engine::TokenId;
use zonda_engine::forward::{BackendError, Batch, Limits, Span, Want};
use zonda_engine::load::{Model, ModelSpec};
use zonda_kernels::attention::{KvType, PAGE};
use zonda_kernels::{Isa, Job, Pool, cpus, matmul};

/// Rows of logits that are computed at once: bounds their memory.
const ROWS: usize = 32;

impl Native {
    /// Hands the exact logits of every position of every sequence to `look`, in order, `[vocab]` each. The calling thread
    /// becomes one of the pool's, as with [`Native::open`].
    ///
    /// # Errors
    /// As [`Native::open`]; if a sequence is empty, longer than the model's context or has an id beyond its vocabulary; and
    /// what `look` says.
    pub fn exact<E: From<BackendError>>(
        model: &Model,
        threads: Option<usize>,
        sequences: &[Vec<TokenId>],
        look: &mut dyn FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let isa = Isa::best();
        let pool = Pool::new(threads.unwrap_or_else(cpus::default_threads));
        let loader = Loader::exact(model, isa, &pool);
        let spans = sequences.iter().enumerate();
        let spans = spans.map(|(slot, tokens)| Span { slot, start: 0, tokens, want: Want::All });
        let batch = Batch { spans: spans.collect() };
        // one layer's cache: the next layer writes over it
        let one = ModelSpec { layers: 1, ..model.spec.clone() };
        let limits = room(&one, sequences)?;
        batch.check(&limits, one.vocab_size, |_| 0).map_err(BackendError::from)?;
        let mut kv = KvCache::new(&one, &limits, KvType::F32)?;
        kv.reserve(&batch).map_err(BackendError::from)?;

        let run = Run { isa, pool: &pool, eps: one.norm_eps };
        let mut angles = Angles::new(&one.rope, one.head_dim);
        angles.set(batch.spans.iter().flat_map(|s| 0..s.tokens.len()));
        let mut buffers = Buffers::default();
        buffers.attention.reserve(&one, &limits);
        let Buffers { x, normed, attention, ffn } = &mut buffers;
        let (hidden, vocab) = (one.hidden_size, one.vocab_size);
        x.resize(batch.tokens() * hidden, 0.0);
        let embedding = loader.embedding()?;
        for (&token, row) in sequences.iter().flatten().zip(x.chunks_exact_mut(hidden)) {
            embedding.row(token, row);
        }
        for (l, &window) in model.spec.windows.iter().enumerate() {
            let layer = loader.layer(l)?;
            run.norm(x, &layer.attn_norm, normed, &[&layer.q.matrix, &layer.k.matrix, &layer.v.matrix]);
            attention.run(run, &one, &layer, 0, window, &batch, &angles, &mut kv, normed, x);
            ffn.run(run, &one, &layer, normed, x);
        }
        let (norm, head) = loader.head()?;
        let mut logits = vec![0.0; ROWS * vocab];
        for x in x.chunks(ROWS * hidden) {
            run.norm(x, &norm, normed, &[&head]);
            let out = &mut logits[..x.len() / hidden * vocab];
            matmul(isa, &pool, normed, &mut [Job { weights: &head.packed, out, stride: vocab, add: false }]);
            out.chunks_exact(vocab).try_for_each(&mut *look)?;
        }
        Ok(())
    }
}

/// A slot for each sequence, and room for all of them in one batch.
fn room(spec: &ModelSpec, sequences: &[Vec<TokenId>]) -> Result<Limits, BackendError> {
    let tokens = sequences.iter().map(Vec::len);
    let longest = tokens.clone().max().unwrap_or(0);
    let pages = tokens.clone().map(|n| n.next_multiple_of(PAGE)).sum();
    Limits::paged(spec, Some(longest), sequences.len(), tokens.sum(), Some(pages), PAGE)
}
