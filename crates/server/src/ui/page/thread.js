// The messages on the page.

import { $, count, el, figure, icon, iconButton, time } from "./dom.js";
import { Growing, copyText, show, showText, toHtml } from "./markdown.js";

/** The page follows new text if it is scrolled this close to the end, in pixels. */
const NEAR = 80;

export class Thread {
  /** `actions`: regenerate(), edit(index, text). */
  constructor(actions) {
    this.actions = actions;
    this.scroll = $("scroll");
    this.follows = true;
    $("latest").prepend(icon("down"));
    $("latest").addEventListener("click", () => { this.follows = true; this.toEnd(); });
    this.scroll.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = this.scroll;
      this.follows = scrollHeight - scrollTop - clientHeight < NEAR;
      $("latest").hidden = this.follows;
    }, { passive: true });
  }

  toEnd() {
    if (this.follows) this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  /** Shows a conversation. */
  async show(messages) {
    const nodes = messages.map((message, i) => this.#message(message, i));
    $("thread").replaceChildren(...nodes);
    $("welcome").hidden = messages.length > 0;
    this.#last();
    this.follows = true;
    this.toEnd();
    const answers = messages.map((message, i) => ({ message, node: nodes[i] })).filter(({ message }) => message.role === "assistant");
    if (answers.length === 0) return;
    try {
      const html = await toHtml(answers.map(({ message }) => message.content));
      answers.forEach(({ node }, i) => show(node.querySelector(".text"), html[i]));
    } catch {
      // The text is there as it is.
    }
    this.toEnd();
  }

  /** Adds a message at the end. */
  add(message, index) {
    $("welcome").hidden = true;
    const node = this.#message(message, index);
    $("thread").append(node);
    this.#last();
    this.follows = true;
    this.toEnd();
    return node;
  }

  /** Takes messages away, from this one on. */
  cut(index) {
    for (const node of [...$("thread").children].slice(index)) node.remove();
    this.#last();
  }

  /** The last answer alone can be asked for again. */
  #last() {
    const nodes = [...$("thread").children];
    nodes.forEach((node, i) => node.classList.toggle("last", i === nodes.length - 1));
  }

  #message(message, index) {
    return message.role === "user" ? this.#question(message, index) : this.#answer(message);
  }

  #question(message, index) {
    const text = el("div", { class: "text" }, message.content);
    const node = el("article", { class: "message user", "aria-label": "You" },
      text,
      el("div", { class: "actions" },
        this.#copy(() => message.content),
        iconButton("edit", "Edit the message", () => this.#edit(node, message, index))));
    return node;
  }

  #answer(message) {
    const text = el("div", { class: "text" });
    if (message.content) showText(text, message.content);
    const thought = el("details", { class: "thought" }, el("summary", {}, "Reasoning"), el("div", {}));
    const node = el("article", { class: "message assistant", "aria-label": "Answer" },
      thought,
      text,
      el("div", { class: "end" },
        el("div", { class: "actions" },
          this.#copy(() => message.content),
          iconButton("again", "Answer again", () => this.actions.regenerate())),
        el("p", { class: "stats" })));
    node.classList.toggle("again", true);
    this.#think(thought, message);
    this.describe(node, message);
    return node;
  }

  /** What the model thought before it answered, as plain text; hidden if there is nothing. */
  #think(thought, { reasoning = "" }) {
    thought.hidden = !reasoning;
    const text = thought.querySelector("div");
    if (text.textContent !== reasoning) text.textContent = reasoning;
  }

  #copy(text) {
    const button = iconButton("copy", "Copy", () => copyText(button, text()));
    return button;
  }

  /** An answer's figures, how it ended, and what went wrong. */
  describe(node, message) {
    const { stats = {}, error, stopped, model } = message;
    const parts = [
      stopped && "stopped",
      stats.finish === "length" && "cut off at the limit",
      Number.isFinite(stats.tokens) && `${count(stats.tokens)} tokens`,
      Number.isFinite(stats.speed) && `${figure(stats.speed)} tokens/s`,
      Number.isFinite(stats.ttft) && `first after ${time(stats.ttft)}`,
      stats.cached > 0 && `${count(stats.cached)} of ${count(stats.prompt)} prompt tokens cached`,
      model,
    ];
    node.querySelector(".stats").textContent = parts.filter(Boolean).join(" · ");
    node.querySelector(".error")?.remove();
    if (!error) return;
    const retry = el("button", { type: "button", onclick: () => this.actions.regenerate() }, "Try again");
    const box = el("div", { class: "error", role: "alert" }, el("p", {}, error), retry);
    node.querySelector(".text").after(box);
    this.toEnd();
  }

  /** An answer that is about to come: push(text), finish(). */
  grow(node, message) {
    const text = node.querySelector(".text");
    const thought = node.querySelector(".thought");
    node.classList.add("growing");
    $("thread").setAttribute("aria-busy", "true");
    const growing = new Growing(text, () => this.toEnd());
    return {
      push: () => {
        this.#think(thought, message);
        growing.push(message.content);
      },
      finish: async () => {
        node.classList.remove("growing");
        $("thread").removeAttribute("aria-busy");
        this.describe(node, message);
        if (message.content) await growing.finish(message.content);
        this.toEnd();
      },
    };
  }

  #edit(node, message, index) {
    if (node.classList.contains("editing")) return;
    const area = el("textarea", { value: message.content, "aria-label": "The message" });
    const end = () => { form.remove(); node.classList.remove("editing"); };
    const send = () => { if (area.value.trim()) { end(); this.actions.edit(index, area.value); } };
    const form = el("form", { class: "edit", onsubmit: (event) => { event.preventDefault(); send(); } },
      area,
      el("div", { class: "buttons" },
        el("span", { class: "quiet" }, "Everything after it will be replaced."),
        el("button", { type: "button", onclick: end }, "Cancel"),
        el("button", { type: "submit", class: "primary" }, "Send")));
    area.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); send(); }
      if (event.key === "Escape") { event.stopPropagation(); end(); node.querySelector(".actions button:last-child").focus(); }
    });
    node.classList.add("editing");
    node.prepend(form);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}
