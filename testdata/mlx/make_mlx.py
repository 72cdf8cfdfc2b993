"""Makes the goldens of mlx-lm: folders that it quantised, and its results on folders that Zonda quantised.

From the checkpoints under `../hf`:

* `theirs/NAME/`: the output of `mlx_lm.convert` (it requires a tokenizer, which is removed afterwards):
  `config.json` and `model.safetensors`, with `goldens.safetensors`;
* `ours/NAME.safetensors`: goldens of a folder that `zonda convert --to mlx` made; the tests make the folder again.

Goldens are `ids` (int32 `[12]`), `logits` (float32 `[12, vocab]`, every position) and `greedy` (int32 `[24]`: the tokens
that follow). Scales are stored in the type named; mlx-lm then computes in float32, so that only the order of additions
differs.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm import convert
from mlx_lm.utils import load_model
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

HERE = Path(__file__).parent
HF = HERE.parent / "hf"
VOCAB = 160

# name: (checkpoint, arguments of mlx_lm.convert, single layers)
THEIRS = {
    "llama_q4": ("llama", dict(q_group_size=32, q_bits=4, dtype="bfloat16"), {}),
    "qwen3_moe_q4": ("qwen3_moe", dict(q_group_size=64, q_bits=4, dtype="float16"), {}),
    # with its embedding as the head, and every other width that MLX has; one layer is left as it is
    "llama_tied_mixed": (
        "llama",
        dict(q_group_size=32, q_bits=3, dtype="float16"),
        {
            "embed_tokens": dict(group_size=64, bits=8),
            "layers.0.self_attn.q_proj": dict(group_size=64, bits=2),
            "layers.0.self_attn.v_proj": dict(group_size=32, bits=5),
            "layers.1.mlp.up_proj": dict(group_size=64, bits=6),
            "layers.1.self_attn.o_proj": False,
        },
    ),
}
# name: (checkpoint, arguments of zonda convert)
OURS = {
    "llama_q4": ("llama", ["--bits", "4", "--group-size", "64", "--dtype", "f32"]),
    "qwen2_q8": ("qwen2", ["--bits", "8", "--group-size", "32", "--dtype", "f16"]),
    "qwen3_q5": ("qwen3", ["--bits", "5", "--group-size", "32", "--dtype", "bf16"]),
    "mixtral_q6": ("mixtral", ["--bits", "6", "--group-size", "32", "--dtype", "f32"]),
    "llama_llama3_q3": ("llama_llama3", ["--bits", "3", "--group-size", "64", "--dtype", "f16"]),
}


def theirs(name: str, folder: Path) -> None:
    checkpoint, arguments, single = THEIRS[name]
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source"
        shutil.copytree(HF / checkpoint, source, ignore=shutil.ignore_patterns("goldens*", "*.old.json"))
        old = HF / checkpoint / "config.old.json"
        if old.exists():  # the spelling that mlx-lm knows
            shutil.copy(old, source / "config.json")
        if "tied" in name:
            config = json.loads((source / "config.json").read_text())
            (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
        Tokenizer(WordLevel({"<unk>": 0, "</s>": 1}, "<unk>")).save(str(source / "tokenizer.json"))
        tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "</s>"}
        (source / "tokenizer_config.json").write_text(json.dumps(tokens))

        def predicate(path: str, module) -> bool | dict:
            own = [value for key, value in single.items() if path.endswith(key)]
            return own[0] if own else hasattr(module, "to_quantized")

        out = Path(scratch) / "out"
        convert(
            str(source), str(out), quantize=True, quant_predicate=predicate if single else None, **arguments
        )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            shutil.copy(out / file, folder)
    save_file(goldens(folder), folder / "goldens.safetensors")


def ours(name: str, zonda: str, path: Path) -> None:
    checkpoint, arguments = OURS[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "folder"
        command = [zonda, "convert", str(HF / checkpoint), "-o", str(folder), "--to", "mlx", *arguments]
        subprocess.run(command, check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(goldens(folder), path)


def goldens(folder: Path) -> dict[str, np.ndarray]:
    model, _ = load_model(folder)
    model.set_dtype(mx.float32)
    ids = [(i * 37 + 5) % VOCAB for i in range(12)]
    logits = np.array(model(mx.array([ids]))[0])
    greedy: list[int] = []
    for _ in range(24):
        last = np.array(model(mx.array([ids + greedy]))[0, -1])
        best, second = np.sort(last)[::-1][:2]
        assert best - second > 1e-3, f"{folder}: too close to call"
        greedy.append(int(last.argmax()))
    return {
        "ids": np.array(ids, dtype=np.int32),
        "logits": logits.astype(np.float32),
        "greedy": np.array(greedy, dtype=np.int32),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zonda", help="the zonda program")
    zonda = parser.parse_args().zonda
    for name in THEIRS:
        theirs(name, HERE / "theirs" / name)
    for name in OURS:
        ours(name, zonda, HERE / "ours" / f"{name}.safetensors")
    for file in sorted(HERE.rglob("*.safetensors")):
        print(file.relative_to(HERE), file.stat().st_size)


if __name__ == "__main__":
    main()
