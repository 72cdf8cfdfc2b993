"""Tests a server with Anthropic's Python client: messages, streams, tools, counting, errors.

    messages.py URL MODEL KEY

Any failure is an exception; at the end it prints how many checks passed.
"""

import sys

import anthropic

url, model, key = sys.argv[1:]
client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=120)
HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "name": "weather",
    "description": "How the weather is at a place",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"type": "string", "enum": ["sea", "house"]}},
        "required": ["place"],
        "additionalProperties": False,
    },
}


def messages():
    ask = dict(model=model, max_tokens=12, messages=HELLO, system="Be brief.", extra_body={"seed": 1})
    answer = client.messages.create(**ask)
    assert answer.role == "assistant" and answer.type == "message"
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert 1 <= answer.usage.output_tokens <= 12
    counted = client.messages.count_tokens(model=model, messages=HELLO, system="Be brief.")
    assert counted.input_tokens == answer.usage.input_tokens + answer.usage.cache_read_input_tokens
    cached = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    header = {"type": "text", "text": "x-anthropic-billing-header: cch=1;"}
    again = client.messages.create(**{**ask, "system": [header, *cached]})
    assert [b.text for b in again.content] == [b.text for b in answer.content]
    assert again.usage.cache_read_input_tokens > 0
    assert again._request_id


def stream():
    ask = dict(model=model, max_tokens=16, messages=HELLO, extra_body={"temperature": 0})
    whole = client.messages.create(**ask)
    with client.messages.stream(**ask) as events:
        text = "".join(events.text_stream)
        last = events.get_final_message()
    assert text == "".join(b.text for b in whole.content), (text, whole)
    assert last.stop_reason == whole.stop_reason and last.usage.output_tokens == whole.usage.output_tokens


def tools():
    question = [{"role": "user", "content": "How is the weather at the sea?"}]
    choice = {"type": "any", "disable_parallel_tool_use": True}
    ask = dict(model=model, max_tokens=200, messages=question, tools=[WEATHER], tool_choice=choice)
    answer = client.messages.create(**ask)
    call = answer.content[0]
    assert answer.stop_reason == "tool_use" and call.type == "tool_use" and call.name == "weather"
    assert call.input["place"] in ("sea", "house")
    with client.messages.stream(**ask) as events:
        last = events.get_final_message()
    assert last.content[0].input["place"] in ("sea", "house") and last.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "It is warm."}]}
    turns = [*question, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    answer = client.messages.create(model=model, max_tokens=8, messages=turns, tools=[WEATHER])
    assert answer.usage.output_tokens <= 8


def errors():
    def fails(kind, says, **ask):
        try:
            client.messages.create(**{"model": model, "messages": HELLO, "max_tokens": 2, **ask})
        except kind as error:
            assert says in error.body["error"]["message"], error
            return error.body["error"]["type"]
        raise AssertionError(f"{ask} was answered")

    assert fails(anthropic.NotFoundError, "nothing-like-it", model="nothing-like-it") == "not_found_error"
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    turns = [{"role": "user", "content": [image]}]
    assert fails(anthropic.BadRequestError, "image", messages=turns) == "invalid_request_error"
    assert fails(anthropic.BadRequestError, "max_tokens", max_tokens=0) == "invalid_request_error"
    stranger = anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0)
    try:
        stranger.messages.create(model=model, messages=HELLO, max_tokens=2)
        raise AssertionError("a wrong key was taken")
    except anthropic.AuthenticationError as error:
        assert error.body["error"]["type"] == "authentication_error"


checks = [messages, stream, tools, errors]
for check in checks:
    check()
    print("ok", check.__name__)
print(len(checks), "checks passed with anthropic", anthropic.__version__)
