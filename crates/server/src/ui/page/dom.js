// Elements without markup in strings: text that is set here is shown as text.

/** An element with properties (`class`, `on…`, `data-…`, `aria-…`, anything else as a property) and children. */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

export const $ = (id) => document.getElementById(id);

const PATHS = {
  menu: "M4 7h16M4 12h16M4 17h10",
  settings: "M4 8h9m5 0h2M4 16h2m5 0h9M15.5 5.5v5M8.5 13.5v5",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5m0 0l-6 6m6-6l6 6",
  stop: "M8 8h8v8H8z",
  copy: "M9 9h10v10H9zM5 15V5h10",
  done: "M5 13l4 4L19 7",
  again: "M19 12a7 7 0 1 1-2.05-4.95L19 9m0-4v4h-4",
  edit: "M4 20h4L19 9l-4-4L4 16z",
  remove: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  plus: "M12 5v14M5 12h14",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 3v1.5m0 15V21m9-9h-1.5M4.5 12H3m15.4-6.4l-1.1 1.1M6.7 17.3l-1.1 1.1m12.8 0l-1.1-1.1M6.7 6.7L5.6 5.6",
  dark: "M19.5 14.5A8 8 0 0 1 9.5 4.5a8 8 0 1 0 10 10z",
  system: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  down: "M12 5v14m0 0l-6-6m6 6l6-6",
};

/** A line drawing; the button that contains it has the label. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button with a drawing and a name. */
export function iconButton(name, label, onclick) {
  return el("button", { type: "button", class: "icon", title: label, "aria-label": label, onclick }, icon(name));
}

/** A message that disappears by itself, possibly with an action. */
export function toast(text, action, run) {
  const box = el("div", { class: "toast" }, el("span", {}, text));
  const close = () => box.remove();
  if (action) {
    box.append(el("button", { type: "button", onclick: () => { run(); close(); } }, action));
  }
  $("toasts").replaceChildren(box);
  setTimeout(close, action ? 8000 : 5000);
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A count with thousands separators; blank if unknown. */
export const count = (n) => (Number.isFinite(n) ? whole.format(n) : "");

/** A number with three significant digits. */
export function figure(n) {
  if (!Number.isFinite(n)) return "";
  if (n >= 100 || n === 0) return whole.format(n);
  return n.toFixed(n >= 10 ? 1 : 2);
}

/** Milliseconds as a time for people. */
export function time(ms) {
  if (!Number.isFinite(ms)) return "";
  return ms >= 1000 ? `${figure(ms / 1000)} s` : `${figure(ms)} ms`;
}
