// Conversations, kept in this browser: one entry each, so that two tabs don't overwrite each other's.

import { toast } from "./dom.js";

const PREFIX = "zonda.conversation.";

/** Reads JSON from storage; returns `fallback` if it is missing or malformed. */
export function read(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? fallback;
  } catch {
    return fallback;
  }
}

/** Writes JSON to storage. If the storage is full, says so once, and the page keeps everything. */
let full = false;
export function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    full = false;
  } catch {
    if (!full) toast("This browser's storage is full or not allowed: from now on, messages are lost when the page is closed.");
    full = true;
  }
}

const wellFormed = (c) => c && typeof c.id === "string" && Array.isArray(c.messages);

/** All conversations, the most recently used first. */
export function all() {
  const found = [];
  try {
    for (let i = 0; i < localStorage.length; i++) {
      const key = localStorage.key(i);
      if (key.startsWith(PREFIX)) found.push(read(key, null));
    }
  } catch {
    // Storage is forbidden.
  }
  return found.filter(wellFormed).sort((a, b) => b.updated - a.updated);
}

/** A conversation without messages, which is stored once it has some. */
export function create(settings) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (b) => b.toString(16).padStart(2, "0")).join("");
  return { id, title: "", created: Date.now(), updated: Date.now(), settings: { ...settings }, messages: [] };
}

/** Deleted conversations: an answer that still arrives does not restore one. */
const gone = new Set();

export function save(conversation) {
  if (conversation.messages.length === 0 || gone.has(conversation.id)) return;
  write(PREFIX + conversation.id, conversation);
}

export function remove(id) {
  gone.add(id);
  localStorage.removeItem(PREFIX + id);
}

/** Undoes a removal. */
export function restore(conversation) {
  gone.delete(conversation.id);
  save(conversation);
}

export const load = (id) => {
  const found = read(PREFIX + id, null);
  return wellFormed(found) ? found : null;
};

/** Calls back when another tab changes conversations. */
export function watch(changed) {
  window.addEventListener("storage", (event) => {
    if (event.key === null || event.key.startsWith(PREFIX)) changed();
  });
}

/** A conversation's title: the chosen one, or the beginning of the first message. */
export function title(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.messages.find((m) => m.role === "user")?.content ?? "";
  const line = first.trim().split("\n")[0];
  return line.length > 60 ? `${line.slice(0, 57).trimEnd()}…` : line || "New conversation";
}
