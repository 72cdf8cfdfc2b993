"""Writes the results of Mistral's, Google's and Hugging Face's tokenizer libraries for `../text/strings.json`.

* `mistral_v1.json`, `mistral_v3.json`, `mistral_tekken.json`: the tokenizers inside the Python package
  `mistral-common`, run by SentencePiece and by its Tekkenizer. For every string `plain` holds the library's ids;
  `special` holds those with control tokens parsed as `mistral-common` assembles conversations: the control
  token's id, and the text between them encoded by itself.
* `mistral_chats.json`: whole conversations as ids, in each version's format.
* `unigram.model`, `unigram_plain.model`: SentencePiece Unigram models, trained here likewise, with `unigram.json` and
  `unigram_plain.json`, their ids.
* `tiny.model`, `bytelevel/tokenizer.json`, `spaces/tokenizer.json`: tokenizers of a few hundred tokens, trained here
  on the same strings, with `tiny.json`, `bytelevel/ids.json` and `spaces/ids.json`, their libraries' ids.
* `templates.json`: conversations rendered by Hugging Face transformers with the chat templates in `templates/`, which
  have the features of published ones (Mistral's, Llama's, Qwen's, SmolLM2's); or the fact that a template refuses one.

Everything is deterministic.
"""

import argparse
import collections
import contextlib
import json
import re
import tempfile
from pathlib import Path

import jinja2
import mistral_common
import sentencepiece
import tokenizers
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = Path(__file__).resolve().parent
DATA = Path(mistral_common.__file__).parent / "data"

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Today's weather – wind & all",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

CHATS = {
    "one turn": [{"role": "user", "content": "Why does the wind blow?"}],
    "two turns": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello! How can I help?"},
        {"role": "user", "content": "Tell me a\n\njoke  please"},
    ],
    "system": [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Qui es-tu ?"},
        {"role": "assistant", "content": "Un vent."},
        {"role": "user", "content": "风从哪里来？ 🌬️"},
    ],
}
TOOL_CHAT = [
    {"role": "user", "content": "Is it windy in Nîmes?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "a1b2c3d4e", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Nîmes"}'}}
        ],
    },
    {"role": "tool", "name": "weather", "tool_call_id": "a1b2c3d4e", "content": '{"wind": 7.5}'},
    {"role": "assistant", "content": "Yes, a little."},
    {"role": "user", "content": "And in Arles?"},
]


def write(path: Path, value: object) -> None:
    """JSON with the ids of one string per line, so that differences are readable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, dict) and "strings" in value:
        head = {k: v for k, v in value.items() if k != "strings"}
        lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in value["strings"])
        text = json.dumps(head, ensure_ascii=False)[:-1] + ', "strings": [\n' + lines + "\n]}\n"
    else:
        text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")


def strings() -> list[str]:
    return json.loads((HERE.parent / "text" / "strings.json").read_text(encoding="utf-8"))


def with_control(text: str, control: dict[str, int], encode) -> list[int]:
    """Control tokens as ids; the text between them is encoded by itself."""
    names = sorted(control, key=len, reverse=True)
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
        ids += [control[part]] if part in control else encode(part) if part else []
    return ids


def golden(source: str, encode, control: dict[str, int]) -> dict:
    # Mistral's control tokens in running text, besides what the strings hold.
    texts = strings() + ["[INST] hi[/INST]", "<s>[INST]a b[/INST] c</s>", "a[INST]b", "[TOOL_CALLS] [{}]", "x</s> y"]
    texts = list(dict.fromkeys(texts))
    cases = [{"text": t, "special": with_control(t, control, encode), "plain": encode(t)} for t in texts]
    return {"source": source, "strings": cases}


def mistral() -> None:
    version = f"mistral-common {mistral_common.__version__}, sentencepiece {sentencepiece.__version__}"
    for name, file in [("v1", "tokenizer.model.v1"), ("v3", "mistral_instruct_tokenizer_240323.model.v3")]:
        model = sentencepiece.SentencePieceProcessor(model_file=str(DATA / file))
        ids = range(model.vocab_size())
        control = {model.id_to_piece(i): i for i in ids if model.is_control(i) or model.is_unknown(i)}
        write(HERE / f"mistral_{name}.json", golden(f"{file} of {version}", model.encode, control))

    file = "tekken_240911.json"
    tekken = Tekkenizer.from_file(DATA / file)
    control = dict(tekken._special_tokens_reverse_vocab)
    encode = lambda text: tekken.encode(text, bos=False, eos=False)  # noqa: E731
    write(HERE / "mistral_tekken.json", golden(f"{file} of {version}", encode, control))

    chats = []
    for name, file, tokenizer in [
        ("mistral-v1", "tokenizer.model.v1", MistralTokenizer.v1()),
        ("mistral-v2", "mistral_instruct_tokenizer_240216.model.v2", MistralTokenizer.v2()),
        ("mistral-v3", "mistral_instruct_tokenizer_240323.model.v3", MistralTokenizer.v3()),
        ("mistral-v3", "tekken_240911.json", MistralTokenizer.v3(is_tekken=True)),
        ("mistral-v7", "mistral_instruct_tokenizer_241114.model.v7", MistralTokenizer.v7()),
    ]:
        cases = [(chat, messages, []) for chat, messages in CHATS.items()]
        if name != "mistral-v1":
            cases += [("tools", TOOL_CHAT, [WEATHER]), ("tool result", TOOL_CHAT[:3], [WEATHER])]
        for chat, messages, tools in cases:
            request = ChatCompletionRequest.from_openai(messages=messages, tools=tools or None)
            ids = tokenizer.encode_chat_completion(request).tokens
            chats.append({"template": name, "tokenizer": file, "chat": chat, "messages": messages, "tools": tools, "ids": ids})
    write(HERE / "mistral_chats.json", chats)


def templates() -> None:
    think = {"role": "assistant", "content": "<think>\nhm, wind\n</think>\n\nHello!"}
    call = {**TOOL_CHAT[1], "tool_calls": [{
        "id": "a1b2c3d4e", "type": "function", "function": {"name": "weather", "arguments": {"city": "Nîmes <&'"}},
    }]}
    cases = {
        **{name: (messages, {}) for name, messages in CHATS.items()},
        "white space": ([{"role": "user", "content": "  a\n\n <b> & 'c' \n"}], {}),
        "no prompt": (CHATS["two turns"][:2], {"add_generation_prompt": False}),
        "thoughts": ([CHATS["two turns"][0], think, {"role": "user", "content": "go on"}, think], {}),
        "no thinking": (CHATS["one turn"], {"enable_thinking": False}),
        "tools": (CHATS["system"][:2], {"tools": [WEATHER, WEATHER]}),
        "tool call": ([TOOL_CHAT[0], call, TOOL_CHAT[2]], {"tools": [WEATHER]}),
        "after a tool call": ([TOOL_CHAT[0], call, *TOOL_CHAT[2:]], {"tools": [WEATHER]}),
        "twice the user": ([CHATS["one turn"][0], CHATS["one turn"][0]], {}),
    }
    out = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        template = _compile_jinja_template(path.read_text(encoding="utf-8"))
        for name, (messages, options) in cases.items():
            given = {"add_generation_prompt": True, "date_string": "23 Nov 2026", **options}
            try:
                text = template.render(
                    messages=messages, documents=None, bos_token="<s>", eos_token="</s>", **{"tools": None, **given}
                )
            except jinja2.exceptions.TemplateError:
                text = None
            out.append({"template": path.name, "case": name, "messages": messages, "options": given, "text": text})
    write(HERE / "templates.json", out)


def tiny_sentencepiece() -> None:
    # File names become part of the model, so they are relative to the folder.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("corpus.txt").write_text("\n".join(s.replace("\n", " ") for s in strings()), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            input="corpus.txt", model_prefix="tiny", model_type="bpe", vocab_size=1100, byte_fallback=True,
            character_coverage=0.98, normalization_rule_name="identity", num_threads=1,
            remove_extra_whitespaces=True, user_defined_symbols=["[wind]", "▁[gust]", "[wi"], control_symbols=["[C]"],
            minloglevel=2,
        )
        (HERE / "tiny.model").write_bytes(Path("tiny.model").read_bytes())
    model = sentencepiece.SentencePieceProcessor(model_file=str(HERE / "tiny.model"))
    texts = strings() + ["[wind]", "a [wind][wi b", "strong [gust] ", "[wi [win", "x[C]y"]
    cases = [{"text": t, "plain": model.encode(t)} for t in texts]
    write(HERE / "tiny.json", {"source": f"sentencepiece {sentencepiece.__version__}", "strings": cases})


def tiny_unigram() -> None:
    """A Unigram model with byte fallback and a map of characters, and one without either."""
    rules = [("Å", "A"), ("…", "..."), ("\t", " "), ("\n", " "), ("\u00a0", " "), ("ﬁ", "fi"), ("e\u0301", "é"), ("ẛ", "s"), ("İ", "i")]
    texts = strings() + ["[wind]", "a [wind]b", "Å … ﬁn\te\u0301", "  two  spaces ", "x[C]y", "…", "日本語", "\u00a0\u00a0"]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("corpus.txt").write_text("\n".join(s.replace("\n", " ") for s in strings()), encoding="utf-8")
        hexadecimal = lambda text: " ".join(f"{ord(c):X}" for c in text)  # noqa: E731
        Path("rules.tsv").write_text("".join(f"{hexadecimal(a)}\t{hexadecimal(b)}\n" for a, b in rules), encoding="utf-8")
        common = dict(
            input="corpus.txt", model_type="unigram", character_coverage=0.98, num_threads=1, control_symbols=["[C]"],
            user_defined_symbols=["[wind]"], minloglevel=2,
        )
        sentencepiece.SentencePieceTrainer.train(
            model_prefix="unigram", vocab_size=900, byte_fallback=True, normalization_rule_tsv="rules.tsv", **common
        )
        sentencepiece.SentencePieceTrainer.train(
            model_prefix="unigram_plain", vocab_size=500, normalization_rule_name="identity", add_dummy_prefix=False,
            remove_extra_whitespaces=False, **common
        )
        for name in ["unigram", "unigram_plain"]:
            (HERE / f"{name}.model").write_bytes(Path(f"{name}.model").read_bytes())
            model = sentencepiece.SentencePieceProcessor(model_file=f"{name}.model")
            cases = [{"text": t, "plain": model.encode(t)} for t in texts]
            write(HERE / f"{name}.json", {"source": f"sentencepiece {sentencepiece.__version__}", "strings": cases})


def tiny_hugging_face() -> None:
    special = [AddedToken("<s>", special=True), AddedToken("</s>", special=True), AddedToken("<|im_end|>", special=True)]

    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    byte_level.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    byte_level.train_from_iterator(strings(), trainer)
    byte_level.add_tokens([AddedToken("<tool>", special=False)])
    byte_level.enable_truncation(8)  # a trainer's setting that must not cut prompts

    # As Llama's: spaces become U+2581, one is put in front, unknown characters become bytes.
    spaces = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    spaces.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaces.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fallback = [f"<0x{b:02X}>" for b in range(256)]
    words = [w for s in strings() for w in re.findall(r" ?\w+", s)]
    # Fixed, because the trainer breaks ties between characters at random.
    counts = collections.Counter(c for w in words for c in "▁" + w.strip())
    common = sorted(counts, key=lambda c: (-counts[c], c))[:120]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=[AddedToken("<unk>", special=True), *special, *fallback],
        initial_alphabet=common, limit_alphabet=len(common), show_progress=False,
    )
    spaces.train_from_iterator(words, trainer)
    content = json.loads(spaces.to_str())
    # The byte tokens had to be trained as special tokens; they are ordinary ones.
    content["added_tokens"] = [t for t in content["added_tokens"] if not t["content"].startswith("<0x")]
    spaces = Tokenizer.from_str(json.dumps(content))
    spaces.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", spaces.token_to_id("<s>"))])

    texts = strings() + ["<s>Hello</s> world<|im_end|>", "a<tool>b <tool> c"]
    for name, tokenizer in [("bytelevel", byte_level), ("spaces", spaces)]:
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
        tokenizer.no_truncation()
        cases = []
        for text in texts:
            tokenizer.encode_special_tokens = False
            parsed = tokenizer.encode(text, add_special_tokens=False).ids
            tokenizer.encode_special_tokens = True
            cases.append({"text": text, "special": parsed, "plain": tokenizer.encode(text, add_special_tokens=False).ids})
        write(folder / "ids.json", {"source": f"tokenizers {tokenizers.__version__}", "strings": cases})
    write(HERE / "bytelevel" / "tokenizer_config.json", {
        "bos_token": {"content": "<s>", "lstrip": False, "rstrip": False}, "eos_token": "</s>", "add_bos_token": False,
        "chat_template": [
            {"name": "default", "template": "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"},
            {"name": "tool_use", "template": "{{ tools | tojson }}"},
        ],
    })
    write(HERE / "bytelevel" / "generation_config.json", {
        "eos_token_id": [byte_level.token_to_id("</s>"), byte_level.token_to_id("<|im_end|>")],
    })
    write(HERE / "spaces" / "special_tokens_map.json", {"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    write(HERE / "spaces" / "generation_config.json", {"eos_token_id": spaces.token_to_id("</s>")})


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    mistral()
    templates()
    tiny_sentencepiece()
    tiny_unigram()
    tiny_hugging_face()
