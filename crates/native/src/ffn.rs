//! The feed-forward half of a layer: `down(act(gate(x)) · up(x))`, with SiLU (SwiGLU), GELU or limits, dense or as a mixture of experts.

use crate::route::{Biases, Chooser};
use crate::run::{Change, Run, Step};
use crate::weights::{Expert, Ffn, Layer, Router, Shared};
use zonda_engine::load::Moe;
use zonda_kernels::elementwise::{AddScaled, GatedMul, ScaleAndCap};
use zonda_kernels::{Activations, Job, matmul};

/// Buffers between the projections of the feed-forward half.
#[derive(Debug, Default)]
pub(crate) struct FfnBuffers {
    pub mlp: Mlp,
    /// Router logits, then scores, `[tokens, experts]`
    routes: Vec<f32>,
    /// Per expert the tokens it was picked for, with their weights
    pub picked: Vec<Vec<(usize, f32)>>,
    chooser: Chooser,
    /// One expert's inputs, `[its tokens, hidden]`
    inputs: Activations,
    /// One expert's outputs, `[its tokens, hidden]`; or, where a norm or a scale is behind it, the half's
    outputs: Vec<f32>,
    /// If set, the inputs of each expert's down projection are appended here, `[its tokens, ffn]`: for calibration
    pub kept: Option<Vec<Vec<f32>>>,
}

impl FfnBuffers {
    /// Adds the feed-forward block's output to the residual stream `x`, `[tokens, hidden]`.
    pub fn run(&mut self, step: Step<'_>, layer: &Layer, normed: &mut Activations, x: &mut [f32]) {
        let Step { run, spec, .. } = step;
        match (&layer.ffn, &spec.moe) {
            (Ffn::Moe { router, experts, shared }, Some(moe)) => {
                let first = &router.matrix;
                let readers = match shared {
                    None => [first; 4],
                    Some(Shared { router: own, expert }) => {
                        [first, own.as_ref().unwrap_or(first), &expert.gate, &expert.up]
                    }
                };
                run.norm(x, layer.ffn_norm.as_deref(), normed, &readers);
                let scale = spec.extras.residual_scale;
                if let Some(shared) = shared {
                    self.shared(run, shared, scale, normed, x);
                }
                self.mixture(run, (moe, scale), router, experts, normed, x);
            }
            (Ffn::Dense(dense), _) => {
                if !layer.parallel {
                    run.norm(x, layer.ffn_norm.as_deref(), normed, &[&dense.gate, &dense.up]);
                }
                self.mlp.activate(run, dense, normed);
                let norm = layer.ffn_post_norm.as_deref();
                let change = Change { bias: None, norm, scale: spec.extras.residual_scale };
                run.join(&dense.down, &self.mlp.activated, change, &mut self.outputs, x);
            }
            (Ffn::Moe { .. }, None) => unreachable!("experts are loaded only where the spec has them"),
        }
    }

    /// Adds the output of the expert that runs for every token, times `scale`.
    fn shared(&mut self, run: Run<'_>, shared: &Shared, scale: f32, normed: &Activations, x: &mut [f32]) {
        let (tokens, hidden) = (normed.tokens(), run.hidden);
        let Some(router) = &shared.router else {
            self.mlp.activate(run, &shared.expert, normed);
            let change = Change { bias: None, norm: None, scale };
            return run.join(&shared.expert.down, &self.mlp.activated, change, &mut self.outputs, x);
        };
        self.mlp.run(run, &shared.expert, normed, &mut self.outputs);
        self.routes.resize(tokens, 0.0);
        let job = Job { weights: &router.packed, out: &mut self.routes, stride: 1, add: false };
        matmul(run.isa, run.pool, normed, &mut [job]);
        let rows = x.chunks_exact_mut(hidden).zip(self.outputs.chunks_exact(hidden));
        for ((x, y), gate) in rows.zip(&self.routes) {
            AddScaled { x, y, scale: scale / (1.0 + (-gate).exp()) }.on(run.isa);
        }
    }

    /// Routes every token to its experts; each expert runs once, on the tokens that picked it. Adds the outputs times `scale`.
    fn mixture(
        &mut self,
        run: Run<'_>,
        (moe, scale): (&Moe, f32),
        router: &Router,
        experts: &[Expert],
        normed: &Activations,
        x: &mut [f32],
    ) {
        let hidden = run.hidden;
        self.routes.resize(normed.tokens() * moe.experts, 0.0);
        let weights = &router.matrix.packed;
        let job = Job { weights, out: &mut self.routes, stride: moe.experts, add: false };
        matmul(run.isa, run.pool, normed, &mut [job]);
        self.pick(moe, router);
        for (e, (expert, picked)) in experts.iter().zip(&self.picked).enumerate() {
            if picked.is_empty() {
                continue;
            }
            let source = normed.f32();
            run.fill(&mut self.inputs, picked.len(), hidden, &[&expert.gate, &expert.up], |i, row| {
                let (t, scale) = picked[i];
                row.copy_from_slice(&source[t * hidden..][..hidden]);
                if moe.weigh_inputs {
                    ScaleAndCap { x: row, scale, cap: None }.on(run.isa);
                }
            });
            self.mlp.run(run, expert, &self.inputs, &mut self.outputs);
            if let Some(kept) = &mut self.kept {
                kept[e].extend_from_slice(self.mlp.activated.f32());
            }
            for (&(t, weight), y) in picked.iter().zip(self.outputs.chunks_exact(hidden)) {
                let weight = if moe.weigh_inputs { 1.0 } else { weight };
                AddScaled { x: &mut x[t * hidden..][..hidden], y, scale: scale * weight }.on(run.isa);
            }
        }
    }

    /// Fills [`FfnBuffers::picked`] from the logits of all tokens.
    fn pick(&mut self, moe: &Moe, router: &Router) {
        self.picked.resize_with(moe.experts, Vec::new);
        self.picked.iter_mut().for_each(Vec::clear);
        let biases = Biases { logits: router.bias.as_deref(), correction: router.correction.as_deref() };
        for (t, route) in self.routes.chunks_exact_mut(moe.experts).enumerate() {
            self.chooser.choose(moe, biases, route, |e, weight| self.picked[e].push((t, weight)));
        }
    }
}

/// One gated network and the buffers between its projections.
#[derive(Debug, Default)]
pub(crate) struct Mlp {
    /// `[tokens, ffn]` each
    gate: Vec<f32>,
    up: Vec<f32>,
    pub activated: Activations,
}

impl Mlp {
    /// `act(gate(x)) · up(x)`, `[tokens, ffn]`, into `activated`.
    fn activate(&mut self, run: Run<'_>, weights: &Expert, input: &Activations) {
        let Mlp { gate, up, activated } = self;
        let (tokens, ffn) = (input.tokens(), weights.gate.packed.rows());
        let biases = weights.biases.as_ref();
        let gate_add = begin(gate, tokens, ffn, biases.map(|b| &b.gate[..]));
        let up_add = begin(up, tokens, ffn, biases.map(|b| &b.up[..]));
        let gate_job = Job { weights: &weights.gate.packed, out: gate, stride: ffn, add: gate_add };
        let up_job = Job { weights: &weights.up.packed, out: up, stride: ffn, add: up_add };
        matmul(run.isa, run.pool, input, &mut [gate_job, up_job]);
        run.fill(activated, tokens, ffn, &[&weights.down], |t, out| {
            let (gate, up) = (&gate[t * ffn..][..ffn], &up[t * ffn..][..ffn]);
            GatedMul { activation: run.activation, gate, up, out }.on(run.isa);
        });
    }

    /// The whole network, `[tokens, hidden]`, into `out`.
    fn run(&mut self, run: Run<'_>, weights: &Expert, input: &Activations, out: &mut Vec<f32>) {
        self.activate(run, weights, input);
        let bias = weights.biases.as_ref().map(|b| &b.down[..]);
        let add = begin(out, input.tokens(), run.hidden, bias);
        let job = Job { weights: &weights.down.packed, out, stride: run.hidden, add };
        matmul(run.isa, run.pool, &self.activated, &mut [job]);
    }
}

/// Makes room for a product, `[tokens, cols]`, and fills it with the bias that the product is added to, if there is one; returns
/// whether.
fn begin(out: &mut Vec<f32>, tokens: usize, cols: usize, bias: Option<&[f32]>) -> bool {
    out.resize(tokens * cols, 0.0);
    let Some(bias) = bias else { return false };
    out.chunks_exact_mut(cols).for_each(|row| row.copy_from_slice(bias));
    true
}
