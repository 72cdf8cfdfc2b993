"""Tests a server with OpenAI's Python client: chat, responses, streams, tools, JSON schemas, probabilities, cancelling, errors.

    client.py URL MODEL KEY

Any failure is an exception; at the end it prints how many checks passed.
"""

import asyncio
import json
import sys
import time

import openai

url, model, key = sys.argv[1:]
client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=120)
HELLO = [{"role": "user", "content": "Say hello."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 10},
        "warm": {"type": "boolean"},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 31}, "maxItems": 3},
    },
    "required": ["city", "warm", "days"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How the weather is at a place",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "enum": ["sea", "house"]}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}


def models():
    assert model in [m.id for m in client.models.list()]
    assert client.models.retrieve(model).object == "model"


def chat():
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=12, seed=1, temperature=0.7)
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert 1 <= answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = client.chat.completions.create(model=model, messages=HELLO, max_tokens=12, seed=1, temperature=0.7)
    assert again.choices[0].message.content == choice.message.content
    assert again.usage.prompt_tokens_details.cached_tokens > 0


def stream():
    ask = dict(model=model, messages=HELLO, max_tokens=16, temperature=0)
    whole = client.chat.completions.create(**ask)
    text, usage, reason = "", None, None
    for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        if chunk.usage:
            usage = chunk.usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    assert text == whole.choices[0].message.content, (text, whole)
    assert reason == whole.choices[0].finish_reason
    assert usage.completion_tokens == whole.usage.completion_tokens


def completions():
    answer = client.completions.create(model=model, prompt=["The warm", "A cold"], max_tokens=5, n=2, seed=3)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    pieces = client.completions.create(model=model, prompt="The warm", max_tokens=5, stream=True)
    assert "".join(p.choices[0].text for p in pieces if p.choices)


def probabilities():
    answer = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.token == token.top_logprobs[0].token
        assert bytes(token.bytes).decode("utf-8", "replace") == token.token


def schemas():
    for seed in range(5):
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Describe the weather as JSON."}],
            response_format={"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}},
            max_tokens=400,
            seed=seed,
        )
        value = json.loads(answer.choices[0].message.content)
        assert sorted(value) == ["city", "days", "warm"], value
        assert isinstance(value["warm"], bool) and len(value["city"]) <= 10 and len(value["days"]) <= 3
        assert all(1 <= d <= 31 for d in value["days"])
        assert answer.choices[0].finish_reason == "stop"


def tools():
    ask = dict(model=model, messages=[{"role": "user", "content": "How is the weather at the sea?"}], tools=[WEATHER])
    answer = client.chat.completions.create(**ask, tool_choice="required", parallel_tool_calls=False, seed=2)
    choice = answer.choices[0]
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls" and call.type == "function" and call.function.name == "weather"
    assert json.loads(call.function.arguments)["place"] in ("sea", "house")
    named = {"type": "function", "function": {"name": "weather"}}
    calls = {}
    for chunk in client.chat.completions.create(**ask, tool_choice=named, stream=True, seed=2):
        for piece in chunk.choices[0].delta.tool_calls or []:
            calls.setdefault(piece.index, ["", ""])
            calls[piece.index][0] += piece.function.name or ""
            calls[piece.index][1] += piece.function.arguments or ""
    assert calls[0][0] == "weather" and json.loads(calls[0][1])["place"] in ("sea", "house")
    messages = ask["messages"] + [
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": "It is warm."},
    ]
    answer = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER], max_tokens=8)
    assert answer.choices[0].message.content is not None or answer.choices[0].message.tool_calls
    free = client.chat.completions.create(**ask, tool_choice="none", max_tokens=8)
    assert free.choices[0].message.tool_calls is None


FLAT = {"type": "function", **WEATHER["function"], "strict": True}


def responses():
    ask = dict(model=model, input="Say hello.", instructions="Be brief.", temperature=0, max_output_tokens=16)
    answer = client.responses.create(**ask)
    assert answer.output_text and answer.status in ("completed", "incomplete")
    assert 1 <= answer.usage.output_tokens <= 16
    counted = client.responses.input_tokens.count(model=model, input="Say hello.", instructions="Be brief.")
    assert counted.input_tokens == answer.usage.input_tokens
    with client.responses.stream(**ask) as events:
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == answer.output_text, (text, answer)
    assert client.responses.retrieve(answer.id).output_text == answer.output_text
    more = client.responses.create(
        model=model, input="And again.", previous_response_id=answer.id, max_output_tokens=4, extra_body={"ignore_eos": True}
    )
    assert more.previous_response_id == answer.id and more.usage.output_tokens == 4
    client.responses.delete(answer.id)
    try:
        client.responses.retrieve(answer.id)
        raise AssertionError("a deleted response was there")
    except openai.NotFoundError as error:
        assert error.code == "response_not_found"


def responses_tools():
    ask = dict(model=model, tools=[FLAT, {"type": "web_search"}], tool_choice="required", parallel_tool_calls=False)
    question = [{"role": "user", "content": "How is the weather at the sea?"}]
    raw = client.responses.with_raw_response.create(**ask, input=question)
    assert raw.headers["x-zonda-ignored-tools"] == "web_search"
    call = raw.parse().output[0]
    assert call.type == "function_call" and json.loads(call.arguments)["place"] in ("sea", "house")
    with client.responses.stream(**ask, input=question) as events:
        done = [event for event in events if event.type == "response.function_call_arguments.done"]
        assert json.loads(done[0].arguments)["place"] in ("sea", "house")
        assert events.get_final_response().output[0].call_id
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It is warm."}
    answer = client.responses.create(model=model, input=[*question, call, result], max_output_tokens=8)
    assert answer.status in ("completed", "incomplete")


def responses_schemas():
    form = {"type": "json_schema", "name": "weather", "schema": SCHEMA, "strict": True}
    answer = client.responses.create(model=model, input="Describe the weather.", text={"format": form}, max_output_tokens=400)
    assert sorted(json.loads(answer.output_text)) == ["city", "days", "warm"]


def running():
    text = client.get("/../metrics", cast_to=str)
    line = next(l for l in text.splitlines() if l.startswith("vllm:num_requests_running{"))
    return float(line.rsplit(" ", 1)[1])


def cancelling():
    pieces = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=3000, stream=True, extra_body={"ignore_eos": True}
    )
    for n, _ in enumerate(pieces):
        if n == 3:
            break
    pieces.close()
    until = time.monotonic() + 20
    while running() > 0:
        assert time.monotonic() < until, "the generation goes on"


def errors():
    def fails(kind, says, **ask):
        try:
            client.chat.completions.create(**{"model": model, "messages": HELLO, "max_tokens": 2, **ask})
        except kind as error:
            assert says in str(error), error
            return error
        raise AssertionError(f"{ask} was answered")

    assert fails(openai.NotFoundError, "nothing-like-it", model="nothing-like-it").code == "model_not_found"
    assert fails(openai.BadRequestError, "temperature", temperature=-1).param == "temperature"
    long = [{"role": "user", "content": "word " * 20000}]
    assert fails(openai.BadRequestError, "fit", messages=long).code == "context_length_exceeded"
    fails(openai.BadRequestError, "uniqueItems", response_format={
        "type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}},
    })
    try:
        client.embeddings.create(model=model, input="x")
        raise AssertionError("embeddings were made up")
    except openai.APIStatusError as error:
        assert error.status_code == 501
    stranger = openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0)
    try:
        stranger.models.list()
        raise AssertionError("a wrong key was taken")
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key"


def together():
    async def all_of_them():
        many = openai.AsyncOpenAI(base_url=url + "/v1", api_key=key, max_retries=0)
        asks = [
            many.completions.create(model=model, prompt=f"{i} is", max_tokens=8, temperature=0) for i in range(12)
        ]
        return [a.choices[0].text for a in await asyncio.gather(*asks)]

    texts = asyncio.run(all_of_them())
    for i in (0, 5, 11):
        alone = client.completions.create(model=model, prompt=f"{i} is", max_tokens=8, temperature=0)
        assert alone.choices[0].text == texts[i]


checks = [models, chat, stream, completions, probabilities, schemas, tools, cancelling, errors, together]
checks += [responses, responses_tools, responses_schemas]
for check in checks:
    check()
    print("ok", check.__name__)
print(len(checks), "checks passed with openai", openai.__version__)
