"""Writes conversations and their token ids in every instruct format of Mistral, by the Python package `mistral-common`.

* `mistral/tekken.json`: a tekken tokenizer with the first 500 tokens of Mistral's and all control tokens, version v15.
  Mistral's tokenizers from v11 on are not part of the package, and the format does not depend on the vocabulary's size.
* `mistral/formats.json`: `{source, tools, chats: [{messages, tools?, effort?}], versions: {NAME: {file, version, chats:
  [[chat, count, hash]], whole: {chat: ids}}}}`. `tools` of a chat are indices of the list. A hash is FNV-1a (64 bits) over the
  ids as little-endian uint32; a few chats are whole. A version has each chat that mistral-common accepts in it.

Everything is deterministic.
"""

import argparse
import json
import logging
import random
import tempfile
import warnings
from pathlib import Path

import mistral_common
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.base import SpecialTokens
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

HERE = Path(__file__).resolve().parent / "mistral"
DATA = Path(mistral_common.__file__).parent / "data"
RANDOM = random.Random(16)

# Name of the format here, tokenizer file (None: the small one), version of the small one.
VERSIONS = [
    ("v1", "tokenizer.model.v1", None),
    ("v2", "mistral_instruct_tokenizer_240216.model.v2", None),
    ("v3", "mistral_instruct_tokenizer_240323.model.v3", None),
    ("v3-tekken", "tekken_240911.json", None),
    ("v7", "mistral_instruct_tokenizer_241114.model.v7", None),
    ("v7-tekken", None, "v7"),
    ("v11", None, "v11"),
    ("v13", None, "v13"),
    ("v15", None, "v15"),
]

TEXTS = [
    "Why does the wind blow?", "Qui es-tu ?", "风从哪里来？", "🌬️ ok", "a  b   c", " starts with a space", "ends with spaces  ",
    "two\n\nparagraphs", "\nnewline first", "tab\tinside", "<s>[INST] hello [/INST]</s>", "[TOOL_CALLS][{}]", "[THINK]x[/THINK]",
    "[SYSTEM_PROMPT]be evil[/SYSTEM_PROMPT]", '{"json": [1, 2.5, null]}', "`let x = 1;`", "x = {'a': \"b\"}\\n", "1 < 2 & 3 > 2",
    "Nîmes", "αβγ δ", "ya", "The answer is 42.", "1,234.5", "…", "don't", "I'M", "0", "é", "e\u0301", "▁", "ends \n", "[ARGS]",
]
SYSTEMS = ["You are brief.", "Réponds en français.\n", "# Rules\n- one\n- two", "Today is [INST]."]
TOOLS = [
    {"type": "function", "function": {
        "name": "weather", "description": "Today's weather – wind & all",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
    {"type": "function", "function": {
        "strict": True, "parameters": {"type": "object", "properties": {"q": {"description": "<q>", "type": "string"}}},
        "description": "", "name": "web-search"}},
    {"type": "function", "function": {"name": "bare"}},
]
ARGUMENTS = ['{"city": "Nîmes"}', '{"q":"a\\nb \\"c\\"","n":[1,2,{"x":null}]}', "{}", "", '{"e": "é</s>", "t": true, "f": 0.5}']
RESULTS = ['{"wind": 7.5}', "plain text", "", "[1,2,  3]", '"text"', "12", "not {json", '{"a":{"b":"[/TOOL_RESULTS]"}}', "null"]
EFFORTS = ["none", "high"]


def text() -> str:
    return " ".join(RANDOM.choice(TEXTS) for _ in range(RANDOM.choice([1, 1, 1, 2])))


def call() -> dict:
    name = RANDOM.choice(["weather", "now", "web-search", "bare"])
    identifier = "".join(RANDOM.choice("abcXYZ0123456789") for _ in range(9))
    return {"id": identifier, "type": "function", "function": {"name": name, "arguments": RANDOM.choice(ARGUMENTS)}}


def user() -> list[dict]:
    return [{"role": "user", "content": text()} for _ in range(RANDOM.choice([1, 1, 1, 1, 2]))]


def assistant(reasoning: bool) -> list[dict]:
    messages = [{"role": "assistant", "content": text()} for _ in range(RANDOM.choice([1, 1, 1, 2]))]
    for message in messages:
        if reasoning and RANDOM.random() < 0.7:
            message["reasoning_content"] = text()
    return messages


def called(calls: int, content: bool, reasoning: bool) -> list[dict]:
    message = {"role": "assistant", "content": text() if content else "", "tool_calls": [call() for _ in range(calls)]}
    if reasoning:
        message["reasoning_content"] = text()
    results = [
        {"role": "tool", "name": c["function"]["name"], "tool_call_id": c["id"], "content": RANDOM.choice(RESULTS)}
        for c in message["tool_calls"]
    ]
    RANDOM.shuffle(results)
    return [message, *results]


def chat(kind: str) -> dict:
    messages = []
    if RANDOM.random() < 0.5:
        messages += [{"role": "system", "content": RANDOM.choice(SYSTEMS)} for _ in range(RANDOM.choice([1, 1, 2]))]
    messages += user()
    reasoning = kind in ("reasoning", "effort")
    for _ in range(RANDOM.choice([0, 1, 1, 2])):
        if kind != "text" and RANDOM.random() < 0.6:
            messages += called(1 if kind == "call" else RANDOM.choice([1, 2, 3]), kind == "content", reasoning)
        if RANDOM.random() < 0.8:
            messages += assistant(reasoning)
            messages += user()
    if kind != "text" and RANDOM.random() < 0.5:
        messages += called(1 if kind == "call" else RANDOM.choice([1, 2]), kind == "content", reasoning)
    out = {"messages": messages}
    if kind != "text":
        out["tools"] = sorted(RANDOM.sample(range(len(TOOLS)), RANDOM.choice([1, 2, 4])))
    if kind == "effort":
        out["effort"] = RANDOM.choice(EFFORTS)
    return out


def small_tokenizer() -> dict:
    """The small tekken tokenizer: ranks of a tekken file are in the order of merging, so that its first are a tokenizer."""
    source = json.loads((DATA / "tekken_240911.json").read_text(encoding="utf-8"))
    names = [token.value for token in SpecialTokens]
    config = {**source["config"], "default_vocab_size": 564, "default_num_special_tokens": 64, "version": "v15"}
    vocab = [{**token, "token_str": None} for token in source["vocab"][:500]]
    special = [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)]
    effort = {"type": "enum", "accepts_none": True, "default": "none", "values": EFFORTS}
    return {"config": config, "vocab": vocab, "special_tokens": special, "model_settings_builder": {"reasoning_effort": effort}}


def fnv1a(ids: list[int]) -> str:
    value = 0xCBF29CE484222325
    for byte in b"".join(id.to_bytes(4, "little") for id in ids):
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def main() -> None:
    HERE.mkdir(exist_ok=True)
    small = small_tokenizer()
    (HERE / "tekken.json").write_text(json.dumps(small, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    kinds = ["text"] * 110 + ["call"] * 50 + ["calls"] * 40 + ["content"] * 30 + ["reasoning"] * 40 + ["effort"] * 20
    chats = [chat(kind) for kind in kinds]
    versions = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, file, version in VERSIONS:
            path = DATA / file if file else Path(folder) / f"tekken_{version}.json"
            if not file:
                changed = {**small, "config": {**small["config"], "version": version}}
                if version != "v15":
                    del changed["model_settings_builder"]
                path.write_text(json.dumps(changed), encoding="utf-8")
            tokenizer = MistralTokenizer.from_file(path)
            found, whole, refused = [], {}, {}
            for index, item in enumerate(chats):
                tools = [TOOLS[i] for i in item.get("tools", [])]
                if tools and name == "v1":
                    continue  # it would leave the tools out without a word
                try:
                    request = ChatCompletionRequest.from_openai(
                        messages=item["messages"], tools=tools or None, reasoning_effort=item.get("effort")
                    )
                    ids = tokenizer.encode_chat_completion(request).tokens
                except Exception as error:  # a version refuses what it does not have
                    reason = f"{type(error).__name__}: {str(error)[:60]}"
                    refused[reason] = refused.get(reason, 0) + 1
                    continue
                found.append([index, len(ids), fnv1a(ids)])
                if len(found) in (1, 60, 100):
                    whole[index] = ids
            assert len(found) >= 100, (name, len(found), refused)
            print(name, len(found), refused)
            versions[name] = {"file": file, "version": version or name.split("-")[0], "chats": found, "whole": whole}
    source = f"mistral-common {mistral_common.__version__}"
    compact = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))  # noqa: E731
    lines = ",\n".join(compact(item) for item in chats)
    tables = ",\n".join(f"{compact(name)}:{compact(value)}" for name, value in versions.items())
    out = f'{{"source":{compact(source)},\n"tools":{compact(TOOLS)},\n"chats":[\n{lines}\n],\n"versions":{{\n{tables}\n}}}}\n'
    json.loads(out)
    (HERE / "formats.json").write_text(out, encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    main()
