// Starts the page: views, theme, models, keys of the keyboard.

import { get } from "./api.js";
import { Chat } from "./chat.js";
import { $, count, el, icon } from "./dom.js";
import { Monitor } from "./monitor.js";
import { SettingsForm } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { save } from "./store.js";

const IDEAS = [
  "Explain how a KV cache makes decoding fast",
  "Write a haiku about a warm wind",
  "What is the difference between Q4_0 and Q4_K?",
  "Show a binary search in Rust, with a test",
];

/** The server's models, and the chosen one. */
const models = {
  list: [],
  /** The entries of a model: one for each backend that runs it. */
  of: (root) => models.list.filter((m) => m.root === root),
  current: () => $("backend-choice").value || undefined,
  /** Shows an entry as the chosen one: its model, and its backend where there is a choice. */
  choose(id) {
    const entry = models.list.find((m) => m.id === id) ?? models.of($("model").value)[0] ?? models.list[0];
    if (!entry) return;
    $("model").value = entry.root;
    const beside = models.of(entry.root);
    $("backend-choice").replaceChildren(...beside.map((m) => el("option", { value: m.id }, m.backend ?? m.id)));
    $("backend-choice").value = entry.id;
    $("backend-choice").hidden = beside.length < 2;
    showModel();
    if (!entry.zonda) setTimeout(refreshModels, 2000);
  },
  details: () => models.list.find((m) => m.id === models.current())?.zonda,
  context: () => models.details()?.context,
};

let [sidebar, settings] = [null, null];
const chat = new Chat(models, {
  changed: () => sidebar?.show(),
  opened: () => {
    settings.show(chat.conversation.settings);
    models.choose(chat.conversation.model ?? models.current());
  },
});
settings = new SettingsForm((set) => {
  chat.conversation.settings = set;
  save(chat.conversation);
});
sidebar = new Sidebar(chat);
const monitor = new Monitor();

const facts = (pairs) => pairs.filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);

function showModel() {
  const details = models.details();
  const several = models.of($("model").value).length > 1;
  $("backend").textContent = details ? [several ? "" : details.backend, details.weights].filter(Boolean).join(" · ") : "";
  $("welcome-model").textContent = details
    ? `${$("model").value} runs here on the backend ${details.backend}, with ${count(details.context)} tokens of context.`
    : "";
  $("model-facts").replaceChildren(...facts(details ? [
    ["Name", models.current()], ["Backend", details.backend], ["Device", details.device], ["Weights", details.weights],
    ["Context", `${count(details.context)} tokens`], ["At once", `${details.parallel} requests`],
    ["Vocabulary", `${count(details.vocabulary)} tokens`],
  ] : [["Name", models.current()], ["State", "not loaded yet: the next request loads it"]]));
}

async function loadModels() {
  try {
    models.list = (await get("/v1/models")).data;
  } catch (error) {
    $("backend").textContent = error.message;
    setTimeout(loadModels, 3000);
    return;
  }
  const select = $("model");
  const roots = [...new Set(models.list.map((m) => m.root))];
  select.replaceChildren(...roots.map((root) => el("option", { value: root }, root)));
  models.choose(chat.conversation.model);
  chat.show();
}

/** A model may be loaded after the server starts, or when the first request needs it. */
async function refreshModels() {
  try {
    models.list = (await get("/v1/models", { quiet: true })).data;
    showModel();
  } catch {
    // Said elsewhere: whoever asks for an answer hears of it.
  }
  if (!models.details()) setTimeout(refreshModels, 2000);
}

function chosen(id) {
  models.choose(id);
  chat.conversation.model = models.current();
  save(chat.conversation);
}
$("model").addEventListener("change", () => {
  // Another model stays on the backend, where that runs it.
  const backend = $("backend-choice").selectedOptions[0]?.textContent;
  const beside = models.of($("model").value);
  chosen((beside.find((m) => m.backend === backend) ?? beside[0])?.id);
});
$("backend-choice").addEventListener("change", () => chosen($("backend-choice").value));

// Views.
function view() {
  const name = location.hash === "#monitor" ? "monitor" : "chat";
  for (const part of document.querySelectorAll(".view")) part.hidden = part.dataset.view !== name;
  for (const tab of document.querySelectorAll(".tabs a")) {
    if (tab.dataset.view === name) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  document.body.dataset.view = name;
  monitor.run(name === "monitor");
}
window.addEventListener("hashchange", view);

// Theme: the system's, light, dark, in turn.
const THEMES = ["system", "light", "dark"];
function theme(next) {
  const root = document.documentElement;
  if (next === "system") delete root.dataset.theme;
  else root.dataset.theme = next;
  $("theme").replaceChildren(icon(next));
  $("theme").title = `Theme: ${next}`;
  $("theme").setAttribute("aria-label", `Theme: ${next}`);
}
$("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "system";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  try { localStorage.setItem("zonda.theme", next); } catch { /* for this page only */ }
  theme(next);
});

// Panels: beside the conversation if there is room, otherwise over it.
const narrow = matchMedia("(max-width: 60rem)");
function panel(id, button, open) {
  if (id === "settings") $(id).hidden = !open;
  else $(id).classList.toggle("opened", open);
  $(button).setAttribute("aria-expanded", String(open));
  $("veil").hidden = !narrow.matches || !(isOpen("sidebar") || isOpen("settings"));
}
const isOpen = (id) => (id === "settings" ? !$(id).hidden : $(id).classList.contains("opened"));
function closePanels() {
  const any = isOpen("settings") || isOpen("sidebar");
  panel("sidebar", "menu", false);
  panel("settings", "open-settings", false);
  return any;
}
$("menu").addEventListener("click", () => {
  location.hash = "#chat";
  panel("sidebar", "menu", !isOpen("sidebar"));
  if (isOpen("sidebar")) $("new").focus();
});
$("open-settings").addEventListener("click", () => {
  location.hash = "#chat";
  panel("settings", "open-settings", !isOpen("settings"));
  if (isOpen("settings")) $("set-system").focus({ preventScroll: true });
});
$("close-settings").addEventListener("click", () => { closePanels(); $("open-settings").focus(); });
$("veil").addEventListener("click", closePanels);
narrow.addEventListener("change", closePanels);
$("sidebar").addEventListener("click", (event) => {
  if (event.target.closest(".open, .new")) panel("sidebar", "menu", false);
});

// The message.
const message = $("message");
const grow = () => { message.style.height = "auto"; message.style.height = `${message.scrollHeight}px`; };
message.addEventListener("input", grow);
function send() {
  if (!chat.send(message.value)) return;
  message.value = "";
  grow();
}
$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
message.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
$("stop").addEventListener("click", () => { chat.stop(); message.focus(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("key-dialog").open) {
    if (narrow.matches && closePanels()) return;
    chat.stop();
  }
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); message.focus(); }
});

$("ideas").append(...IDEAS.map((idea) => el("button", { type: "button", onclick: () => { message.value = idea; grow(); message.focus(); } }, idea)));
for (const [id, name] of [["menu", "menu"], ["open-settings", "settings"], ["close-settings", "close"], ["send", "send"], ["stop", "stop"]]) {
  $(id).append(icon(name));
}
theme(document.documentElement.dataset.theme ?? "system");
settings.show(chat.conversation.settings);
view();
chat.show();
loadModels();
if (!narrow.matches) message.focus();
