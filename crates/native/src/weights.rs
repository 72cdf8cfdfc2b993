//! A model's tensors in the form that the forward pass reads: matrices packed, norms and biases as `f32`, Q and K rows in the
//! one order that [`zonda_kernels::rope`] rotates.

use crate::options::NativeOptions;
use crate::rope::Angles;
use std::collections::BTreeMap;
use std::sync::Mutex;
use zonda_engine::forward::BackendError;
use zonda_engine::load::{
    LayerTensor, LoadError, Mla, Model, ModelSpec, NormPlacement, RopePairing, Tensor, TensorRole,
    check_finite, check_finite_row,
};
use zonda_engine::quant::Mix;
use zonda_kernels::memory::{Arena, SharedPtr};
use zonda_kernels::quantize::quantize;
use zonda_kernels::{ActivationKind, DType, Isa, Packed, Pool, activation_kind};

/// All weights of a model.
#[derive(Debug)]
pub(crate) struct Weights {
    /// `[vocab, hidden]`, as stored: rows are dequantised when their tokens come.
    embedding: Embedding,
    pub layers: Vec<Layer>,
    /// `[hidden]`
    pub output_norm: Vec<f32>,
    /// `[vocab, hidden]`
    pub head: Matrix,
}

/// One transformer layer.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Of what attention reads, `[hidden]`
    pub attn_norm: Option<Vec<f32>>,
    /// Of what attention adds to the residual stream, `[hidden]`
    pub attn_post_norm: Option<Vec<f32>>,
    /// In latent attention the projection to its queries, or to their latent
    pub q: Linear,
    /// In latent attention the projection to the latent of keys and values, and to the rotated part of keys
    pub k: Linear,
    /// None in latent attention
    pub v: Option<Linear>,
    /// `[head_dim]` each; over all heads at once `[heads · head_dim]` and `[kv_heads · head_dim]`
    pub qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    pub latent: Option<Latent>,
    /// `[hidden, heads · head_dim]`, or of what the heads' values give
    pub attn_out: Matrix,
    /// `[hidden]`
    pub attn_out_bias: Option<Vec<f32>>,
    /// Attention sinks, `[heads]`
    pub sinks: Option<Vec<f32>>,
    /// Of what the feed-forward half reads, `[hidden]`
    pub ffn_norm: Option<Vec<f32>>,
    /// Of what it adds to the residual stream, `[hidden]`
    pub ffn_post_norm: Option<Vec<f32>>,
    pub ffn: Ffn,
    /// The feed-forward half reads what attention reads.
    pub parallel: bool,
    /// Ones, `[head_dim]`, where Q and K are normalised behind RoPE.
    pub norm_behind_rope: Option<Vec<f32>>,
    /// Its kind of RoPE: an index of [`Angles::all`].
    pub rope: Option<usize>,
    /// Positions that a token sees, itself included, or in a chunk of the context; `None`: all.
    pub window: Option<usize>,
}

impl Layer {
    /// The matrices that read the layer's first norm; some twice.
    pub fn first_readers(&self) -> [&Matrix; 5] {
        let [q, k] = [&self.q.matrix, &self.k.matrix];
        let v = self.v.as_ref().map_or(k, |v| &v.matrix);
        match &self.ffn {
            Ffn::Dense(dense) if self.parallel => [q, k, v, &dense.gate, &dense.up],
            _ => [q, k, v, q, q],
        }
    }
}

/// The rest of multi-head latent attention.
#[derive(Debug)]
pub(crate) struct Latent {
    /// Norm, `[q_rank]`, and projection, `[heads · (nope + rope), q_rank]`, of the queries' latent
    pub query_up: Option<(Vec<f32>, Matrix)>,
    /// Of the latent of keys and values, `[kv_rank]`
    pub norm: Vec<f32>,
    /// `[kv_rank, nope]` each
    pub key_up: HeadMatrices,
    /// `[value, kv_rank]` each
    pub value_up: HeadMatrices,
    /// The kind of RoPE: an index of [`Angles::all`].
    pub rope: Option<usize>,
}

/// A matrix for each head.
#[derive(Debug)]
pub(crate) struct HeadMatrices {
    pub packed: Vec<Packed>,
    pub reads: ActivationKind,
}

/// The feed-forward half of a layer.
#[derive(Debug)]
pub(crate) enum Ffn {
    Dense(Expert),
    Moe { router: Router, experts: Vec<Expert>, shared: Option<Shared> },
}

/// What gives a token its experts.
#[derive(Debug)]
pub(crate) struct Router {
    /// `[experts, hidden]`
    pub matrix: Matrix,
    /// Added to the logits, `[experts]`
    pub bias: Option<Vec<f32>>,
    /// Added to the scores when they are ranked, `[experts]`
    pub correction: Option<Vec<f32>>,
}

/// An expert that every token runs.
#[derive(Debug)]
pub(crate) struct Shared {
    /// `[1, hidden]`; if there, the sigmoid of its product is the expert's weight
    pub router: Option<Matrix>,
    pub expert: Expert,
}

/// Gate, up and down: a dense feed-forward layer, or one expert.
#[derive(Debug)]
pub(crate) struct Expert {
    /// `[ffn, hidden]`
    pub gate: Matrix,
    /// `[ffn, hidden]`
    pub up: Matrix,
    /// `[hidden, ffn]`
    pub down: Matrix,
    pub biases: Option<ExpertBiases>,
}

/// The biases of an expert's projections.
#[derive(Debug)]
pub(crate) struct ExpertBiases {
    /// `[ffn]`
    pub gate: Vec<f32>,
    /// `[ffn]`
    pub up: Vec<f32>,
    /// `[hidden]`
    pub down: Vec<f32>,
}

/// A matrix with an optional bias.
#[derive(Debug)]
pub(crate) struct Linear {
    pub matrix: Matrix,
    /// `[rows]`
    pub bias: Option<Vec<f32>>,
}

/// A packed matrix and the form of activations that it is multiplied with.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub packed: Packed,
    pub reads: ActivationKind,
}

impl Weights {
    /// Reads and packs everything.
    pub fn load(
        model: &Model,
        isa: Isa,
        pool: &Pool,
        options: &NativeOptions,
    ) -> Result<Weights, BackendError> {
        let loader = Loader::new(model, isa, pool, Held::Quantized(options.quantize));
        let embedding = loader.embedding(options.mmap)?;
        let layers = (0..model.spec.layers).map(|l| loader.layer(l)).collect::<Result<_, _>>()?;
        let (output_norm, head) = loader.head()?;
        loader.arena.collapse();
        Ok(Weights { embedding, layers, output_norm, head })
    }

    /// Checks that the file of the embedding was not cut.
    ///
    /// # Errors
    /// As [`Tensor::check_file`].
    pub fn check_file(&self) -> Result<(), LoadError> {
        self.embedding.tensor.check_file()
    }

    /// Writes a token's embedding, `[hidden]`.
    pub fn embed(&self, token: u32, out: &mut [f32]) {
        self.embedding.row(token, out);
    }

    /// The types of the matrices, those with most bytes first: `q4_k+q6_k`.
    pub fn describe(&self) -> String {
        let mut bytes: BTreeMap<DType, usize> = BTreeMap::new();
        let mut add_packed = |packed: &Packed| *bytes.entry(packed.dtype()).or_default() += packed.bytes();
        for latent in self.layers.iter().filter_map(|layer| layer.latent.as_ref()) {
            latent.key_up.packed.iter().chain(&latent.value_up.packed).for_each(&mut add_packed);
            latent.query_up.iter().for_each(|(_, up)| add_packed(&up.packed));
        }
        let mut add = |m: &Matrix| add_packed(&m.packed);
        add(&self.head);
        for layer in &self.layers {
            let v = layer.v.as_ref().map(|v| &v.matrix);
            [&layer.q.matrix, &layer.k.matrix, &layer.attn_out].into_iter().chain(v).for_each(&mut add);
            let (experts, shared) = match &layer.ffn {
                Ffn::Dense(dense) => (std::slice::from_ref(dense), None),
                Ffn::Moe { experts, shared, .. } => (&experts[..], shared.as_ref()),
            };
            for e in experts.iter().chain(shared.map(|s| &s.expert)) {
                [&e.gate, &e.up, &e.down].into_iter().for_each(&mut add);
            }
        }
        let mut types: Vec<_> = bytes.into_iter().collect();
        types.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        types.iter().map(|(t, _)| t.name()).collect::<Vec<_>>().join("+")
    }
}

/// The embedding as it is stored.
#[derive(Debug)]
pub(crate) struct Embedding {
    tensor: Tensor,
    /// Multiplies its rows.
    scale: f32,
}

impl Embedding {
    /// Writes a token's row, `[hidden]`.
    pub fn row(&self, token: u32, out: &mut [f32]) {
        self.tensor.row(token as usize, out);
        if self.scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= self.scale);
        }
    }
}

/// The types that matrices are stored in.
#[derive(Clone, Copy, Debug)]
enum Held {
    /// Float matrices quantised, if the options say so; all others as they are stored.
    Quantized(Option<Mix>),
    /// As f32.
    F32,
}

/// What is needed to read one tensor.
pub(crate) struct Loader<'a> {
    model: &'a Model,
    spec: &'a ModelSpec,
    /// The memory of all matrices, in the order they are read.
    arena: Arena,
    isa: Isa,
    pool: &'a Pool,
    held: Held,
}

impl<'a> Loader<'a> {
    /// Reads every matrix as f32.
    pub fn reference(model: &'a Model, isa: Isa, pool: &'a Pool) -> Loader<'a> {
        Loader::new(model, isa, pool, Held::F32)
    }

    fn new(model: &'a Model, isa: Isa, pool: &'a Pool, held: Held) -> Loader<'a> {
        Loader { model, spec: &model.spec, arena: Arena::new(), isa, pool, held }
    }

    /// The final norm, `[hidden]`, and the output head.
    pub fn head(&self) -> Result<(Vec<f32>, Matrix), BackendError> {
        let head = if self.spec.tied_embeddings { TensorRole::TokenEmbedding } else { TensorRole::Output };
        Ok((self.vector(TensorRole::OutputNorm)?, self.matrix(head)?))
    }

    pub fn layer(&self, l: usize) -> Result<Layer, BackendError> {
        use LayerTensor::*;
        let role = |t| TensorRole::Layer(l, t);
        let vector = |t| self.vector(role(t));
        let norms = self.spec.extras.norms;
        let before = |t| (norms != NormPlacement::After).then(|| vector(t)).transpose();
        let after =
            |t| matches!(norms, NormPlacement::After | NormPlacement::Both).then(|| vector(t)).transpose();
        let parallel = norms == NormPlacement::Parallel;
        let linear = |w, b| {
            let bias = self.spec.qkv_bias.then(|| self.vector_in_row_order(role(b))).transpose()?;
            Ok::<_, BackendError>(Linear { matrix: self.matrix(role(w))?, bias })
        };
        let bare = |w| Ok::<_, BackendError>(Linear { matrix: self.matrix(role(w))?, bias: None });
        let (q, k, v) = match &self.spec.extras.mla {
            None => (linear(Q, QBias)?, linear(K, KBias)?, Some(linear(V, VBias)?)),
            Some(mla) => (bare(if mla.q_rank.is_some() { QDown } else { Q })?, bare(KvDown)?, None),
        };
        let rope = Angles::kind_of(self.spec, l);
        let latent = |mla: &Mla| {
            let query_up =
                mla.q_rank.map(|_| Ok::<_, BackendError>((vector(QDownNorm)?, self.matrix(role(QUp))?)));
            Ok::<_, BackendError>(Latent {
                query_up: query_up.transpose()?,
                norm: vector(KvDownNorm)?,
                key_up: self.head_matrices(role(KeyUp))?,
                value_up: self.head_matrices(role(ValueUp))?,
                rope,
            })
        };
        let latent = self.spec.extras.mla.as_ref().map(latent).transpose()?;
        let qk_norm = self.spec.qk_norm.then(|| Ok::<_, BackendError>((vector(QNorm)?, vector(KNorm)?)));
        let expert = |gate, up, down| {
            Ok::<_, BackendError>(Expert {
                gate: self.matrix(role(gate))?,
                up: self.matrix(role(up))?,
                down: self.matrix(role(down))?,
                biases: None,
            })
        };
        let routed = |e, bias: bool| {
            let load = || {
                let [gate, up, down] = [ExpertGateBias(e), ExpertUpBias(e), ExpertDownBias(e)].map(vector);
                Ok::<_, BackendError>(ExpertBiases { gate: gate?, up: up?, down: down? })
            };
            let biases = bias.then(load).transpose()?;
            Ok::<_, BackendError>(Expert { biases, ..expert(ExpertGate(e), ExpertUp(e), ExpertDown(e))? })
        };
        Ok(Layer {
            attn_norm: before(AttnNorm)?,
            attn_post_norm: after(AttnPostNorm)?,
            q,
            k,
            v,
            qk_norm: qk_norm.transpose()?,
            attn_out: self.matrix(role(AttnOut))?,
            attn_out_bias: self.spec.extras.attention_out_bias.then(|| vector(AttnOutBias)).transpose()?,
            sinks: self.spec.extras.sinks.then(|| vector(Sinks)).transpose()?,
            ffn_norm: if parallel { None } else { before(FfnNorm)? },
            ffn_post_norm: after(FfnPostNorm)?,
            parallel,
            norm_behind_rope: (self.spec.extras.norm_behind_rope && self.spec.rope_of(l).is_some())
                .then(|| vec![1.0; self.spec.head_dim]),
            rope: rope.filter(|_| latent.is_none()),
            latent,
            window: self.spec.windows[l],
            ffn: match self.spec.experts_of(l) {
                None => Ffn::Dense(expert(FfnGate, FfnUp, FfnDown)?),
                Some(moe) => Ffn::Moe {
                    router: self::Router {
                        matrix: self.matrix(role(Router))?,
                        bias: moe.router.bias.then(|| vector(RouterBias)).transpose()?,
                        correction: moe.router.correction.then(|| vector(RouterCorrection)).transpose()?,
                    },
                    experts: (0..moe.experts).map(|e| routed(e, moe.bias)).collect::<Result<_, _>>()?,
                    shared: match moe.shared {
                        None => None,
                        Some(shared) => Some(Shared {
                            router: shared.gated.then(|| self.matrix(role(SharedRouter))).transpose()?,
                            expert: expert(SharedGate, SharedUp, SharedDown)?,
                        }),
                    },
                },
            },
        })
    }

    /// A packed matrix, quantised if that was asked for.
    fn matrix(&self, role: TensorRole) -> Result<Matrix, BackendError> {
        let HeadMatrices { mut packed, reads } = self.packed(role, 1)?;
        Ok(Matrix { packed: packed.swap_remove(0), reads })
    }

    /// The matrices of all heads, likewise.
    fn head_matrices(&self, role: TensorRole) -> Result<HeadMatrices, BackendError> {
        self.packed(role, self.spec.heads)
    }

    /// Equal parts of a tensor's rows, one after another. The file's pages are given back, so that only the packed form stays in
    /// memory.
    fn packed(&self, role: TensorRole, parts: usize) -> Result<HeadMatrices, BackendError> {
        let tensor = self.model.tensor(role)?;
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let dtype = match self.held {
            Held::F32 => DType::F32,
            Held::Quantized(Some(mix)) if !tensor.dtype.is_quantized() => mix.dtype(self.spec, role, cols),
            Held::Quantized(_) => tensor.dtype,
        };
        let check = Check::new(&tensor);
        let converted;
        let bytes = if dtype == tensor.dtype {
            tensor.bytes()
        } else {
            converted = self.converted(&tensor, dtype, &check);
            &converted
        };
        let row_bytes = bytes.len() / rows;
        let of_part = rows / parts;
        // a converted tensor's values are already multiplied by it
        let scale = if dtype == tensor.dtype { tensor.scale() } else { 1.0 };
        let pack = |part: usize| {
            let packed = Packed::pack(self.pool, &self.arena, dtype, of_part, cols, |r| {
                let stored = self.stored_row(role, part * of_part + r);
                if dtype == tensor.dtype {
                    check.row(stored);
                }
                &bytes[stored * row_bytes..][..row_bytes]
            });
            packed.map(|packed| packed.scaled(scale))
        };
        let packed: Result<_, _> = (0..parts).map(pack).collect();
        let packed = packed.map_err(|e| BackendError::Failed(format!("weights of {}: {e}", tensor.name)))?;
        check.finish()?;
        tensor.release();
        Ok(HeadMatrices { packed, reads: activation_kind(self.isa, dtype) })
    }

    /// A tensor's rows in another type, in parallel.
    fn converted(&self, tensor: &Tensor, dtype: DType, check: &Check<'_>) -> Vec<u8> {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let to = cols / dtype.block_len() * dtype.block_bytes();
        let mut out = vec![0; rows * to];
        let base = SharedPtr::new(&mut out);
        self.pool.for_each(rows, &|r| {
            check.row(r);
            let mut row = vec![0.0; cols];
            tensor.row(r, &mut row);
            let mut blocks = Vec::with_capacity(to);
            quantize(dtype, &row, &mut blocks);
            assert_eq!(blocks.len(), to, "bytes of a row of {dtype}");
            // SAFETY: row `r` of `out` belongs to this item alone, and `out` outlives the loop.
            unsafe { std::ptr::copy_nonoverlapping(blocks.as_ptr(), base.at(r * to), to) };
        });
        out
    }

    /// The embedding as it is stored, checked; later only the rows of tokens that come are read, from the file if `mmap` is set.
    pub fn embedding(&self, mmap: bool) -> Result<Embedding, BackendError> {
        let tensor = self.model.tensor(TensorRole::TokenEmbedding)?;
        let tensor = if mmap { tensor } else { tensor.into_owned() };
        let check = Check::new(&tensor);
        self.pool.split(tensor.rows(), 1, &|rows| rows.for_each(|r| check.row(r)));
        check.finish()?;
        tensor.release();
        Ok(Embedding { tensor, scale: self.spec.extras.embedding_scale })
    }

    fn vector(&self, role: TensorRole) -> Result<Vec<f32>, BackendError> {
        let tensor = self.model.tensor(role)?;
        check_finite(&tensor)?;
        Ok(tensor.to_f32())
    }

    fn vector_in_row_order(&self, role: TensorRole) -> Result<Vec<f32>, BackendError> {
        let stored = self.vector(role)?;
        Ok((0..stored.len()).map(|r| stored[self.stored_row(role, r)]).collect())
    }

    /// Which stored row becomes row `r`: Q and K of files made for adjacent RoPE pairs are reordered so that pair
    /// `(2i, 2i + 1)` of a head becomes `(i, i + width/2)`, where `width` values of the head turn and the others stay. Scores
    /// don't change: Q and K are permuted alike.
    fn stored_row(&self, role: TensorRole, r: usize) -> usize {
        use LayerTensor::{K, KBias, KvDown, Q, QBias, QUp};
        let TensorRole::Layer(_, tensor) = role else { return r };
        let turned = matches!(tensor, Q | K | QBias | KBias | QUp | KvDown);
        if !turned || self.spec.rope.pairing == RopePairing::Halves {
            return r;
        }
        // values of a head, and the first of those that are turned
        let (dim, from) = match (&self.spec.extras.mla, tensor) {
            (None, _) => (self.spec.head_dim, 0),
            (Some(mla), KvDown) => (mla.key(), mla.kv_rank),
            (Some(mla), _) => (mla.query(), mla.nope),
        };
        let (head, i) = (r / dim, r % dim);
        let Some(i) = i.checked_sub(from) else { return r };
        let half = self.spec.rope_dim() / 2;
        let pair = |i: usize| if i < half { 2 * i } else { 2 * (i - half) + 1 };
        head * dim + from + if i < 2 * half { pair(i) } else { i }
    }
}

/// Looks for NaN and infinity in rows as threads read them; remembers the first row that has one.
struct Check<'a> {
    tensor: &'a Tensor,
    failed: Mutex<Option<(usize, LoadError)>>,
}

impl<'a> Check<'a> {
    fn new(tensor: &'a Tensor) -> Self {
        Check { tensor, failed: Mutex::new(None) }
    }

    fn row(&self, row: usize) {
        if let Err(e) = check_finite_row(self.tensor, row) {
            let mut failed = self.failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if failed.as_ref().is_none_or(|(first, _)| row < *first) {
                *failed = Some((row, e));
            }
        }
    }

    fn finish(self) -> Result<(), LoadError> {
        let failed = self.failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        failed.map_or(Ok(()), |(_, e)| Err(e))
    }
}
