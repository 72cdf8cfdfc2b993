// One conversation: the messages, the streamed answer, and its figures.

import { ApiError, post, stream } from "./api.js";
import { $, count, figure, time } from "./dom.js";
import { initial, toRequest } from "./settings.js";
import * as store from "./store.js";
import { Thread } from "./thread.js";

const OPEN = "zonda.open";

export class Chat {
  /** `models`: current() and context(). `changed` is called when the list of conversations may have, `opened` when
   * another one is shown. */
  constructor(models, { changed, opened }) {
    Object.assign(this, { models, changed, opened, running: null });
    this.thread = new Thread({
      regenerate: () => this.regenerate(),
      edit: (index, text) => this.edit(index, text),
    });
    const last = sessionStorage.getItem(OPEN) ?? store.all()[0]?.id;
    this.conversation = (last && store.load(last)) || store.create(initial());
    window.addEventListener("pagehide", () => this.#save());
  }

  /** Opens a conversation; null: a new one. An answer that is still coming is stopped. */
  open(id) {
    this.stop();
    this.running = null;
    this.#buttons();
    this.conversation = (id && store.load(id)) || store.create(initial());
    sessionStorage.setItem(OPEN, this.conversation.id);
    this.opened();
    this.show();
    $("message").focus({ preventScroll: true });
  }

  show() {
    this.changed();
    this.#figures();
    return this.thread.show(this.conversation.messages);
  }

  rename(id, title) {
    const conversation = id === this.conversation.id ? this.conversation : store.load(id);
    if (!conversation) return;
    conversation.title = title;
    store.save(conversation);
  }

  get messages() {
    return this.conversation.messages;
  }

  #save() {
    store.save(this.conversation);
  }

  send(text) {
    if (this.running || !text.trim()) return false;
    this.#add({ role: "user", content: text });
    this.#answer();
    return true;
  }

  /** Asks again for the last answer. */
  async regenerate() {
    await this.stop();
    const end = this.messages.findLastIndex((m) => m.role === "user") + 1;
    if (end === 0) return;
    this.messages.length = end;
    this.thread.cut(end);
    this.#answer();
  }

  /** Asks something else instead of this message; what came after it goes. */
  async edit(index, text) {
    await this.stop();
    this.messages.length = index;
    this.thread.cut(index);
    this.send(text);
  }

  /** Ends the answer that is coming; what came of it stays. */
  async stop() {
    this.running?.abort.abort();
    await this.running?.over;
  }

  #add(message) {
    this.messages.push(message);
    this.conversation.updated = Date.now();
    this.#save();
    sessionStorage.setItem(OPEN, this.conversation.id);
    this.changed();
    return this.thread.add(message, this.messages.length - 1);
  }

  #request() {
    const { settings } = this.conversation;
    const system = settings.system?.trim() ? [{ role: "system", content: settings.system }] : [];
    const said = this.messages.filter((m) => m.content).map(({ role, content }) => ({ role, content }));
    return { model: this.models.current(), ...toRequest(settings), messages: [...system, ...said] };
  }

  #answer() {
    const abort = new AbortController();
    const over = this.#run(abort.signal);
    this.running = { abort, over };
    over.finally(() => {
      if (this.running?.over !== over) return;
      this.running = null;
      this.#buttons();
    });
    this.#buttons();
  }

  async #run(signal) {
    const body = this.#request();
    const conversation = this.conversation;
    const message = { role: "assistant", content: "", stats: {}, model: body.model };
    const node = this.#add(message);
    const growing = this.thread.grow(node, message);
    const watch = { start: performance.now(), first: null, pieces: 0, saved: performance.now() };
    this.#count(body, message.stats);
    try {
      for await (const chunk of stream("/v1/chat/completions", body, signal)) {
        this.#take(message, chunk, watch);
        growing.push();
        if (performance.now() - watch.saved > 1000) {
          watch.saved = performance.now();
          store.save(conversation);
        }
      }
    } catch (error) {
      if (error.name === "AbortError") message.stopped = true;
      else message.error = sentence(error);
    }
    conversation.updated = Date.now();
    store.save(conversation);
    this.changed();
    this.#figures();
    await growing.finish();
  }

  /** Counts the prompt while the answer comes; the answer's end says it too. */
  async #count({ model, messages }, stats) {
    try {
      const { count } = await post("/tokenize", { model, messages }, { quiet: true });
      stats.prompt ??= count;
      this.#figures();
    } catch {
      // The figure stays blank.
    }
  }

  /** A chunk: text, or at the end the server's own counts and times. */
  #take(message, chunk, watch) {
    const { stats } = message;
    const choice = chunk.choices[0];
    const piece = choice?.delta?.content || choice?.delta?.reasoning_content;
    if (piece) {
      const now = performance.now();
      watch.first ??= now;
      watch.pieces += 1;
      message.content += choice.delta.content ?? "";
      if (choice.delta.reasoning_content) message.reasoning = (message.reasoning ?? "") + choice.delta.reasoning_content;
      stats.ttft ??= now - watch.start;
      // Deliveries, which are tokens but for characters that take several; the server's figures follow.
      if (watch.pieces > 1) stats.speed = (1000 * (watch.pieces - 1)) / (now - watch.first);
    }
    if (choice?.finish_reason) stats.finish = choice.finish_reason;
    if (chunk.timings) {
      stats.ttft = chunk.timings.ttft_ms ?? stats.ttft;
      stats.speed = chunk.timings.decode_tps ?? stats.speed;
      stats.dropped = chunk.timings.dropped_tokens;
    }
    if (chunk.usage) {
      stats.tokens = chunk.usage.completion_tokens;
      stats.prompt = chunk.usage.prompt_tokens;
      stats.cached = chunk.usage.prompt_tokens_details?.cached_tokens;
    }
    else if (piece) stats.came = watch.pieces;
    this.#figures();
  }

  #buttons() {
    $("send").hidden = this.running !== null;
    $("stop").hidden = this.running === null;
  }

  /** Below the message: speed, time to the first token, how full the context is. What is not known is blank. */
  #figures() {
    const last = this.messages.findLast((m) => m.role === "assistant")?.stats ?? {};
    $("live-speed").textContent = Number.isFinite(last.speed) ? `${figure(last.speed)} tok/s` : "";
    $("live-ttft").textContent = time(last.ttft);
    const limit = this.models.context();
    const used = last.prompt + (last.tokens ?? last.came ?? 0) - (last.dropped ?? 0);
    const known = Number.isFinite(used) && Number.isFinite(limit);
    $("live-context").textContent = known ? `${count(used)} / ${count(limit)}` : limit ? `${count(limit)} tokens` : "";
    $("live-meter").style.width = known ? `${Math.min(100, (100 * used) / limit)}%` : "0";
    $("live-meter").classList.toggle("tight", known && used > 0.85 * limit);
  }
}

/** The server's error as a sentence, with advice if there is any. */
function sentence(error) {
  const text = error instanceof ApiError ? error.message : String(error.message ?? error);
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  return (/[.!?]$/.test(start) ? start : `${start}.`) + wait;
}
