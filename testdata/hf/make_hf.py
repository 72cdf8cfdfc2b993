"""Makes tiny seeded checkpoints with Hugging Face transformers, and their logits.

One folder for each checkpoint, next to this script:

* `config.json`, `model.safetensors` (or shards with `model.safetensors.index.json`): the layout that
  published checkpoints of that architecture have on disk;
* `config.old.json` (some): the same configuration in the older spelling (`rope_theta`,
  `rope_scaling`, `torch_dtype`), checked here to give the same logits;
* `goldens.safetensors`: for each prompt length K, `ids.K` (int32 `[K]`) and `logits.K` (float32
  `[K, vocab]`, every position), computed in float32 with eager attention from the stored weights.

The weights depend on nothing but the seed and each tensor's name and shape: transformers writes the
files, then every tensor in them is refilled from its own generator, and the result is loaded again.
Prompts are drawn until no position's two best logits (and no router's k-th and next expert) are so
close that rounding could swap them, so tests may require the same arg-max everywhere. (Of routers that
rank by something else than logits, scores and groups are compared, with `MIN_SCORE_GAP`.)
"""

import argparse
import json
import re
import shutil
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, Mxfp4Config

LENGTHS = (1, 5, 33, 100)
MIN_GAP = 0.01  # between the two best logits of every position
MIN_ROUTER_GAP = 0.002  # between the last chosen expert's router logit and the next one's
MIN_SCORE_GAP = 0.0002  # the same for scores, which are at most 1, and for groups of experts
MAX_BYTES = 600_000  # of weights per checkpoint

BASE = dict(
    vocab_size=160,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
)
DENSE = r"mlp\.(gate|up|down)_proj\.weight"
ATTENTION = r"self_attn\.[qkvo]_proj\.weight"
NORMS = r"(input|post_attention)_layernorm\.weight"
OUTER = r"lm_head\.weight|model\.norm\.weight|model\.embed_tokens\.weight"


def layer_names(*parts: str, outer: str = OUTER) -> str:
    """The pattern that every tensor name of a checkpoint must match."""
    return rf"{outer}|model\.layers\.\d+\.({'|'.join(parts)})"


@dataclass
class Checkpoint:
    """One tiny model: its architecture, what differs from `BASE`, and how it is stored."""

    model_type: str
    options: dict
    names: str = layer_names(ATTENTION, DENSE, NORMS)
    dtype: torch.dtype = torch.float32
    shard_bytes: int = 1 << 30
    # Added to norms: a family that stores gains less 1 has −1.
    norm_offset: float = 0.0
    # Experts are stored in MXFP4, as random blocks and scales.
    mxfp4: bool = False
    # At least this between a router's last chosen expert and the next one.
    router_gap: float = MIN_ROUTER_GAP
    # Keys set or (None) removed to get the older spelling; empty: no config.old.json.
    old: dict = field(default_factory=dict)


def rope(kind: str = "default", theta: float = 10_000.0, **parameters) -> dict:
    """A `rope_parameters` object."""
    return {"rope_type": kind, "rope_theta": theta, **parameters}


LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = dict(factor=4.0, original_max_position_embeddings=32)
LONG_ROPE = dict(
    short_factor=[1.0, 1.125, 1.25, 1.5, 1.75, 2.0],
    long_factor=[1.25, 2.0, 4.0, 8.0, 12.0, 16.0],
)
QWEN3_MOE = dict(
    head_dim=16,
    moe_intermediate_size=24,
    num_experts=8,
    num_experts_per_tok=2,
    decoder_sparse_step=1,
    mlp_only_layers=[],
    rms_norm_eps=1e-6,
    rope_parameters=rope(theta=1_000_000.0),
)
QWEN3_MOE_NAMES = layer_names(
    ATTENTION,
    NORMS,
    r"self_attn\.[qk]_norm\.weight",
    r"mlp\.gate\.weight",
    r"mlp\.experts\.\d+\.(gate|up|down)_proj\.weight",
)

VISION = dict(
    model_type="pixtral",
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    head_dim=8,
    image_size=28,
    patch_size=14,
)
QK_NORMS = r"self_attn\.[qk]_norm\.weight"
GEMMA_NORMS = r"(input|post_attention|pre_feedforward|post_feedforward)_layernorm\.weight"
FUSED_DENSE = r"mlp\.(gate_up|down)_proj\.weight"
QKV_BIASES = r"self_attn\.[qkv]_proj\.bias"
PHI3_NAMES = (r"self_attn\.(qkv|o)_proj\.weight", FUSED_DENSE, NORMS)
GRANITE_SCALES = dict(
    embedding_multiplier=3.0,
    residual_multiplier=0.5,
    attention_multiplier=0.125,
    logits_scaling=2.0,
    rope_parameters=rope(theta=10_000.0),
)
GRANITE_EXPERTS = r"block_sparse_moe\.(router\.layer|input_linear|output_linear)\.weight"
GRANITE_SHARED = r"shared_mlp\.(input|output)_linear\.weight"
TIED = r"model\.norm\.weight|model\.embed_tokens\.weight"
MINISTRAL3 = dict(
    num_hidden_layers=2,
    head_dim=16,
    rope_parameters=rope(
        "yarn",
        theta=1_000_000.0,
        factor=8.0,
        original_max_position_embeddings=16,
        beta_fast=32.0,
        beta_slow=1.0,
        mscale=1.0,
        mscale_all_dim=1.0,
        llama_4_scaling_beta=0.5,
    ),
)

LATENT = dict(
    num_hidden_layers=2,
    num_key_value_heads=4,
    kv_lora_rank=32,
    q_lora_rank=24,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=12,
    moe_intermediate_size=24,
    n_routed_experts=8,
    num_experts_per_tok=3,
    n_group=4,
    topk_group=2,
    first_k_dense_replace=1,
    rms_norm_eps=1e-6,
)
LATENT_NAMES = layer_names(
    r"self_attn\.(q|q_a|q_b|kv_a_proj_with_mqa|kv_b|o)(_proj)?\.weight",
    r"self_attn\.(q_a|kv_a)_layernorm\.weight",
    DENSE,
    NORMS,
    r"mlp\.gate\.(weight|e_score_correction_bias)",
    r"mlp\.experts\.(\d+\.(gate|up|down)_proj\.weight|gate_up_proj|down_proj)",
    r"mlp\.shared_experts\.(gate|up|down)_proj\.weight",
)
LATENT_YARN = dict(factor=8.0, original_max_position_embeddings=16, beta_fast=32.0, beta_slow=1.0)

# Prompts go past the window and YaRN's original context.
GPT_OSS = dict(
    head_dim=16,
    intermediate_size=32,
    num_local_experts=4,
    num_experts_per_tok=2,
    sliding_window=16,
    layer_types=["sliding_attention", "full_attention"],
    rope_parameters=rope(
        "yarn",
        theta=150_000.0,
        factor=4.0,
        original_max_position_embeddings=32,
        beta_fast=32.0,
        beta_slow=1.0,
        truncate=False,
    ),
)
GPT_OSS_NAMES = layer_names(
    ATTENTION,
    NORMS,
    r"self_attn\.[qkvo]_proj\.bias",
    r"self_attn\.sinks",
    r"mlp\.router\.(weight|bias)",
    r"mlp\.experts\.(gate_up|down)_proj(_bias)?",
)

CHECKPOINTS = {
    # Prompts of 33 and 100 tokens go past this window.
    "mistral_window": Checkpoint(
        "mistral",
        dict(sliding_window=16, head_dim=16, rope_parameters=rope(theta=10_000.0)),
        old=dict(rope_theta=10_000.0, rope_scaling=None, sliding_window=16, head_dim=None),
    ),
    # As in Mistral-Nemo: heads × head_dim is not the hidden size. Stored as float16.
    "mistral_full": Checkpoint(
        "mistral",
        dict(
            sliding_window=None,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            rope_parameters=rope(theta=1_000_000.0),
        ),
        dtype=torch.float16,
    ),
    # A large epsilon, so that the logits show if it is not read from the file. Sharded.
    "llama": Checkpoint(
        "llama",
        dict(rms_norm_eps=1e-3, rope_parameters=rope(theta=10_000.0)),
        shard_bytes=150_000,
    ),
    "llama_linear": Checkpoint(
        "llama",
        dict(rope_parameters=rope("linear", factor=4.0)),
        # The oldest spelling: "type", and no head_dim.
        old=dict(rope_theta=10_000.0, rope_scaling={"type": "linear", "factor": 4.0}, head_dim=None),
    ),
    "llama_llama3": Checkpoint(
        "llama",
        dict(num_hidden_layers=3, rope_parameters=rope("llama3", 500_000.0, **LLAMA3)),
        old=dict(rope_theta=500_000.0, rope_scaling={"rope_type": "llama3", **LLAMA3}),
    ),
    # The attention factor is not given, so it is 0.1 ln(factor) + 1.
    "llama_yarn": Checkpoint(
        "llama",
        dict(rope_parameters=rope("yarn", **YARN)),
        old=dict(rope_theta=10_000.0, rope_scaling={"rope_type": "yarn", **YARN}),
    ),
    "llama_yarn_given": Checkpoint(
        "llama",
        dict(
            num_hidden_layers=1,
            rope_parameters=rope(
                "yarn",
                factor=2.0,
                original_max_position_embeddings=64,
                attention_factor=0.8,
                beta_fast=2.0,
                beta_slow=0.25,
            ),
        ),
    ),
    # SmolLM2's shape: 9 query heads on 3 KV heads, tied embeddings, bfloat16 on disk.
    "smollm2": Checkpoint(
        "llama",
        dict(
            hidden_size=144,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
            rope_parameters=rope(theta=100_000.0),
        ),
        names=layer_names(ATTENTION, DENSE, NORMS, outer=r"model\.norm\.weight|model\.embed_tokens\.weight"),
        dtype=torch.bfloat16,
        old=dict(rope_theta=100_000.0, rope_scaling=None, head_dim=None),
    ),
    # As in published Qwen2.5 configurations, the old spelling names a window and then says not
    # to use it; a loader that applies it fails the goldens.
    "qwen2": Checkpoint(
        "qwen2",
        dict(rms_norm_eps=1e-6, use_sliding_window=False, rope_parameters=rope(theta=1_000_000.0)),
        names=layer_names(ATTENTION, r"self_attn\.[qkv]_proj\.bias", DENSE, NORMS),
        old=dict(
            rope_theta=1_000_000.0,
            rope_scaling=None,
            sliding_window=16,
            max_window_layers=2,
            layer_types=None,
        ),
    ),
    "qwen3": Checkpoint(
        "qwen3",
        dict(head_dim=32, rms_norm_eps=1e-3, use_sliding_window=False, rope_parameters=rope(theta=1_000_000.0)),
        names=layer_names(ATTENTION, r"self_attn\.[qk]_norm\.weight", DENSE, NORMS),
    ),
    "mixtral": Checkpoint(
        "mixtral",
        dict(
            intermediate_size=48,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=None,
            head_dim=16,
            rope_parameters=rope(theta=1_000_000.0),
        ),
        names=layer_names(
            ATTENTION,
            NORMS,
            r"block_sparse_moe\.gate\.weight",
            r"block_sparse_moe\.experts\.\d+\.w[123]\.weight",
        ),
        old=dict(rope_theta=1_000_000.0, rope_scaling=None, head_dim=None),
    ),
    # transformers 5 writes `num_local_experts`; published configurations say `num_experts`.
    "qwen3_moe": Checkpoint(
        "qwen3_moe",
        dict(**QWEN3_MOE, norm_topk_prob=True),
        names=QWEN3_MOE_NAMES,
        old=dict(rope_theta=1_000_000.0, rope_scaling=None, num_experts=8, num_local_experts=None),
    ),
    # The chosen experts' probabilities are used as they are, without scaling them to sum to 1.
    "qwen3_moe_unnormed": Checkpoint(
        "qwen3_moe",
        dict(**QWEN3_MOE, num_hidden_layers=1, norm_topk_prob=False),
        names=QWEN3_MOE_NAMES,
    ),
    # An expert that every token runs, behind a gate.
    "qwen2_moe": Checkpoint(
        "qwen2_moe",
        dict(
            moe_intermediate_size=16,
            shared_expert_intermediate_size=48,
            num_experts=6,
            num_experts_per_tok=2,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            norm_topk_prob=False,
            use_sliding_window=False,
            rms_norm_eps=1e-6,
            rope_parameters=rope(theta=1_000_000.0),
        ),
        names=layer_names(
            ATTENTION,
            NORMS,
            r"self_attn\.[qkv]_proj\.bias",
            r"mlp\.gate\.weight",
            r"mlp\.experts\.\d+\.(gate|up|down)_proj\.weight",
            r"mlp\.shared_expert\.(gate|up|down)_proj\.weight",
            r"mlp\.shared_expert_gate\.weight",
        ),
    ),
    # Prompts go past the original context, so that YaRN and the queries' factor act.
    "ministral3": Checkpoint("ministral3", MINISTRAL3),
    # The text part of a model that also reads images.
    "mistral3": Checkpoint(
        "mistral3",
        dict(
            text_config={**BASE, **MINISTRAL3, "model_type": "ministral3", "num_hidden_layers": 1},
            vision_config=VISION,
            tie_word_embeddings=False,
        ),
        names=r".*vision_tower\..*|.*multi_modal_projector\..*|language_model\.("
        + layer_names(ATTENTION, DENSE, NORMS)
        + ")",
    ),
    # Windows, two kinds of RoPE, norms of gain less 1 on both sides; a cap that bites.
    "gemma3": Checkpoint(
        "gemma3_text",
        dict(
            num_hidden_layers=3,
            head_dim=24,
            query_pre_attn_scalar=16,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            final_logit_softcapping=4.0,
            tie_word_embeddings=True,
            rope_parameters={
                "full_attention": rope("linear", theta=10_000.0, factor=4.0),
                "sliding_attention": rope(theta=100.0),
            },
        ),
        names=layer_names(ATTENTION, DENSE, QK_NORMS, GEMMA_NORMS, outer=TIED),
        norm_offset=-1.0,
        old=dict(
            rope_theta=10_000.0,
            rope_local_base_freq=100.0,
            rope_scaling={"rope_type": "linear", "factor": 4.0},
            layer_types=None,
            sliding_window_pattern=2,
        ),
    ),
    "gemma2": Checkpoint(
        "gemma2",
        dict(
            head_dim=24,
            query_pre_attn_scalar=16,
            sliding_window=16,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=4.0,
            tie_word_embeddings=True,
            rope_parameters=rope(theta=10_000.0),
        ),
        names=layer_names(ATTENTION, DENSE, GEMMA_NORMS, outer=TIED),
        norm_offset=-1.0,
        old=dict(rope_theta=10_000.0, rope_scaling=None, layer_types=None),
    ),
    "granite": Checkpoint(
        "granite",
        dict(
            embedding_multiplier=3.0,
            residual_multiplier=0.5,
            attention_multiplier=0.125,
            logits_scaling=2.0,
            rope_parameters=rope(theta=10_000.0),
        ),
        old=dict(rope_theta=10_000.0, rope_scaling=None),
    ),
    # Experts of one width, ranked by logits: the weights are a softmax over the used ones.
    "granitemoe": Checkpoint(
        "granitemoe",
        dict(**GRANITE_SCALES, intermediate_size=32, num_local_experts=6, num_experts_per_tok=2),
        names=layer_names(ATTENTION, NORMS, GRANITE_EXPERTS),
        old=dict(rope_theta=10_000.0, rope_scaling=None),
    ),
    "granitemoeshared": Checkpoint(
        "granitemoeshared",
        dict(
            **GRANITE_SCALES,
            intermediate_size=24,
            shared_intermediate_size=40,
            num_local_experts=6,
            num_experts_per_tok=3,
            tie_word_embeddings=True,
        ),
        names=layer_names(ATTENTION, NORMS, GRANITE_EXPERTS, GRANITE_SHARED, outer=TIED),
    ),
    # As dense Granite 4: a hybrid of attention layers alone, without experts.
    "granitemoehybrid": Checkpoint(
        "granitemoehybrid",
        dict(
            **GRANITE_SCALES,
            layer_types=["full_attention", "full_attention"],
            position_embedding_type="rope",
            num_local_experts=0,
            num_experts_per_tok=0,
            shared_intermediate_size=96,
            tie_word_embeddings=True,
        ),
        names=layer_names(ATTENTION, NORMS, GRANITE_SHARED, outer=TIED),
        old=dict(rope_theta=10_000.0, rope_scaling=None, layer_types=["attention", "attention"]),
    ),
    # The same without RoPE.
    "granitemoehybrid_nope": Checkpoint(
        "granitemoehybrid",
        dict(
            **GRANITE_SCALES,
            num_hidden_layers=1,
            layer_types=["full_attention"],
            position_embedding_type="nope",
            num_local_experts=0,
            num_experts_per_tok=0,
            shared_intermediate_size=64,
        ),
        names=layer_names(ATTENTION, NORMS, GRANITE_SHARED),
    ),
    # Fused projections, a window.
    "phi3": Checkpoint(
        "phi3",
        dict(sliding_window=16, rope_parameters=rope(theta=10_000.0)),
        names=layer_names(*PHI3_NAMES),
        old=dict(rope_theta=10_000.0, rope_scaling=None),
    ),
    # As Phi-4-mini: three quarters of a head turn; prompts of 100 tokens go past the original context, so that they have the
    # long factors and the others the short ones.
    "phi3_long": Checkpoint(
        "phi3",
        dict(
            original_max_position_embeddings=64,
            tie_word_embeddings=True,
            rope_parameters=rope("longrope", theta=10_000.0, partial_rotary_factor=0.75, **LONG_ROPE),
        ),
        names=layer_names(*PHI3_NAMES, outer=TIED),
        old=dict(rope_theta=10_000.0, partial_rotary_factor=0.75, rope_scaling={"type": "longrope", **LONG_ROPE}),
    ),
    # Half of a head turns, in adjacent pairs; norms on both sides of each half.
    "glm4": Checkpoint(
        "glm4",
        dict(head_dim=24, rope_parameters=rope(theta=10_000.0, partial_rotary_factor=0.5)),
        names=layer_names(
            ATTENTION,
            QKV_BIASES,
            FUSED_DENSE,
            NORMS,
            r"post_(self_attn|mlp)_layernorm\.weight",
        ),
        old=dict(rope_theta=10_000.0, rope_scaling=None, partial_rotary_factor=0.5),
    ),
    "glm": Checkpoint(
        "glm",
        dict(head_dim=16, attention_bias=False, rope_parameters=rope(theta=10_000.0, partial_rotary_factor=0.5)),
        names=layer_names(ATTENTION, FUSED_DENSE, NORMS),
    ),
    "smollm3": Checkpoint(
        "smollm3",
        dict(
            num_hidden_layers=4,
            intermediate_size=64,
            tie_word_embeddings=True,
            rope_parameters=rope(theta=100_000.0),
        ),
        names=layer_names(ATTENTION, DENSE, NORMS, outer=TIED),
    ),
    "olmo2": Checkpoint(
        "olmo2",
        dict(rope_parameters=rope(theta=500_000.0)),
        names=layer_names(ATTENTION, DENSE, QK_NORMS, r"post_(attention|feedforward)_layernorm\.weight"),
        old=dict(rope_theta=500_000.0, rope_scaling=None),
    ),
    # YaRN in the full layer only.
    "olmo3": Checkpoint(
        "olmo3",
        dict(
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": rope("yarn", theta=500_000.0, **YARN),
                "sliding_attention": rope(theta=500_000.0),
            },
        ),
        names=layer_names(ATTENTION, DENSE, QK_NORMS, r"post_(attention|feedforward)_layernorm\.weight"),
    ),
    # Latent attention without a latent of queries; groups ranked by their best expert.
    "deepseek_v2": Checkpoint(
        "deepseek_v2",
        {
            **LATENT,
            "q_lora_rank": None,
            "n_shared_experts": 2,
            "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 3.0,
            "rope_parameters": rope("yarn", **LATENT_YARN, mscale=0.707, mscale_all_dim=0.707),
        },
        names=LATENT_NAMES,
        old=dict(
            rope_theta=10_000.0,
            rope_scaling=dict(type="yarn", **LATENT_YARN, mscale=0.707, mscale_all_dim=0.707),
        ),
    ),
    # Sigmoids, a correction that changes the choice, groups ranked by two experts.
    "deepseek_v3": Checkpoint(
        "deepseek_v3",
        {
            **LATENT,
            "n_shared_experts": 1,
            "routed_scaling_factor": 2.5,
            "rope_parameters": rope("yarn", **LATENT_YARN, mscale=1.0, mscale_all_dim=1.0),
        },
        names=LATENT_NAMES,
        old=dict(
            rope_theta=10_000.0,
            rope_scaling=dict(type="yarn", **LATENT_YARN, mscale=1.0, mscale_all_dim=1.0),
        ),
    ),
    # The text part of Mistral Small 4: latent attention with the queries' factor.
    "mistral4": Checkpoint(
        "mistral3",
        dict(
            text_config={
                **BASE,
                **LATENT,
                "model_type": "mistral4",
                "n_shared_experts": 1,
                "routed_scaling_factor": 1.5,
                "rope_parameters": rope(
                    "yarn", **LATENT_YARN, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.5
                ),
            },
            vision_config=VISION,
            tie_word_embeddings=False,
        ),
        names=r".*vision_tower\..*|.*multi_modal_projector\..*|language_model\.(" + LATENT_NAMES + ")",
    ),
    # Half of each head is rotated; biases, norms of Q and K, a corrected router behind a dense layer.
    "glm4_moe": Checkpoint(
        "glm4_moe",
        dict(
            head_dim=24,
            attention_bias=True,
            use_qk_norm=True,
            moe_intermediate_size=24,
            n_routed_experts=8,
            n_shared_experts=1,
            num_experts_per_tok=3,
            first_k_dense_replace=1,
            routed_scaling_factor=2.5,
            rope_parameters=rope(theta=10_000.0, partial_rotary_factor=0.5),
        ),
        names=layer_names(
            ATTENTION,
            r"self_attn\.[qkv]_proj\.bias",
            QK_NORMS,
            DENSE,
            NORMS,
            r"mlp\.gate\.(weight|e_score_correction_bias)",
            r"mlp\.experts\.\d+\.(gate|up|down)_proj\.weight",
            r"mlp\.shared_experts\.(gate|up|down)_proj\.weight",
        ),
        old=dict(rope_theta=10_000.0, rope_scaling=None, partial_rotary_factor=0.5),
    ),
    # LayerNorm, halves in parallel, no RoPE in full layers.
    "cohere2": Checkpoint(
        "cohere2",
        dict(
            layer_norm_eps=1e-3,
            logit_scale=2.0,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
            tie_word_embeddings=True,
            rope_parameters=rope(theta=10_000.0),
        ),
        names=layer_names(ATTENTION, DENSE, r"input_layernorm\.weight", outer=TIED),
    ),
    # Sinks, biases everywhere, limits that act, gate and up interleaved in one tensor.
    "gpt_oss": Checkpoint(
        "gpt_oss",
        GPT_OSS,
        names=GPT_OSS_NAMES,
        router_gap=0.02,
        old=dict(
            rope_theta=150_000.0,
            rope_scaling={k: v for k, v in GPT_OSS["rope_parameters"].items() if k != "rope_theta"},
        ),
    ),
    # As published: experts in MXFP4.
    "gpt_oss_mxfp4": Checkpoint(
        "gpt_oss",
        GPT_OSS,
        names=GPT_OSS_NAMES,
        mxfp4=True,
        router_gap=0.02,
    ),
    # Chunks of 16 in three of four layers, none of RoPE and a factor of queries in the fourth; queries and keys normalised
    # without a weight behind RoPE; experts in every second layer, with a sigmoid's factor on their input.
    "llama4": Checkpoint(
        "llama4_text",
        dict(
            num_hidden_layers=4,
            intermediate_size=24,
            intermediate_size_mlp=48,
            head_dim=16,
            num_local_experts=4,
            num_experts_per_tok=2,
            interleave_moe_layer_step=2,
            attention_chunk_size=16,
            floor_scale=16,
            attn_scale=0.5,
            rope_parameters=rope(
                "llama3",
                theta=500_000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=1.0,
                original_max_position_embeddings=32,
            ),
        ),
        names=layer_names(
            ATTENTION,
            NORMS,
            r"feed_forward\.(gate|up|down)_proj\.weight",
            r"feed_forward\.router\.weight",
            r"feed_forward\.experts\.(gate_up|down)_proj",
            r"feed_forward\.shared_expert\.(gate|up|down)_proj\.weight",
        ),
    ),
}


def random_tensor(name: str, shape: list[int], seed: int, norm_offset: float = 0.0) -> torch.Tensor:
    """A tensor's values, from its name and shape alone.

    Large enough for logits with real spread: matrices have standard deviation 0.2, norms lie in
    0.5..1.5 and biases have standard deviation 0.3.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("norm.weight"):
        values = rng.uniform(0.5, 1.5, shape)
        if norm_offset:
            # few bits, so that the gain and the gain less 1 are both exact
            values = np.round((values + norm_offset) * 4096) / 4096
    elif name.endswith((".bias", "_bias")):
        values = rng.normal(0.0, 0.3, shape)
    elif name.endswith(".sinks"):
        # as large as scores
        values = rng.normal(0.0, 2.0, shape)
    elif name.endswith("mlp.experts.gate_up_proj"):
        # so that limits act
        values = rng.normal(0.0, 0.6, shape)
    else:
        values = rng.normal(0.0, 0.2, shape)
    return torch.from_numpy(values.astype(np.float32))


def random_mxfp4(name: str, shape: list[int], seed: int) -> dict[str, torch.Tensor]:
    """Blocks and scales of experts, in place of a float tensor `[experts, in, out]`."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    experts, cols, rows = shape
    blocks = rng.integers(0, 256, (experts, rows, cols // 32, 16), dtype=np.uint8)
    scales = rng.integers(123, 126, (experts, rows, cols // 32), dtype=np.uint8)
    return {f"{name}_blocks": torch.from_numpy(blocks), f"{name}_scales": torch.from_numpy(scales)}


def auto_class(model_type: str) -> type:
    """What opens a model of this type."""
    return AutoModelForImageTextToText if model_type == "mistral3" else AutoModelForCausalLM


def write_checkpoint(folder: Path, spec: Checkpoint, seed: int) -> None:
    """Lets transformers write the files, then refills every tensor in them."""
    options = spec.options if "text_config" in spec.options else {**BASE, **spec.options}
    config = AutoConfig.for_model(spec.model_type, **options)
    config.dtype = spec.dtype
    torch.manual_seed(seed)
    model = auto_class(spec.model_type).from_config(config).to(spec.dtype)
    model.save_pretrained(folder, max_shard_size=spec.shard_bytes)
    (folder / "generation_config.json").unlink(missing_ok=True)

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
        for name in shapes:
            assert re.fullmatch(spec.names, name), f"{folder.name}: unexpected tensor {name}"
        tensors = {}
        for name, shape in shapes.items():
            if spec.mxfp4 and name.endswith("_proj") and "experts" in name:
                tensors |= random_mxfp4(name, shape, seed)
            else:
                tensors[name] = random_tensor(name, shape, seed, spec.norm_offset).to(spec.dtype)
        save_file(tensors, path, metadata=metadata)
        total += path.stat().st_size
    if spec.mxfp4:
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {
            "quant_method": "mxfp4",
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    assert total <= MAX_BYTES, f"{folder.name}: {total} bytes of weights"
    assert (spec.shard_bytes < total) == (folder / "model.safetensors.index.json").exists()


def write_old_config(folder: Path, spec: Checkpoint) -> None:
    """Writes `config.old.json`: the same model, spelt as before `rope_parameters` and `dtype`."""
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"
    for key, value in spec.old.items():
        if value is None and key != "rope_scaling":
            config.pop(key, None)
        else:
            config[key] = value
    (folder / "config.old.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load(folder: Path, config_name: str = "config.json") -> torch.nn.Module:
    """Loads a checkpoint in float32, with the named file as its configuration."""
    with tempfile.TemporaryDirectory() as temporary:
        for path in folder.glob("model*"):
            shutil.copy(path, temporary)
        shutil.copy(folder / config_name, Path(temporary) / "config.json")
        config = json.loads((folder / config_name).read_text())
        extra = {}
        if "quantization_config" in config:
            extra["quantization_config"] = Mxfp4Config(dequantize=True)
        model, report = auto_class(config["model_type"]).from_pretrained(
            temporary, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **extra
        )
    for kind, names in report.items():
        assert not names, f"{folder.name}: {kind}: {names}"
    return model.eval()


def score_gap(gate: torch.nn.Module, logits: torch.Tensor) -> float:
    """The smallest gap at which a router that ranks scores and groups of experts made a choice."""
    sigmoid = hasattr(gate, "e_score_correction_bias")
    scores = logits.sigmoid() + gate.e_score_correction_bias if sigmoid else logits.softmax(-1)
    gaps = []

    def last(values: torch.Tensor, k: int) -> torch.Tensor:
        best = values.sort(dim=-1, descending=True)
        if k < values.shape[-1]:
            gaps.append((best.values[:, k - 1] - best.values[:, k]).min().item())
        return best.indices[:, :k]

    if gate.num_group is not None and gate.num_group > 1:
        groups = scores.unflatten(-1, (gate.num_group, -1))
        by_one = getattr(gate, "topk_method", None) == "group_limited_greedy"
        used = last(groups.topk(1 if by_one else 2, dim=-1).values.sum(-1), gate.topk_group)
        scores = groups.gather(1, used[..., None].expand(-1, -1, groups.shape[-1])).flatten(1)
    last(scores, gate.top_k)
    return min(gaps)


@torch.no_grad()
def run(model: torch.nn.Module, ids: np.ndarray) -> tuple[torch.Tensor, float]:
    """Logits `[tokens, vocab]`, and the smallest gap at which a router chose its last expert."""
    config = model.config
    gates = [m for m in model.modules() if hasattr(m, "topk_group")]
    if gates:
        gaps = []
        hook = lambda gate, _, out: gaps.append(score_gap(gate, out[0].float()))  # noqa: E731
        hooks = [gate.register_forward_hook(hook) for gate in gates]
        out = model(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
        for handle in hooks:
            handle.remove()
        return out.logits[0].float(), min(gaps) * MIN_ROUTER_GAP / MIN_SCORE_GAP
    routed = getattr(config, "num_local_experts", getattr(config, "num_experts", 0))
    extra = {"output_router_logits": True} if routed else {}
    out = model(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False, **extra)
    gap = float("inf")
    for logits in out.router_logits if routed else ():
        best = logits.float().sort(dim=-1, descending=True).values
        k = config.num_experts_per_tok
        gap = min(gap, (best[:, k - 1] - best[:, k]).min().item())
    return out.logits[0].float(), gap


def make_goldens(folder: Path, spec: Checkpoint, seed: int) -> str:
    """Draws the prompts, writes `goldens.safetensors`, checks the old spelling; returns a summary."""
    model = load(folder)
    goldens, worst = {}, float("inf")
    for length in LENGTHS:
        for attempt in range(2000):
            rng = np.random.default_rng([seed, length, attempt])
            ids = rng.integers(0, BASE["vocab_size"], length, dtype=np.int32)
            logits, router_gap = run(model, ids)
            best = logits.topk(2, dim=-1).values
            gap = (best[:, 0] - best[:, 1]).min().item()
            if gap >= MIN_GAP and router_gap >= spec.router_gap:
                break
        else:
            raise SystemExit(f"{folder.name}: no prompt of {length} tokens without near ties")
        worst = min(worst, gap)
        goldens[f"ids.{length}"] = torch.from_numpy(ids)
        goldens[f"logits.{length}"] = logits.contiguous()
    save_file(goldens, folder / "goldens.safetensors", metadata={"transformers": transformers.__version__})

    if spec.old:
        write_old_config(folder, spec)
        model = load(folder, "config.old.json")
        for length in LENGTHS:
            logits, _ = run(model, goldens[f"ids.{length}"].numpy())
            assert torch.equal(logits, goldens[f"logits.{length}"]), f"{folder.name}: old spelling differs"
    spread = goldens[f"logits.{LENGTHS[-1]}"].std().item()
    return f"logit std {spread:.2f}, smallest top-2 gap {worst:.4f}"


def main() -> None:
    """Makes all checkpoints, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"which to make (default: all of {', '.join(CHECKPOINTS)})")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--seed", type=int, default=20261123)
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()

    for name in args.names or CHECKPOINTS:
        folder, spec = args.out / name, CHECKPOINTS[name]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_checkpoint(folder, spec, args.seed)
        summary = make_goldens(folder, spec, args.seed)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{name}: {size // 1000} kB, {summary}", flush=True)


if __name__ == "__main__":
    main()
