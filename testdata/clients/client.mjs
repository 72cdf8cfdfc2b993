// Tests a server with OpenAI's JavaScript client: chat, streams, tools, JSON schemas, probabilities, cancelling, errors.
//
//     node client.mjs FOLDER-OF-THE-CLIENT URL MODEL KEY
//
// Any failure is an exception; at the end it prints how many checks passed.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, url, model, key] = process.argv.slice(2);
const require = createRequire(pathToFileURL(folder + "/"));
const OpenAI = require("openai").default ?? require("openai");
const client = new OpenAI({ baseURL: url + "/v1", apiKey: key, maxRetries: 0, timeout: 120_000 });
const messages = [{ role: "user", content: "Say hello." }];
const weather = {
  type: "function",
  function: {
    name: "weather",
    parameters: {
      type: "object",
      properties: { place: { type: "string", enum: ["sea", "house"] } },
      required: ["place"],
      additionalProperties: false,
    },
  },
};

const checks = {
  async models() {
    const names = [];
    for await (const m of client.models.list()) names.push(m.id);
    assert(names.includes(model));
  },

  async chat() {
    const answer = await client.chat.completions.create({ model, messages, max_tokens: 8, seed: 1 });
    assert.equal(answer.choices[0].message.role, "assistant");
    assert(answer.usage.completion_tokens <= 8);
  },

  async stream() {
    const ask = { model, messages, max_tokens: 16, temperature: 0 };
    const whole = await client.chat.completions.create(ask);
    let text = "", usage;
    const options = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await client.chat.completions.create({ ...ask, ...options })) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  },

  async probabilities() {
    const ask = { model, messages, max_tokens: 3, temperature: 0, logprobs: true, top_logprobs: 2 };
    const answer = await client.chat.completions.create(ask);
    for (const token of answer.choices[0].logprobs.content) assert.equal(token.top_logprobs.length, 2);
  },

  async schemas() {
    const schema = {
      type: "object",
      properties: { ok: { type: "boolean" }, word: { enum: ["sea", "house"] } },
      required: ["ok", "word"],
      additionalProperties: false,
    };
    const answer = await client.chat.completions.create({
      model, messages, max_tokens: 100, seed: 4,
      response_format: { type: "json_schema", json_schema: { name: "x", schema, strict: true } },
    });
    const value = JSON.parse(answer.choices[0].message.content);
    assert.equal(typeof value.ok, "boolean");
    assert(["sea", "house"].includes(value.word));
  },

  async tools() {
    const ask = { model, messages, tools: [weather], tool_choice: "required", seed: 2 };
    const answer = await client.chat.completions.create(ask);
    const call = answer.choices[0].message.tool_calls[0];
    assert.equal(call.function.name, "weather");
    assert(["sea", "house"].includes(JSON.parse(call.function.arguments).place));
    const run = client.chat.completions.stream({ ...ask, stream: true });
    const last = await run.finalChatCompletion();
    assert.equal(last.choices[0].message.tool_calls[0].function.name, "weather");
    assert.equal(last.choices[0].finish_reason, "tool_calls");
  },

  async cancelling() {
    const stop = new AbortController();
    const ask = { model, messages, max_tokens: 3000, stream: true, ignore_eos: true };
    const stream = await client.chat.completions.create(ask, { signal: stop.signal });
    let n = 0;
    for await (const _ of stream) if (++n === 3) stop.abort();
    const running = async () => {
      const response = await fetch(url + "/metrics", { headers: { authorization: `Bearer ${key}` } });
      const line = (await response.text()).split("\n").find((l) => l.startsWith("vllm:num_requests_running{"));
      return Number(line.split(" ").at(-1));
    };
    const until = Date.now() + 20_000;
    while ((await running()) > 0) assert(Date.now() < until, "the generation goes on");
  },

  async errors() {
    const fails = (ask) => client.chat.completions.create({ model, messages, max_tokens: 2, ...ask }).then(
      () => assert.fail("was answered"),
      (error) => error,
    );
    const absent = await fails({ model: "nothing-like-it" });
    assert(absent instanceof OpenAI.NotFoundError && absent.code === "model_not_found");
    const negative = await fails({ temperature: -1 });
    assert(negative instanceof OpenAI.BadRequestError && negative.param === "temperature");
    const long = await fails({ messages: [{ role: "user", content: "word ".repeat(20000) }] });
    assert.equal(long.code, "context_length_exceeded");
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log("ok", name);
}
console.log(Object.keys(checks).length, "checks passed");
