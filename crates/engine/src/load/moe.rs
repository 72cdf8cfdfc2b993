//! [`Moe`]: how a model's tokens reach experts, as data.

/// A mixture of experts in the feed-forward half of layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    /// Experts per layer.
    pub experts: usize,
    /// Experts run per token.
    pub used: usize,
    /// Width of one expert's feed-forward layer.
    pub ffn_size: usize,
    /// How a token's experts and their weights are found.
    pub router: Router,
    /// The first layers, which have a dense feed-forward layer of the model's width instead (DeepSeek, GLM-4.5).
    pub dense_layers: usize,
    /// An expert that every token runs besides.
    pub shared: Option<SharedExpert>,
    /// The experts' three projections have biases (gpt-oss).
    pub bias: bool,
    /// Of the layers behind those, every n-th has experts: n (Llama 4).
    pub step: usize,
    /// An expert's weight multiplies its input instead of its output (Llama 4).
    pub weigh_inputs: bool,
}

/// How a token's experts and their weights are found: its scores rank the experts, the best ones are used, and their scores are
/// their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// What the router's logits become.
    pub score: RouterScore,
    /// A bias is added to the logits (gpt-oss).
    pub bias: bool,
    /// A bias is added to the scores when experts are ranked, but not to their weights (DeepSeek V3).
    pub correction: bool,
    /// Only experts of the best groups are used (DeepSeek).
    pub groups: Option<ExpertGroups>,
    /// The weights of the used experts are scaled to sum to 1.
    pub normalize: bool,
    /// Multiplies the weights, after that.
    pub scale: f32,
}

/// What the logits of a token's router become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterScore {
    /// Their softmax over all experts.
    Softmax,
    /// The sigmoid of each (DeepSeek V3, GLM-4.5).
    Sigmoid,
    /// They rank the experts as they are; weights are the softmax over the used ones (gpt-oss).
    SoftmaxOfUsed,
}

/// Groups of neighbouring experts, all of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// How many there are.
    pub count: usize,
    /// The best ones, from which experts are used.
    pub used: usize,
    /// What ranks them.
    pub score: GroupScore,
}

/// What ranks a group of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// Its best expert's score (DeepSeek V2).
    Best,
    /// The sum of its two best experts' scores (DeepSeek V3).
    BestTwo,
}

/// An expert that every token runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpert {
    /// Width of its feed-forward layer.
    pub ffn_size: usize,
    /// Its output is multiplied by the sigmoid of a router of its own (Qwen2-MoE; Granite's is not).
    pub gated: bool,
}

impl Moe {
    /// Experts as Mixtral has them: in every layer, ranked and weighted by a softmax over all.
    pub fn plain(experts: usize, used: usize, ffn_size: usize, normalize: bool) -> Moe {
        let router = Router {
            score: RouterScore::Softmax,
            bias: false,
            correction: false,
            groups: None,
            normalize,
            scale: 1.0,
        };
        Moe {
            experts,
            used,
            ffn_size,
            router,
            dense_layers: 0,
            shared: None,
            bias: false,
            step: 1,
            weigh_inputs: false,
        }
    }

    /// Experts as gpt-oss has them: ranked by biased logits, weighted by a softmax over the used ones, with biases.
    pub fn gpt_oss(experts: usize, used: usize, ffn_size: usize) -> Moe {
        let plain = Moe::plain(experts, used, ffn_size, true);
        let router = Router { score: RouterScore::SoftmaxOfUsed, bias: true, ..plain.router };
        Moe { router, bias: true, ..plain }
    }

    /// Experts as Llama 4 has them: in every n-th layer, a sigmoid's weight on their input, an expert of the same size for all
    /// tokens.
    pub(super) fn llama4(experts: usize, used: usize, ffn_size: usize, step: usize) -> Moe {
        let plain = Moe::plain(experts, used, ffn_size, false);
        let router = Router { score: RouterScore::Sigmoid, ..plain.router };
        let shared = Some(SharedExpert { ffn_size, gated: false });
        Moe { router, shared, step, weigh_inputs: true, ..plain }
    }

    /// Whether [`Moe::plain`] says everything about it.
    pub fn is_plain(&self) -> bool {
        *self == Moe::plain(self.experts, self.used, self.ffn_size, self.router.normalize)
    }
}
