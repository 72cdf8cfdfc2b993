"""Makes tiny seeded checkpoints of one-byte floats (e4m3), and the logits of their dequantised weights.

One folder for each, next to this script. `../hf/make_hf.py` writes a float checkpoint and transformers' logits; here its matrices
become codes and scales, as published files store them:

* `tensor`: Ministral 3, one scale for each matrix (`weight_scale_inv`, bf16) and one for its activations;
* `tensor_own`: the same weights in Mistral's own layout (`params.json`, `consolidated.safetensors`);
* `plain_own`: in the same layout a model of another size, its weights dequantised: not quantised for the reader;
* `blocks`: Qwen 3, a scale for each block of 128 × 128 (float32), rows that are not whole blocks, the head not converted;
* `latent_own`: Mistral Small 4 in Mistral's own layout: latent attention and experts.

Each has `goldens.safetensors` as in `../hf`, computed in float32 from the dequantised weights.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "hf"))
import make_hf  # noqa: E402

SEED = 20261129
make_hf.MAX_BYTES = 3_000_000  # of float weights, before they are quantised
MAX_E4M3 = 448.0
BASE = dict(hidden_size=128, intermediate_size=256, head_dim=32, num_hidden_layers=2)
NOT_CONVERTED = ["lm_head", "model.embed_tokens"]
YARN = dict(factor=8.0, original_max_position_embeddings=16, beta_fast=32.0, beta_slow=1.0)
DENSE = make_hf.Checkpoint(
    "ministral3",
    dict(
        **BASE,
        rope_parameters=make_hf.rope(
            "yarn", theta=1_000_000.0, **YARN, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.5
        ),
    ),
)
PLAIN = make_hf.Checkpoint("ministral3", make_hf.MINISTRAL3)
BLOCKS = make_hf.Checkpoint(
    "qwen3",
    dict(**{**BASE, "intermediate_size": 384, "num_hidden_layers": 1}, rope_parameters=make_hf.rope()),
    names=make_hf.layer_names(make_hf.ATTENTION, make_hf.DENSE, make_hf.NORMS, make_hf.QK_NORMS),
)
LATENT_TEXT = {
    **make_hf.BASE,
    **make_hf.LATENT,
    "hidden_size": 128,
    "intermediate_size": 128,
    "q_lora_rank": 128,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "model_type": "mistral4",
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.5,
    "rope_parameters": make_hf.rope("yarn", **YARN, attention_factor=1.0, llama_4_scaling_beta=0.5),
}
LATENT = make_hf.Checkpoint(
    "mistral3",
    dict(text_config=LATENT_TEXT, vision_config=make_hf.VISION, tie_word_embeddings=False),
    names=r".*vision_tower\..*|.*multi_modal_projector\..*|language_model\.(" + make_hf.LATENT_NAMES + ")",
)


def is_matrix(name: str, tensor: torch.Tensor) -> bool:
    """Whether published files have it in e4m3: projections, not embeddings, routers and the head."""
    return tensor.dim() > 1 and name.startswith("model.layers.") and not name.endswith("mlp.gate.weight")


def codes(tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The nearest codes of a matrix, `scale` already of its shape."""
    return (tensor / scale).clamp(-MAX_E4M3, MAX_E4M3).to(torch.float8_e4m3fn)


def per_tensor(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scale (bf16, a scalar) and the dequantised matrix."""
    scale = (tensor.abs().max() / MAX_E4M3).to(torch.bfloat16)
    made = codes(tensor, scale.float())
    return made, scale, made.float() * scale.float()


def per_block(tensor: torch.Tensor, size: int = 128) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales (float32, one for each block) and the dequantised matrix."""
    rows, cols = tensor.shape
    scales = torch.stack(
        [
            torch.stack([tensor[r : r + size, c : c + size].abs().max() for c in range(0, cols, size)])
            for r in range(0, rows, size)
        ]
    ) / MAX_E4M3
    wide = scales.repeat_interleave(size, 0)[:rows].repeat_interleave(size, 1)[:, :cols]
    made = codes(tensor, wide)
    return made, scales, made.float() * wide


def text_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The text part's tensors under the names of a text-only model, experts one by one."""
    out = {}
    for name, tensor in tensors.items():
        if "vision_tower" in name or "multi_modal_projector" in name:
            continue
        name = name.replace("language_model.model.", "model.").replace("language_model.lm_head", "lm_head")
        name = name.replace("model.language_model.", "model.")
        if name.endswith("experts.gate_up_proj"):
            for e, both in enumerate(tensor):
                gate, up = both.chunk(2)
                out[name.replace("gate_up_proj", f"{e}.gate_proj.weight")] = gate.contiguous()
                out[name.replace("gate_up_proj", f"{e}.up_proj.weight")] = up.contiguous()
        elif name.endswith("experts.down_proj"):
            for e, down in enumerate(tensor):
                out[name.replace("down_proj", f"{e}.down_proj.weight")] = down.contiguous()
        else:
            out[name] = tensor
    return out


def together(single: dict[str, torch.Tensor], like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `text_names`: values of `single` under the names and in the shapes of `like`."""
    out = {}
    for name, tensor in like.items():
        parts = [single[part] for part in text_names({name: tensor})]
        if "experts." in name and tensor.dim() == 3:
            step = len(parts) // tensor.shape[0]
            out[name] = torch.stack([torch.cat(parts[e : e + step]) for e in range(0, len(parts), step)])
        else:
            out[name] = parts[0] if parts else tensor
    return out


def adjacent(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows for halves of a head in the order for adjacent pairs."""
    rows = tensor.shape[0]
    order = torch.arange(rows).view(heads, 2, -1).transpose(1, 2).flatten()
    return tensor.view(torch.uint8)[order].view(tensor.dtype) if tensor.element_size() == 1 else tensor[order]


OWN = [
    ("model.embed_tokens.", "tok_embeddings."),
    ("model.norm.", "norm."),
    ("lm_head.", "output."),
    ("model.layers.", "layers."),
    ("self_attn.q_proj", "attention.wq"),
    ("self_attn.k_proj", "attention.wk"),
    ("self_attn.v_proj", "attention.wv"),
    ("self_attn.o_proj", "attention.wo"),
    ("self_attn.q_a_proj", "attention.wq_a"),
    ("self_attn.q_a_layernorm", "attention.q_a_norm"),
    ("self_attn.q_b_proj", "attention.wq_b"),
    ("self_attn.kv_a_proj_with_mqa", "attention.wkv_a_with_mqa"),
    ("self_attn.kv_a_layernorm", "attention.kv_a_norm"),
    ("self_attn.kv_b_proj", "attention.wkv_b"),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate.", "gate."),
    ("mlp.shared_experts.", "shared_experts."),
    ("mlp.experts.", "experts."),
    ("mlp.", "feed_forward."),
    ("gate_proj", "w1"),
    ("down_proj", "w2"),
    ("up_proj", "w3"),
    ("weight_scale_inv", "qscale_weight"),
    ("activation_scale", "qscale_act"),
]


def own_name(name: str) -> str:
    """A tensor's name in Mistral's own layout."""
    for theirs, own in OWN:
        name = name.replace(theirs, own)
    return name


def own_layout(tensors: dict[str, torch.Tensor], heads: int, kv_heads: int) -> dict[str, torch.Tensor]:
    """Tensors under Mistral's own names, Q and K for adjacent pairs."""
    out = {}
    for name, tensor in tensors.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = adjacent(tensor, heads if name.endswith("q_proj.weight") else kv_heads)
        out[own_name(name)] = tensor
    # what belongs to the part that reads images is skipped
    out["vision_encoder.patch_conv.weight"] = torch.zeros(2, 3, 2, 2)
    return out


def params(config: dict, quantized: bool) -> dict:
    """The `params.json` of a text configuration."""
    rope = config["rope_parameters"]
    out = dict(
        dim=config["hidden_size"],
        n_layers=config["num_hidden_layers"],
        head_dim=config["head_dim"],
        hidden_dim=config["intermediate_size"],
        n_heads=config["num_attention_heads"],
        n_kv_heads=config["num_key_value_heads"],
        rope_theta=rope["rope_theta"],
        norm_eps=config["rms_norm_eps"],
        vocab_size=config["vocab_size"],
        tied_embeddings=False,
        max_position_embeddings=config["max_position_embeddings"],
        yarn=dict(
            original_max_position_embeddings=rope["original_max_position_embeddings"],
            factor=rope["factor"],
            apply_scale=False,
            beta=rope["beta_fast"],
            alpha=rope["beta_slow"],
        ),
        llama_4_scaling=dict(
            original_max_position_embeddings=rope["original_max_position_embeddings"],
            beta=rope["llama_4_scaling_beta"],
        ),
        vision_encoder=dict(hidden_size=16),
    )
    if quantized:
        out["quantization"] = dict(qformat_weight="fp8_e4m3", qscheme_act="TENSOR")
    if "kv_lora_rank" in config:
        for key in ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
            out[key] = config[key]
        out["moe"] = dict(
            expert_parallel=1,
            first_k_dense_replace=config["first_k_dense_replace"],
            route_every_n=1,
            num_experts=config["n_routed_experts"],
            num_experts_per_tok=config["num_experts_per_tok"],
            expert_hidden_dim=config["moe_intermediate_size"],
            routed_scale=config["routed_scaling_factor"],
            num_shared_experts=config["n_shared_experts"],
            num_expert_groups=config["n_group"],
            num_expert_groups_per_tok=config["topk_group"],
        )
    return out


def fresh(name: str) -> Path:
    """An empty folder."""
    shutil.rmtree(HERE / name, ignore_errors=True)
    (HERE / name).mkdir()
    return HERE / name


def write_json(path: Path, value: dict) -> None:
    """Writes an object as the other configurations are written."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def quantize(spec: make_hf.Checkpoint, by: callable, own: str | None, usual: str | None, plain: str | None) -> None:
    """Makes a checkpoint, its quantised forms and their logits."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_hf.write_checkpoint(folder, spec, SEED)
        (path,) = folder.glob("*.safetensors")
        floats = load_file(path)
        single, stored, dequantized = text_names(floats), {}, {}
        for name, tensor in single.items():
            if is_matrix(name, tensor):
                made, scale, dequantized[name] = by(tensor)
                stored |= {name: made, f"{name}_scale_inv": scale}
                if by is per_tensor:
                    stored[name.replace("weight", "activation_scale")] = torch.tensor(0.5, dtype=torch.bfloat16)
            else:
                stored[name] = dequantized[name] = tensor
        save_file(together(dequantized, floats), path, metadata={"format": "pt"})
        print(own or usual or plain, make_hf.make_goldens(folder, spec, SEED), flush=True)
        config = json.loads((folder / "config.json").read_text())
        text = config.get("text_config", config)
        heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
        for name, tensors, is_own in [(usual, stored, False), (own, stored, True), (plain, dequantized, True)]:
            if name is None:
                continue
            to = fresh(name)
            shutil.copyfile(folder / "goldens.safetensors", to / "goldens.safetensors")
            if is_own:
                save_file(own_layout(tensors, heads, kv_heads), to / "consolidated.safetensors")
                write_json(to / "params.json", params(text, tensors is stored))
                continue
            save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
            config["quantization_config"] = dict(
                quant_method="fp8",
                activation_scheme="static" if by is per_tensor else "dynamic",
                modules_to_not_convert=NOT_CONVERTED,
                weight_block_size=None if by is per_tensor else [128, 128],
            )
            write_json(to / "config.json", config)


def main() -> None:
    """Makes all checkpoints."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    quantize(DENSE, per_tensor, own="tensor_own", usual="tensor", plain=None)
    quantize(PLAIN, per_tensor, own=None, usual=None, plain="plain_own")
    quantize(BLOCKS, per_block, own=None, usual="blocks", plain=None)
    quantize(LATENT, per_tensor, own="latent_own", usual=None, plain=None)


if __name__ == "__main__":
    main()
