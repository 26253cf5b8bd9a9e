// Charts of counts or durations over time. Each colour also has a shape or a dash pattern, and each chart has a table. The
// pointer, or the arrow keys on a focused chart, show the values at an instant.

import { h, s } from "./dom.js";
import { duration, long, minute, number } from "./format.js";

const HEIGHT = 202;
const MARGIN = { left: 52, right: 10, top: 22, bottom: 24 };
const DASHES = [null, "6 3", "2 3"];

/**
 * A chart.
 *
 * `series`: `{name, tone, values}`, with a value (or null) for each of `times` (milliseconds). `kind`: `stack` (stacked areas),
 * `bars` (stacked bars) or `lines`. `unit`: `count` or `seconds` (on a logarithmic axis). `axis` is the label of the axis.
 * `state` is an object of the view that keeps the selected instant. `redraw` draws the view again.
 */
export function chart({ title, note, kind, unit, axis, times, stepMs, from, to, series, width, state, redraw, key }) {
  const plot = plotOf({ kind, unit, series, times, stepMs, from, to, width });
  const at = state.at === undefined || state.at === null ? null : Math.min(state.at, times.length - 1);
  const format = unit === "seconds" ? duration : number;
  const read = (index) => { if (state.at !== index) { state.at = index; redraw(); } };
  const summary = `${title}. ${summaryOf(series, format)}`;
  return h("figure", { class: "chart", key },
    h("figcaption", {}, h("strong", {}, title), note ? h("span", { class: "muted" }, ` ${note}`) : null),
    times.length === 0
      ? h("p", { class: "empty" }, "No data for this period. New points appear within a minute.")
      : [
        s("svg", {
          width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": summary, tabindex: 0,
          onkeydown: (event) => step(event, at, times.length, read),
          onpointermove: (event) => read(nearest(event, plot, times, stepMs)),
          onpointerleave: () => read(null),
          onblur: () => read(null),
        }, axes(plot, unit, axis), marks(plot, kind, series, times, stepMs), at === null ? null : cursor(plot, times[at] + stepMs / 2)),
        legend(series, at, format),
        h("p", { class: "reading muted" }, at === null ? `One point per ${duration(stepMs / 1000)}, in your time zone.` : long(times[at])),
        // The table has hundreds of rows, so it is created only when it is opened.
        h("details", { ontoggle: (event) => { if (state.open !== event.target.open) { state.open = event.target.open; redraw(); } } },
          h("summary", {}, "As a table"), state.open ? asTable(title, series, times, format) : null),
      ]);
}

function plotOf({ kind, unit, series, times, stepMs, from, to, width }) {
  const right = width - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;
  const x = (time) => MARGIN.left + ((time - from) / (to - from)) * (right - MARGIN.left);
  const totals = kind === "lines"
    ? series.flatMap((one) => one.values.filter((value) => value !== null))
    : times.map((_, index) => series.reduce((sum, one) => sum + (one.values[index] ?? 0), 0));
  const most = Math.max(0, ...totals);
  if (unit === "seconds") {
    const low = 10 ** Math.floor(Math.log10(Math.max(1e-4, Math.min(...totals.filter((value) => value > 0), 1))));
    const high = Math.max(low * 10, 10 ** Math.ceil(Math.log10(Math.max(most, 1e-3))));
    const scale = (bottom - MARGIN.top) / Math.log10(high / low);
    const ticks = [];
    for (let tick = low; tick <= high * 1.001; tick *= 10) ticks.push(tick);
    return { x, y: (value) => bottom - Math.max(0, Math.log10(Math.max(value, low) / low)) * scale, ticks, from, to, bottom, right, stepMs };
  }
  const ticks = countTicks(most);
  const high = ticks.at(-1);
  return { x, y: (value) => bottom - (value / high) * (bottom - MARGIN.top), ticks, from, to, bottom, right, stepMs };
}

function countTicks(most) {
  const rough = Math.max(1, most) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough));
  const ticks = [0];
  while (ticks.at(-1) < Math.max(1, most)) ticks.push(ticks.at(-1) + step);
  return ticks;
}

function axes(plot, unit, axis) {
  const label = unit === "seconds" ? duration : number;
  const rows = plot.ticks.map((tick) => [
    s("line", { class: "grid", x1: MARGIN.left, x2: plot.right, y1: plot.y(tick), y2: plot.y(tick) }),
    s("text", { class: "tick", x: MARGIN.left - 6, y: plot.y(tick) + 4, "text-anchor": "end" }, label(tick)),
  ]);
  const span = plot.to - plot.from;
  const every = [5, 10, 15, 30, 60, 120, 240, 360].map((minutes) => minutes * 60000).find((size) => span / size <= (plot.right > 500 ? 8 : 4)) ?? 21600000;
  const offset = new Date(plot.from).getTimezoneOffset() * 60000;
  const columns = [];
  for (let time = Math.ceil((plot.from - offset) / every) * every + offset; time <= plot.to; time += every) {
    columns.push(s("text", { class: "tick", x: plot.x(time), y: plot.bottom + 17, "text-anchor": "middle" }, minute(time)));
  }
  return [rows, columns, s("text", { class: "tick", x: 2, y: 11 }, axis)];
}

function marks(plot, kind, series, times, stepMs) {
  if (kind === "lines") {
    return series.map((one, index) => s("path", {
      class: `line ${one.tone}`, "stroke-dasharray": DASHES[index % DASHES.length],
      d: pieces(times, one.values, stepMs).map((piece) => piece.map((at, nth) =>
        `${nth ? "L" : "M"}${plot.x(times[at] + stepMs / 2).toFixed(1)} ${plot.y(one.values[at]).toFixed(1)}`).join("")
        + (piece.length === 1 ? "h2" : "")).join(""),
    }));
  }
  const base = times.map(() => 0);
  return series.map((one) => {
    const boxes = times.map((time, index) => {
      const low = base[index];
      base[index] += one.values[index] ?? 0;
      if (base[index] === low) return "";
      const gap = kind === "bars" ? 0.12 : 0;
      const [x1, x2] = [plot.x(Math.max(plot.from, time + stepMs * gap)), plot.x(Math.min(plot.to, time + stepMs * (1 - gap)))];
      if (x2 <= x1) return "";
      return `M${x1.toFixed(1)} ${plot.y(low).toFixed(1)}V${plot.y(base[index]).toFixed(1)}H${x2.toFixed(1)}V${plot.y(low).toFixed(1)}Z`;
    });
    return s("path", { class: `area ${one.tone}`, d: boxes.join("") });
  });
}

/** Split a line at its gaps into lists of indices. */
function pieces(times, values, stepMs) {
  const found = [];
  let piece = null;
  values.forEach((value, index) => {
    if (value === null) { piece = null; return; }
    if (!piece || times[index] - times[index - 1] > stepMs * 1.5) found.push(piece = []);
    piece.push(index);
  });
  return found;
}

const cursor = (plot, time) => s("line", { class: "cursor", x1: plot.x(time), x2: plot.x(time), y1: MARGIN.top, y2: plot.bottom });

function legend(series, at, format) {
  return h("ul", { class: "legend" }, series.map((one, index) => h("li", {},
    s("svg", { class: "sample", width: 22, height: 12, "aria-hidden": "true" },
      one.dashed
        ? s("path", { class: `line ${one.tone}`, "stroke-dasharray": DASHES[index % DASHES.length], d: "M1 6H21" })
        : s("rect", { class: `area ${one.tone}`, x: 3, y: 0, width: 16, height: 12, rx: 2 })),
    ` ${one.name} `, h("b", {}, at === null ? "" : value(one.values[at], format)))));
}

const value = (one, format) => (one === null || one === undefined ? "–" : format(one));

function asTable(title, series, times, format) {
  const shown = times.map((time, index) => index).reverse();
  return h("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": `${title}, as a table` }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "From"), series.map((one) => h("th", { scope: "col", class: "numeric" }, one.name)))),
    h("tbody", {}, shown.map((index) => h("tr", {}, h("td", {}, minute(times[index])),
      series.map((one) => h("td", { class: "numeric" }, value(one.values[index], format))))))));
}

function summaryOf(series, format) {
  return series.map((one) => {
    const known = one.values.filter((each) => each !== null);
    return known.length ? `${one.name}: last ${format(known.at(-1))}, maximum ${format(Math.max(...known))}` : `${one.name}: no data`;
  }).join("; ");
}

function step(event, at, count, read) {
  const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -count, End: count };
  if (event.key === "Escape") { read(null); return; }
  if (!(event.key in moves)) return;
  event.preventDefault();
  read(Math.max(0, Math.min(count - 1, (at ?? count) + moves[event.key])));
}

function nearest(event, plot, times, stepMs) {
  const box = event.currentTarget.getBoundingClientRect();
  const time = plot.from + ((event.clientX - box.left - MARGIN.left) / (plot.right - MARGIN.left)) * (plot.to - plot.from);
  let best = 0;
  times.forEach((each, index) => { if (Math.abs(each + stepMs / 2 - time) < Math.abs(times[best] + stepMs / 2 - time)) best = index; });
  return best;
}
