//! The feed-forward half of a layer: `down(act(gate(x)) · up(x))`, with SiLU (SwiGLU) or GELU, dense or as a mixture of experts.

use crate::run::{Run, Step};
use crate::weights::{Expert, Ffn, Layer, Matrix, Shared};
use zonda_engine::load::Moe;
use zonda_kernels::elementwise::{AddScaled, GatedMul};
use zonda_kernels::{Activations, Job, matmul};

/// Buffers between the projections of the feed-forward half.
#[derive(Debug, Default)]
pub(crate) struct FfnBuffers {
    pub mlp: Mlp,
    /// Router logits, then probabilities, `[tokens, experts]`
    routes: Vec<f32>,
    /// Per expert the tokens it was picked for, with their weights
    pub picked: Vec<Vec<(usize, f32)>>,
    order: Vec<usize>,
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
                let readers = match shared {
                    None => [router; 4],
                    Some(Shared { router: own, expert }) => [router, own, &expert.gate, &expert.up],
                };
                run.norm(x, layer.ffn_norm.as_deref(), normed, &readers);
                if let Some(shared) = shared {
                    self.shared(run, shared, normed, x);
                }
                self.mixture(run, moe, router, experts, normed, x);
            }
            (Ffn::Dense(dense), _) => {
                if !layer.parallel {
                    run.norm(x, layer.ffn_norm.as_deref(), normed, &[&dense.gate, &dense.up]);
                }
                self.mlp.activate(run, dense, normed);
                let (norm, scale) = (layer.ffn_post_norm.as_deref(), spec.extras.residual_scale);
                run.join(&dense.down, &self.mlp.activated, norm, scale, &mut self.outputs, x);
            }
            (Ffn::Moe { .. }, None) => unreachable!("experts are loaded only where the spec has them"),
        }
    }

    /// Adds the output of the expert that runs for every token.
    fn shared(&mut self, run: Run<'_>, shared: &Shared, normed: &Activations, x: &mut [f32]) {
        let (tokens, hidden) = (normed.tokens(), run.hidden);
        self.mlp.run(run, &shared.expert, normed, &mut self.outputs);
        self.routes.resize(tokens, 0.0);
        let job = Job { weights: &shared.router.packed, out: &mut self.routes, stride: 1, add: false };
        matmul(run.isa, run.pool, normed, &mut [job]);
        let rows = x.chunks_exact_mut(hidden).zip(self.outputs.chunks_exact(hidden));
        for ((x, y), gate) in rows.zip(&self.routes) {
            AddScaled { x, y, scale: 1.0 / (1.0 + (-gate).exp()) }.on(run.isa);
        }
    }

    /// Routes every token to its experts; each expert runs once, on the tokens that picked it.
    fn mixture(
        &mut self,
        run: Run<'_>,
        moe: &Moe,
        router: &Matrix,
        experts: &[Expert],
        normed: &Activations,
        x: &mut [f32],
    ) {
        let hidden = run.hidden;
        self.routes.resize(normed.tokens() * moe.experts, 0.0);
        let job = Job { weights: &router.packed, out: &mut self.routes, stride: moe.experts, add: false };
        matmul(run.isa, run.pool, normed, &mut [job]);
        self.pick(moe);
        for (e, (expert, picked)) in experts.iter().zip(&self.picked).enumerate() {
            if picked.is_empty() {
                continue;
            }
            let source = normed.f32();
            run.fill(&mut self.inputs, picked.len(), hidden, &[&expert.gate, &expert.up], |i, row| {
                row.copy_from_slice(&source[picked[i].0 * hidden..][..hidden]);
            });
            self.mlp.run(run, expert, &self.inputs, &mut self.outputs);
            if let Some(kept) = &mut self.kept {
                kept[e].extend_from_slice(self.mlp.activated.f32());
            }
            for (&(t, scale), y) in picked.iter().zip(self.outputs.chunks_exact(hidden)) {
                AddScaled { x: &mut x[t * hidden..][..hidden], y, scale }.on(run.isa);
            }
        }
    }

    /// Softmax over all experts, the best `used` per token (ties: the lower number), weights normalised if the model asks for
    /// it. A NaN route picks some experts with NaN weights, so that it shows in the logits.
    fn pick(&mut self, moe: &Moe) {
        self.picked.resize_with(moe.experts, Vec::new);
        self.picked.iter_mut().for_each(Vec::clear);
        for (t, route) in self.routes.chunks_exact_mut(moe.experts).enumerate() {
            let max = route.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            route.iter_mut().for_each(|r| *r = (*r - max).exp());
            let sum: f32 = route.iter().sum();
            self.order.clear();
            self.order.extend(0..moe.experts);
            self.order.sort_unstable_by(|&a, &b| route[b].total_cmp(&route[a]).then(a.cmp(&b)));
            let used = &self.order[..moe.used];
            let total = if moe.normalize { used.iter().map(|&e| route[e]).sum() } else { sum };
            for &e in used {
                self.picked[e].push((t, route[e] / total));
            }
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
        gate.resize(tokens * ffn, 0.0);
        up.resize(tokens * ffn, 0.0);
        let gate_job = Job { weights: &weights.gate.packed, out: gate, stride: ffn, add: false };
        let up_job = Job { weights: &weights.up.packed, out: up, stride: ffn, add: false };
        matmul(run.isa, run.pool, input, &mut [gate_job, up_job]);
        run.fill(activated, tokens, ffn, &[&weights.down], |t, out| {
            let (gate, up) = (&gate[t * ffn..][..ffn], &up[t * ffn..][..ffn]);
            GatedMul { activation: run.activation, gate, up, out }.on(run.isa);
        });
    }

    /// The whole network, `[tokens, hidden]`, into `out`.
    fn run(&mut self, run: Run<'_>, weights: &Expert, input: &Activations, out: &mut Vec<f32>) {
        self.activate(run, weights, input);
        out.resize(input.tokens() * run.hidden, 0.0);
        let job = Job { weights: &weights.down.packed, out, stride: run.hidden, add: false };
        matmul(run.isa, run.pool, &self.activated, &mut [job]);
    }
}
