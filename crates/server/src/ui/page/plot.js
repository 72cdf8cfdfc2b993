// A small live chart: lines over the last two minutes, drawn as SVG.

import { el } from "./dom.js";

const SPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [320, 96];
/** Number of readings that fit side by side. */
const LENGTH = 120;

function svg(name, attributes = {}) {
  const element = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** The smallest of 1, 2, 5, 10, 20, … that is not below a value. */
function round(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((m) => m * power).find((m) => m >= value * 0.999);
}

export class Plot {
  /** `series`: names of lines; `format`: a value for people; `top`: the scale's end, if it is fixed. */
  constructor({ title, hint, series = [""], format, top }) {
    Object.assign(this, { series, format, top });
    this.values = [];
    this.pointed = null;
    this.now = el("output", { class: "now" });
    this.scale = el("span", { class: "scale" });
    this.drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": title });
    for (const y of [0.5, HEIGHT / 2, HEIGHT - 0.5]) this.drawing.append(svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    this.lines = series.map((_, i) => {
      const parts = { area: svg("path", { class: `area s${i}` }), line: svg("path", { class: `line s${i}` }) };
      this.drawing.append(parts.area, parts.line);
      return parts;
    });
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    this.drawing.append(this.cursor);
    this.element = el("figure", { class: "plot" },
      el("figcaption", {}, el("span", { title: hint }, title), this.now),
      el("div", { class: "canvas" }, this.drawing, this.scale));
    if (series.length > 1) {
      this.element.append(el("p", { class: "legend" }, ...series.map((name, i) => el("span", { class: `s${i}` }, name))));
    }
    this.drawing.addEventListener("pointermove", (event) => this.#point(event));
    this.drawing.addEventListener("pointerleave", () => { this.pointed = null; this.draw(); });
  }

  #point(event) {
    const box = this.drawing.getBoundingClientRect();
    const back = Math.round(((box.right - event.clientX) / box.width) * (LENGTH - 1));
    this.pointed = back < this.values.length ? back : null;
    this.draw();
  }

  /** One value a series. */
  push(values) {
    this.values.push(values);
    if (this.values.length > LENGTH) this.values.shift();
    this.draw();
  }

  draw() {
    const seen = this.values.flat().filter(Number.isFinite);
    const top = this.top ?? round(Math.max(...seen, 0));
    const x = (i) => WIDTH - ((this.values.length - 1 - i) * WIDTH) / (LENGTH - 1);
    const y = (value) => HEIGHT - 2 - (Math.min(value, top) / top) * (HEIGHT - 6);
    this.lines.forEach(({ area, line }, s) => {
      let [path, fill, run] = ["", "", []];
      const close = () => {
        if (run.length === 0) return;
        const points = run.length === 1 ? [[run[0][0] - 1.5, run[0][1]], run[0]] : run;
        const text = points.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L");
        path += `M${text}`;
        fill += `M${points[0][0].toFixed(1)} ${HEIGHT}L${text}L${points.at(-1)[0].toFixed(1)} ${HEIGHT}Z`;
        run = [];
      };
      this.values.forEach((values, i) => {
        if (Number.isFinite(values[s])) run.push([x(i), y(values[s])]);
        else close();
      });
      close();
      line.setAttribute("d", path);
      area.setAttribute("d", fill);
    });
    this.scale.textContent = seen.length ? this.format(top) : "";
    const at = this.values.length - 1 - (this.pointed ?? 0);
    const shown = this.values[at] ?? [];
    this.now.textContent = shown.map((v) => (Number.isFinite(v) ? this.format(v) : "–")).join(" / ");
    this.cursor.setAttribute("visibility", this.pointed === null ? "hidden" : "visible");
    this.cursor.setAttribute("x1", x(at));
    this.cursor.setAttribute("x2", x(at));
  }
}
