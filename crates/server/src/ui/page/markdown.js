// A model's text as the server rendered it. The one place where a string becomes markup: the server's policy allows no
// other, and the server made that string safe.

import { request } from "./api.js";
import { el, iconButton } from "./dom.js";

const policy = window.trustedTypes?.createPolicy("zonda", { createHTML: (html) => html }) ?? { createHTML: (html) => html };

/** Milliseconds between two renderings of a growing answer. */
const PAUSE = 90;

/** HTML of each text; throws if the server can't be reached. */
export async function toHtml(texts) {
  const response = await request("/ui/render", { body: { texts } });
  return (await response.json()).html;
}

/** Shows HTML, and replaces only blocks that changed, so that selected text stays selected. */
export function show(element, html) {
  const template = document.createElement("template");
  template.innerHTML = policy.createHTML(html);
  if (!element.shownBlocks) element.replaceChildren();
  const shown = (element.shownBlocks ??= []);
  const fresh = [...template.content.children];
  fresh.forEach((block, i) => {
    const source = block.outerHTML;
    if (shown[i]?.source === source) return;
    const dressed = dress(block);
    if (shown[i]) shown[i].node.replaceWith(dressed);
    else element.append(dressed);
    shown[i] = { source, node: dressed };
  });
  for (const { node } of shown.splice(fresh.length)) node.remove();
}

/** Shows text as it is. */
export function showText(element, text) {
  element.shownBlocks = undefined;
  element.replaceChildren(el("p", { class: "plain" }, text));
}

/** Code gets its language and a button that copies it, tables room to scroll. */
function dress(block) {
  const codes = block.matches("pre") ? [block] : [...block.querySelectorAll("pre")];
  let outer = block;
  for (const pre of codes) {
    const language = (pre.querySelector("code")?.className ?? "").replace("language-", "");
    const figure = el("figure", { class: "code" });
    const copy = iconButton("copy", "Copy the code", () => copyText(copy, pre.textContent));
    if (pre === block) outer = figure;
    else pre.replaceWith(figure);
    pre.tabIndex = 0;
    figure.append(el("figcaption", {}, el("span", {}, language), copy), pre);
  }
  if (block.matches("table")) outer = el("div", { class: "table", tabIndex: 0, role: "region", "aria-label": "Table" }, block);
  return outer;
}

/** Copies, and shows on the button that it did. */
export async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without TLS there is no clipboard but this one.
    const area = el("textarea", { value: text, class: "hidden" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
}

/** A growing answer: rendered at intervals, one rendering at a time, and completely at the end. */
export class Growing {
  constructor(element, changed) {
    Object.assign(this, { element, changed, text: "", busy: null });
  }

  push(text) {
    this.text = text;
    this.busy ??= this.#render().finally(() => { this.busy = null; });
  }

  /** Waits until all of the text is shown. */
  async finish(text) {
    this.text = text;
    await this.busy;
    this.busy = this.#render();
    await this.busy;
  }

  async #render() {
    let rendered = null;
    while (rendered !== this.text) {
      rendered = this.text;
      try {
        const [html] = await toHtml([rendered]);
        show(this.element, html);
      } catch {
        showText(this.element, rendered);
      }
      this.changed();
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
}
