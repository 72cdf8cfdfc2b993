// Reads the server's /metrics and computes what happened between two readings.

/** Lines of Prometheus' text as `{name, labels, value}`. */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, key, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[key] = value;
    samples.push({ name: found[1], labels, value: Number(found[3]) });
  }
  return samples;
}

/** One reading: sums over models. */
export class Reading {
  constructor(text, at) {
    this.at = at;
    this.samples = parse(text);
  }

  /** The sum of a name's samples; NaN if there are none. */
  sum(name, keep = () => true) {
    const found = this.samples.filter((s) => s.name === name && keep(s.labels));
    return found.length ? found.reduce((total, s) => total + s.value, 0) : NaN;
  }

  /** The largest of a name's samples. */
  most(name) {
    const found = this.samples.filter((s) => s.name === name);
    return found.length ? Math.max(...found.map((s) => s.value)) : NaN;
  }
}

const zero = (n) => (Number.isFinite(n) ? n : 0);

/** Growth per second of a counter between two readings. A restarted server counts from 0. */
export function rate(name, before, now, keep) {
  if (!before) return NaN;
  const grown = zero(now.sum(name, keep)) - zero(before.sum(name, keep));
  return grown < 0 ? NaN : grown / ((now.at - before.at) / 1000);
}

/** The mean of a histogram's new values between two readings, in its unit; NaN if there are none. */
export function mean(name, before, now) {
  if (!before) return NaN;
  const taken = zero(now.sum(`${name}_count`)) - zero(before.sum(`${name}_count`));
  const total = zero(now.sum(`${name}_sum`)) - zero(before.sum(`${name}_sum`));
  return taken > 0 ? total / taken : NaN;
}
