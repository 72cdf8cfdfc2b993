// The system prompt and how answers are sampled. Blank fields use the server's defaults.

import { $, el } from "./dom.js";
import { read, write } from "./store.js";

/** Fields of a request: name, label, the server's default, bounds. */
const FIELDS = [
  { name: "temperature", label: "Temperature", hint: "0: always the most probable token", blank: "0.8", min: 0, max: 2, step: 0.05 },
  { name: "top_p", label: "Top-p", hint: "Keep the most probable tokens that together reach this", blank: "0.95", min: 0, max: 1, step: 0.01 },
  { name: "min_p", label: "Min-p", hint: "Keep tokens at least this share as probable as the best", blank: "0.05", min: 0, max: 1, step: 0.01 },
  { name: "top_k", label: "Top-k", hint: "Keep this many of the most probable tokens; 0: all", blank: "40", min: 0, max: 200, step: 1 },
  { name: "repeat_penalty", label: "Repeat penalty", hint: "1 is off", blank: "1", min: 0.8, max: 1.6, step: 0.01 },
  { name: "max_tokens", label: "Max tokens", hint: "Maximum length of an answer; blank: what fits into the context", blank: "–", step: 1 },
  { name: "seed", label: "Seed", hint: "The same seed gives the same answer", blank: "random", step: 1 },
];

const LAST = "zonda.settings";

/** The settings of new conversations: those that were set last. */
export const initial = () => read(LAST, {});

/** The request fields for these settings. */
export function toRequest(settings) {
  const fields = {};
  for (const { name } of FIELDS) {
    if (settings[name] !== undefined && settings[name] !== "") fields[name] = Number(settings[name]);
  }
  return fields;
}

/** The form. `changed` is called with the settings after each change. */
export class SettingsForm {
  constructor(changed) {
    this.changed = changed;
    this.settings = {};
    this.inputs = {};
    this.system = el("textarea", {
      id: "set-system", rows: 4, placeholder: "You are a helpful assistant.", oninput: () => this.#set("system", this.system.value),
    });
    const reset = el("button", { type: "button", class: "reset", onclick: () => this.#reset() }, "Reset sampling to defaults");
    $("settings-form").append(
      el("label", { htmlFor: "set-system" }, "System prompt"), this.system,
      el("h3", {}, "Sampling"), ...FIELDS.map((field) => this.#row(field)), reset,
    );
    $("settings-form").addEventListener("submit", (event) => event.preventDefault());
  }

  #row({ name, label, hint, blank, min, max, step }) {
    const id = `set-${name}`;
    const input = el("input", { id, type: "number", inputMode: "decimal", step: "any", placeholder: blank, "aria-describedby": `${id}-hint` });
    const row = el("div", { class: "setting" }, el("label", { htmlFor: id }, label), input);
    let slider;
    if (max !== undefined) {
      slider = el("input", { type: "range", min, max, step, tabIndex: -1, "aria-hidden": "true" });
      slider.addEventListener("input", () => { input.value = slider.value; this.#set(name, slider.value); });
      row.append(slider);
    }
    row.append(el("small", { id: `${id}-hint` }, hint));
    input.addEventListener("input", () => this.#set(name, input.value));
    this.inputs[name] = { row, input, slider, blank };
    return row;
  }

  #set(name, value) {
    this.settings[name] = value;
    this.#paint(name);
    write(LAST, this.settings);
    this.changed(this.settings);
  }

  #paint(name) {
    const field = this.inputs[name];
    if (!field) return;
    const value = this.settings[name] ?? "";
    field.row.classList.toggle("set", value !== "");
    if (!field.slider) return;
    field.slider.value = value === "" ? field.blank : value;
    const { min, max } = field.slider;
    field.slider.style.setProperty("--at", `${(100 * (field.slider.value - min)) / (max - min)}%`);
  }

  #reset() {
    for (const name of Object.keys(this.inputs)) {
      this.inputs[name].input.value = "";
      this.#set(name, "");
    }
  }

  /** Shows a conversation's settings. */
  show(settings) {
    this.settings = settings;
    this.system.value = settings.system ?? "";
    for (const [name, { input }] of Object.entries(this.inputs)) {
      input.value = settings[name] ?? "";
      this.#paint(name);
    }
  }
}
