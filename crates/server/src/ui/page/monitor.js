// The second view: live metrics, and the last bench report.

import { request } from "./api.js";
import { $, count, el, figure, time } from "./dom.js";
import { Reading, mean, rate } from "./metrics.js";
import { Plot } from "./plot.js";
import { showReport } from "./report.js";

const EVERY = 1000;
const seconds = (s) => time(1000 * s);
const share = (part) => `${figure(100 * part)} %`;

/** The charts, and how each is computed from two readings. */
const PLOTS = [
  { title: "Generated tokens per second", format: figure, take: (b, n) => [rate("zonda_generated_tokens_total", b, n)] },
  { title: "Sequences", hint: "Running requests have a slot", series: ["running", "waiting"], format: count,
    take: (_, n) => [n.sum("zonda_sequences_running"), n.sum("zonda_sequences_waiting")] },
  { title: "KV cache in use", hint: "By running sequences, of the model with the fullest cache", format: share, top: 1, take: (_, n) => [n.most("zonda_kv_usage_ratio")] },
  { title: "Time to first token", hint: "Mean of the last second", format: seconds, take: (b, n) => [mean("zonda_time_to_first_token_seconds", b, n)] },
  { title: "Time between tokens", hint: "Mean of the last second", format: seconds, take: (b, n) => [mean("zonda_inter_token_seconds", b, n)] },
  { title: "Answers per second", hint: "Finished generations, and failed requests", series: ["ended", "refused"], format: figure,
    take: (b, n) => [
      rate("zonda_generations_total", b, n),
      rate("zonda_requests_total", b, n, (labels) => Number(labels.status) >= 400),
    ] },
];

/** Sums since the server started. */
const TILES = [
  ["Generations", (n) => count(n.sum("zonda_generations_total"))],
  ["Prompt tokens", (n) => count(n.sum("zonda_prompt_tokens_total"))],
  ["Of these, cached", (n) => {
    const [cached, all] = [n.sum("zonda_cached_tokens_total"), n.sum("zonda_prompt_tokens_total")];
    return all > 0 ? share(cached / all) : "";
  }],
  ["Generated tokens", (n) => count(n.sum("zonda_generated_tokens_total"))],
];

export class Monitor {
  constructor() {
    this.plots = PLOTS.map((plot) => ({ take: plot.take, plot: new Plot(plot) }));
    $("plots").append(...this.plots.map(({ plot }) => plot.element));
    this.tiles = TILES.map(([name, take]) => ({ take, value: el("dd", {}, "–"), name }));
    $("tiles").append(...this.tiles.map(({ name, value }) => el("div", {}, el("dt", {}, name), value)));
    this.before = null;
    this.running = false;
  }

  /** Reads while the view is seen. */
  run(seen) {
    const started = seen && !this.running;
    this.running = seen;
    if (!started) return;
    showReport();
    const turn = ++this.turn || (this.turn = 1);
    const step = async () => {
      if (!this.running || this.turn !== turn) return;
      if (!document.hidden) await this.read();
      setTimeout(step, EVERY);
    };
    step();
  }

  async read() {
    let now;
    try {
      now = new Reading(await (await request("/metrics")).text(), performance.now());
    } catch (error) {
      $("metrics-state").textContent = error.message;
      this.before = null;
      return;
    }
    $("metrics-state").textContent = "The last two minutes, live";
    for (const { take, plot } of this.plots) plot.push(take(this.before, now));
    for (const { take, value } of this.tiles) value.textContent = take(now) || "–";
    this.before = now;
  }
}
