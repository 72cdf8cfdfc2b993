// The list of conversations: open, rename, delete, and undo that.

import { $, el, icon, iconButton, toast } from "./dom.js";
import * as store from "./store.js";

export class Sidebar {
  /** `chat` opens conversations and says which one is open. */
  constructor(chat) {
    this.chat = chat;
    $("new").prepend(icon("plus"));
    $("new").addEventListener("click", () => chat.open(null));
    store.watch(() => this.show());
  }

  show() {
    const items = store.all().map((conversation) => this.#item(conversation));
    $("conversations").replaceChildren(...items);
  }

  #item(conversation) {
    const current = conversation.id === this.chat.conversation.id;
    const open = el("button", {
      type: "button", class: "open", "aria-current": current ? "true" : undefined,
      onclick: () => this.chat.open(conversation.id),
    }, store.title(conversation));
    const item = el("li", { class: current ? "current" : "" },
      open,
      iconButton("edit", "Rename", () => this.#rename(item, conversation)),
      iconButton("remove", "Delete", () => this.#remove(conversation)));
    return item;
  }

  #rename(item, conversation) {
    const input = el("input", { value: store.title(conversation), maxLength: 120, "aria-label": "Name of the conversation" });
    let over = false;
    const end = (keep) => {
      if (over) return;
      over = true;
      const name = input.value.trim();
      if (keep && name) this.chat.rename(conversation.id, name);
      this.show();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) end(true);
      if (event.key === "Escape") { event.stopPropagation(); end(false); }
    });
    input.addEventListener("blur", () => end(true));
    item.replaceChildren(input);
    input.focus();
    input.select();
  }

  #remove(conversation) {
    const current = conversation.id === this.chat.conversation.id;
    if (current) this.chat.open(null);
    const kept = store.load(conversation.id) ?? conversation;
    store.remove(conversation.id);
    this.show();
    $("new").focus();
    toast("Conversation deleted.", "Undo", () => {
      store.restore(kept);
      if (current) this.chat.open(kept.id);
      this.show();
    });
  }
}
