"""Writes where Hugging Face's `tokenizers` cuts the strings of `../text/strings.json` with each family's pre-tokenizer.

`pretokenizers.json`: `{source, presets: {NAME: [hash]}}`, one hash per string, in order: FNV-1a (32 bits) over the ends of the
pieces, in bytes, as little-endian uint32. A name is that of `tokenizer.ggml.pre` in GGUF files; the expressions are those of the
families' published `tokenizer.json`.
"""

import argparse
import json
from pathlib import Path

import tokenizers
from tokenizers import Regex
from tokenizers.pre_tokenizers import Digits, Sequence, Split

HERE = Path(__file__).resolve().parent

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
UPPER_NO_HAN, LOWER_NO_HAN = UPPER[:-1] + r"&&[^\p{Han}]]", LOWER[:-1] + r"&&[^\p{Han}]]"
BEFORE = r"[^\r\n\p{L}\p{N}]?"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = rf"{CONTRACTIONS}|{BEFORE}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
QWEN2 = CL100K.replace("{1,3}", "")
QWEN35 = rf"{CONTRACTIONS}|{BEFORE}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}"
TEKKEN = rf"{BEFORE}{UPPER}*{LOWER}+|{BEFORE}{UPPER}+{LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
O200K = (
    rf"{BEFORE}{UPPER}*{LOWER}+{CONTRACTIONS}?|{BEFORE}{UPPER}+{LOWER}*{CONTRACTIONS}?|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
)
KIMI = (
    rf"[\p{{Han}}]+|{BEFORE}{UPPER_NO_HAN}*{LOWER_NO_HAN}+{CONTRACTIONS}?|{BEFORE}{UPPER_NO_HAN}+{LOWER_NO_HAN}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
)
DEEPSEEK_V3 = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    + "|" + SPACES,
]


def split(*expressions: str) -> Sequence:
    return Sequence([Split(Regex(expression), "isolated") for expression in expressions])


PRESETS = {
    "gpt-2": split(GPT2),
    "smollm": Sequence([Digits(individual_digits=True), Split(Regex(GPT2), "isolated")]),
    "llama-bpe": split(CL100K),
    "dbrx": split(CL100K),
    "glm4": split(CL100K),
    "chatglm-bpe": split(CL100K),
    "qwen2": split(QWEN2),
    "qwen35": split(QWEN35),
    "tekken": split(TEKKEN),
    "gpt-4o": split(O200K),
    "deepseek-v3": split(*DEEPSEEK_V3),
    "kimi-k2": split(KIMI),
}


def fnv1a(ends: list[int]) -> str:
    value = 0x811C9DC5
    for byte in b"".join(end.to_bytes(4, "little") for end in ends):
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{value:08x}"


def ends(pre_tokenizer: Sequence, text: str) -> list[int]:
    """Where pieces end, in bytes; `tokenizers` counts characters."""
    cuts = [end for _, (_, end) in pre_tokenizer.pre_tokenize_str(text)]
    return [len(text[:cut].encode("utf-8")) for cut in cuts]


def main() -> None:
    strings = json.loads((HERE.parent / "text" / "strings.json").read_text(encoding="utf-8"))
    presets = {name: [fnv1a(ends(p, text)) for text in strings] for name, p in PRESETS.items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(hashes, separators=(',', ':'))}" for name, hashes in presets.items())
    source = f"tokenizers {tokenizers.__version__}"
    text = f'{{"source": {json.dumps(source)}, "presets": {{\n{lines}\n}}}}\n'
    (HERE / "pretokenizers.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
