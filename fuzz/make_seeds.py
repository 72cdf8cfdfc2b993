"""Writes the seeds of the fuzz targets: small valid inputs, from which the fuzzer makes others.

    python3 fuzz/make_seeds.py

Inputs that once failed are in the same folders under names that begin with `fault-`; this script leaves them alone.
"""

import json
import struct
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def seed(target: str, name: str, data: bytes | str | dict | list) -> None:
    if isinstance(data, (dict, list)):
        data = json.dumps(data)
    if isinstance(data, str):
        data = data.encode()
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


# GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def metadata(value) -> bytes:
    match value:
        case bool():
            return struct.pack("<IB", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        case [float(), *_]:
            return struct.pack(f"<IIQ{len(value)}f", 9, 6, len(value), *value)
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    raise ValueError(value)


def gguf(keys: dict, tensors: dict[str, tuple[list[int], int, int]]) -> bytes:
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, value in keys.items():
        out += text(key) + metadata(value)
    offset = 0
    for name, (shape, kind, size) in tensors.items():
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += -(-size // 32) * 32
    out += bytes(-len(out) % 32)
    return out + bytes(offset)


PIECES = ["<unk>", "<s>", "</s>", "a", "b", "ab", "\u2581", "\u2581a"]
LLAMA = {
    "general.architecture": "llama",
    "general.name": "seed",
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.block_count": 1,
    "llama.feed_forward_length": 32,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.scores": [float(-i) for i in range(len(PIECES))],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
}


def f32(*shape: int) -> tuple[list[int], int, int]:
    size = 4
    for n in shape:
        size *= n
    return list(shape), 0, size


TENSORS = {
    "token_embd.weight": f32(32, 8),
    "output_norm.weight": f32(32),
    "blk.0.attn_norm.weight": f32(32),
    "blk.0.attn_q.weight": f32(32, 32),
    "blk.0.attn_k.weight": f32(32, 16),
    "blk.0.attn_v.weight": ([32, 16], 8, 16 * 34),
    "blk.0.attn_output.weight": ([32, 32], 2, 32 * 18),
    "blk.0.ffn_norm.weight": f32(32),
    "blk.0.ffn_gate.weight": ([32, 32], 8, 32 * 34),
    "blk.0.ffn_up.weight": ([32, 32], 8, 32 * 34),
    "blk.0.ffn_down.weight": ([32, 32], 8, 32 * 34),
}
seed("gguf", "llama", gguf(LLAMA, TENSORS))
seed("gguf", "bpe", gguf(
    LLAMA | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": ["a", "b", "ab", "\u0120", "<|im_start|>", "<|im_end|>", "c", "d"],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.token_type": [1, 1, 1, 1, 3, 3, 1, 1],
    },
    TENSORS,
))
seed("gguf", "empty", gguf({}, {}))

# The weights of the tiny Llama in `src/files.rs`.
WEIGHTS = {"model.embed_tokens.weight": [3, 4], "model.norm.weight": [4], "lm_head.weight": [3, 4]}
for name, shape in {
    "input_layernorm": [4], "self_attn.q_proj": [4, 4], "self_attn.k_proj": [4, 4], "self_attn.v_proj": [4, 4],
    "self_attn.o_proj": [4, 4], "post_attention_layernorm": [4], "mlp.gate_proj": [2, 4], "mlp.up_proj": [2, 4],
    "mlp.down_proj": [4, 2],
}.items():
    WEIGHTS[f"model.layers.0.{name}.weight"] = shape
for dtype, size in {"F32": 4, "BF16": 2}.items():
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in WEIGHTS.items():
        begin, end = end, end + size * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text_header = json.dumps(header).encode()
    seed("safetensors", dtype.lower(), struct.pack("<Q", len(text_header)) + text_header + bytes(end))

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
}
seed("config", "llama", CONFIG)
seed("config", "yarn", CONFIG | {"rope_scaling": {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1,
    "mscale": 1.0, "mscale_all_dim": 1.0}})
seed("config", "window", CONFIG | {"model_type": "mistral", "sliding_window": 16, "head_dim": 32})
seed("config", "experts", CONFIG | {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
                                    "moe_intermediate_size": 32, "norm_topk_prob": True})

added = {"id": 3, "content": "<|im_end|>", "special": True, "normalized": False, "single_word": False,
         "lstrip": False, "rstrip": False}
seed("tokenizer_json", "bpe", {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [added],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "a"},
                   {"type": "Replace", "pattern": {"String": " "}, "content": "b"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]},
    "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
                       "pair": [], "special_tokens": {}},
    "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
              "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
              "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
})
seed("tokenizer_json", "unigram", {
    "added_tokens": [], "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="},
    "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    "post_processor": None, "decoder": None,
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False},
})
seed("tokenizer_json", "wordpiece", {
    "added_tokens": [], "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                                       "strip_accents": None, "lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None, "decoder": None,
    "model": {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 100, "vocab": {"a": 0, "##b": 1}},
})
seed("tekken", "small", {
    "config": {"pattern": "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\s+", "num_vocab_tokens": 258,
               "default_vocab_size": 260, "default_num_special_tokens": 2, "version": "v3"},
    "vocab": [{"rank": 0, "token_bytes": "AA==", "token_str": None}, {"rank": 1, "token_bytes": "YQ==",
              "token_str": "a"}],
    "special_tokens": [{"rank": 0, "token_str": "<unk>", "is_control": True},
                       {"rank": 1, "token_str": "<s>", "is_control": True}],
})


# SentencePiece: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
def field(number: int, wire: int, value: bytes) -> bytes:
    return bytes([number << 3 | wire]) + (bytes([len(value)]) if wire == 2 else b"") + value


pieces = b"".join(
    field(1, 2, field(1, 2, piece.encode()) + field(2, 5, struct.pack("<f", -i)) + field(3, 0, bytes([kind])))
    for i, (piece, kind) in enumerate(zip(PIECES, [2, 3, 3, 1, 1, 1, 1, 1]))
)
seed("sentencepiece", "bpe", pieces + field(2, 2, field(3, 0, b"\x02")))
seed("sentencepiece", "unigram", pieces + field(2, 2, field(3, 0, b"\x01")))

seed("prompt_cache", "start", b"zonda prompt cache")
seed("results", "version", {"schema_version": 5, "runs": [], "subjects": []})

seed("template", "chatml", "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message.content | trim }}"
     "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
seed("template", "tools", "{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% set ns = namespace(a=0) %}"
     "{% for m in messages[1:] %}{% set ns.a = ns.a + loop.index %}{% if m.role not in ['user'] %}"
     "{{ m.content.split('x')[0] ~ ns.a }}{% else %}{{ raise_exception('x') }}{% endif %}{% endfor %}")
seed("template", "macro", "{% macro f(x) %}{% if x is mapping %}{% for k, v in x | items %}{{ f(v) }}{% endfor %}"
     "{% else %}{{ x | string | length }}{% endif %}{% endmacro %}{{ f({'a': [1, 2.5, none]}) }}")

for i, lark in enumerate(['start: a | "b"\na: /[0-9]+/ start?\n', 'start: x{2,3}\nx: %json {"type": "integer"}\n',
                          'start: <[1]> TEXT\nTEXT: /(.|\\n)*/\n']):
    seed("grammar", f"lark-{i}", b"\0" + lark.encode())
seed("grammar", "regex", b"\1(a|b)*c{2,5}[^x]\\d\\p{L}")
for i, schema in enumerate([
    {"type": "object", "properties": {"a": {"enum": [1, "x", None]}, "b": {"$ref": "#/$defs/c"}}, "required": ["a"],
     "$defs": {"c": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}}},
    {"anyOf": [{"type": "string", "pattern": "^a+$", "maxLength": 5}, {"type": "number", "minimum": 0.5}]},
    {"allOf": [{"type": "integer", "multipleOf": 3}, {"not": {"const": 3}}]},
    {"patternProperties": {"^x": {"format": "date-time"}}, "additionalProperties": False, "minProperties": 1},
]):
    seed("grammar", f"schema-{i}", b"\2" + json.dumps(schema).encode())

CALLS = ['[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]', '[TOOL_CALLS]f[CALL_ID]x[ARGS]{"a": "]"}',
         '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "f"}',
         'so <tool_call>\n{"name": "f", "arguments": {"a": "</tool_call>"}}\n</tool_call> x',
         '<tool_call>[{"name": "f", "arguments": "{}"}]</tool_call>']
for i, call in enumerate(CALLS):
    seed("tool_calls", f"format-{i}", bytes([i, 3]) + call.encode())

BODIES = [
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}], "max_tokens": 2, "stream": True,
     "temperature": 0.5, "top_p": 0.9, "stop": ["a", "b"], "logit_bias": {"5": -100}, "logprobs": True,
     "top_logprobs": 3, "n": 2, "seed": -1, "response_format": {"type": "json_object"},
     "stream_options": {"include_usage": True}},
    {"prompt": ["a", "b"], "max_tokens": 2, "logprobs": 2, "stop": "x", "presence_penalty": 0.5, "timeout": 1,
     "grammar": "start: \"a\"", "min_p": 0.1, "repeat_penalty": 1.1, "ignore_eos": False},
    {"input": [[1, 2], [3]], "encoding_format": "base64"},
    {"text": "Hello <|im_end|>", "add_bos": True, "with_pieces": True},
    {"tokens": [1, 2, 3]},
]
for i, body in enumerate(BODIES):
    seed("http", f"body-{i}", bytes([i]) + json.dumps(body).encode())
seed("http", "tools", bytes([0]) + json.dumps({
    "messages": [{"role": "user", "content": "x"},
                 {"role": "assistant", "content": None, "tool_calls": [
                     {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
                 {"role": "tool", "tool_call_id": "1", "content": "y"}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 8}).encode())

seed("markdown", "all", "# A\n\n* b **c** _d_ `e`\n\n```rust\nfn f() {}\n```\n\n| a | b |\n|---|--:|\n| 1 | [x](https://example.org) |\n"
     "\n> q\n\n<script>alert(1)</script> <b onclick=x>y</b> ![i](javascript:x) ~~z~~ [^1]\n\n[^1]: n\n- [ ] t\n")
