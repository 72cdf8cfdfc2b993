// The last bench report: its own page in an isolated frame, or its text, or a table of its record.

import { get } from "./api.js";
import { $, el, figure, time } from "./dom.js";
import { show } from "./markdown.js";

/** Columns of a record's summary. A figure is a median over runs; blank if it was not measured. */
const COLUMNS = [
  ["Backend", (c) => c.backend],
  ["Model", (c) => c.model],
  ["Format", (c) => [c.format, c.quant].filter(Boolean).join(" ")],
  ["Scenario", (c) => c.scenario],
  ["Runs", (c) => String(c.runs)],
  ["TTFT", (c) => time(c.ttft_ms?.median)],
  ["Time per token", (c) => time(c.tpt_ms?.median)],
  ["Tokens/s", (c) => figure(c.throughput?.median)],
  ["Prefill tokens/s", (c) => figure(c.prefill_tps?.median)],
  ["Decode tokens/s", (c) => figure(c.decode_tps?.median)],
  ["", (c) => c.why ?? ""],
];

/** A load on a server: `zonda bench serve`. */
function load({ config, summary: s }) {
  const row = (name, spread) => spread && [name, ...[spread.p50, spread.p90, spread.p99, spread.max].map(time)];
  const rows = [row("First token", s.ttft_ms), row("Between tokens", s.itl_ms), row("Whole answer", s.total_ms)].filter(Boolean);
  const cells = (kind, values) => el("tr", {}, ...values.map((value) => el(kind, {}, value)));
  const rate = Number.isFinite(s.tokens_per_s) ? `, ${figure(s.tokens_per_s)} tokens/s` : "";
  return [
    el("p", {}, `Load on ${config.url}: ${s.complete} of ${s.requests} requests answered, ${figure(s.requests_per_s)} a second${rate}.`),
    el("div", { class: "table" }, el("table", {},
      el("thead", {}, cells("th", ["", "p50", "p90", "p99", "max"])), el("tbody", {}, ...rows.map((r) => cells("td", r))))),
  ];
}

function table(record) {
  const cells = Array.isArray(record.summary) ? record.summary : [];
  const used = COLUMNS.filter(([, value]) => cells.some((c) => value(c)));
  const row = (kind, values) => el("tr", {}, ...values.map((value) => el(kind, {}, value)));
  return el("div", { class: "table", tabIndex: 0, role: "region", "aria-label": "Summary" },
    el("table", {},
      el("thead", {}, row("th", used.map(([name]) => name))),
      el("tbody", {}, ...cells.map((c) => row("td", used.map(([, value]) => value(c)))))));
}

export async function showReport() {
  const [place, state] = [$("report"), $("report-state")];
  let report;
  try {
    report = await get("/ui/report");
  } catch (error) {
    state.textContent = "";
    place.replaceChildren(el("p", { class: "empty" }, error.message));
    return;
  }
  const when = report.modified ? new Date(1000 * report.modified).toLocaleString() : "";
  state.textContent = [report.path, when].filter(Boolean).join(" · ");
  place.shownBlocks = undefined;
  if (report.why) {
    const parts = report.why.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));
    place.replaceChildren(el("p", { class: "empty" }, ...parts));
  } else if (report.url) {
    const frame = el("iframe", { title: "Bench report", src: report.url });
    frame.setAttribute("sandbox", "allow-scripts");
    place.replaceChildren(frame, el("p", {}, el("a", { href: report.url, target: "_blank", rel: "noopener" }, "The report on a separate page")));
  } else if (report.html) {
    const text = el("div", { class: "text" });
    place.replaceChildren(text);
    show(text, report.html);
  } else if (report.record.kind === "serve") {
    place.replaceChildren(...load(report.record));
  } else {
    const said = (report.record.recommendation ?? []).map((line) => el("p", {}, line));
    place.replaceChildren(...said, table(report.record));
  }
}
