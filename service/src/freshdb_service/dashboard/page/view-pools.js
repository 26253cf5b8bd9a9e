// The list of pools, and the history of one pool.

import { resize } from "./actions.js";
import { all, get } from "./api.js";
import { chart } from "./charts.js";
import { h } from "./dom.js";
import { duration, now, number } from "./format.js";
import { button, buttons, databaseState, facts, leftovers, link, section, short, since, STATES, stateBar, templateLabel } from "./parts.js";
import { table } from "./table.js";
import { poolTable, waiterColumns } from "./view-overview.js";

const RANGES = [[3600, "1 hour"], [86400, "24 hours"]];
const PATHS = ["nothing", "sequences", "statistics", "delete", "truncate", "reload", "rebuild"];
const PERCENTILES = [["p50", "median"], ["p95", "95 %"], ["p99", "99 %"]];

export const list = {
  everyMs: 5000,
  concerns: ({ event }) => !event.startsWith("template.building"),
  load: (args, signal) => all("/v1/pools", {}, { signal }),
  draw: ({ items }, { ui, redraw }) => h("div", {}, h("h1", {}, "Pools"),
    h("p", { class: "muted" }, "A pool has the databases of one template with one isolation."), poolTable(items, ui, redraw)),
};

export const one = {
  everyMs: 10000,
  gapMs: 2000,
  concerns: ({ data }, { id }, loaded) => data.pool === id || data.template === loaded?.pool.template,
  async load({ id, range = 3600, state }, signal) {
    const [pool, history, waiters, databases, resets] = await Promise.all([
      get(`/v1/pools/${id}`, {}, signal), get(`/v1/pools/${id}/history`, { seconds: range }, signal), get("/v1/waiters", { pool: id }, signal),
      all("/v1/databases", { pool: id, state }, { most: 1000, signal }), get("/v1/resets", { pool: id, left_behind: true, limit: 10 }, signal),
    ]);
    return { pool, history, waiters: waiters.items, databases, resets: resets.items };
  },
  draw({ pool, history, waiters, databases, resets }, { args, may, ui, redraw, reload, width }) {
    return h("div", {},
      h("h1", {}, templateLabel(pool.template), pool.isolation === "schema" ? " (schema)" : ""),
      stateBar(pool.databases, pool.max_size),
      pool.last_error ? h("p", { class: "problem", role: "alert" }, `Creating a database failed: ${pool.last_error}`) : null,
      pool.refusal ? h("p", { class: "problem" }, `It cannot be leased with isolation schema: ${pool.refusal.join("; ")}`) : null,
      facts([["Waiting", number(pool.waiting)], ["min_ready", number(pool.min_ready)], ["max_size", number(pool.max_size)],
        ["idle_seconds", duration(pool.idle_seconds)], ["Server", link("/servers", pool.server)], ["Last request", since(pool.last_acquired_at)]]),
      buttons(may.has("admin") ? button("Change the sizes", () => resize(pool).then(reload)) : null),
      section("Queue", table({
        label: "Queue of this pool", rows: waiters, key: (each) => `${each.since} ${each.position}`, state: (ui.waiters ??= {}), redraw,
        empty: "Empty: requests are served immediately.", columns: waiterColumns(false),
      })),
      section("History", ranges(pool, args), charts(history, ui, redraw, width)),
      section("Databases", statesFilter(pool, args), table({
        label: "Databases of this pool", rows: databases.items, key: (each) => each.id, state: (ui.databases ??= {}), redraw,
        total: databases.more ? Object.values(pool.databases).reduce((sum, count) => sum + count, 0) : null,
        empty: args.state ? `No database of this pool is in state ${args.state}.` : "No databases. Requests create them, and min_ready keeps some ready.",
        columns: databaseColumns,
      })),
      section("Recent leftovers", table({
        label: "Recent leftovers in this pool", rows: resets, key: (each) => each.id, state: (ui.resets ??= {}), redraw,
        empty: "None. Holders closed their connections and transactions, and created no objects.",
        columns: [
          { title: "When", cell: (each) => since(each.at), numeric: true },
          { title: "Leftovers", cell: (each) => leftovers(each.leftovers) },
          { title: "Lease", cell: (each) => (each.lease_id ? link(`/leases/${each.lease_id}`, short(each.lease_id)) : "–") },
        ],
      })));
  },
};

export const databaseColumns = [
  { title: "Database", cell: (each) => link(`/databases/${each.id}`, each.schema ?? each.database ?? short(each.id)), by: (each) => each.schema ?? each.database },
  { title: "State", cell: (each) => databaseState(each.state), by: (each) => each.state },
  { title: "Since", cell: (each) => since(each.state_changed_at), by: (each) => each.state_changed_at, numeric: true },
  { title: "Generation", cell: (each) => number(each.generation), by: (each) => each.generation, numeric: true, wide: true },
  { title: "Lease", cell: (each) => (each.lease_id ? link(`/leases/${each.lease_id}`, short(each.lease_id)) : "–") },
  { title: "Last error", cell: (each) => each.error ?? "–", wide: true },
];

const ranges = (pool, { range = "3600" }) => h("nav", { class: "choices", "aria-label": "Range of the history" }, RANGES.map(([seconds, name]) =>
  h("a", { href: `#/pools/${pool.id}?range=${seconds}`, "aria-current": String(seconds) === range ? "true" : null }, name)));

function statesFilter(pool, { range = "3600", state }) {
  const choice = (name, count, value) => h("a", { key: name, href: `#/pools/${pool.id}?range=${range}${value ? `&state=${value}` : ""}`, "aria-current": state === value ? "true" : null },
    `${name} ${number(count)}`);
  const all_ = Object.values(pool.databases).reduce((sum, count) => sum + count, 0);
  return h("nav", { class: "choices", "aria-label": "Databases by state" }, choice("all", all_, undefined),
    STATES.filter(([name]) => pool.databases[name]).map(([name]) => choice(name, pool.databases[name], name)));
}

function charts(history, ui, redraw, width) {
  const stepMs = history.step_seconds * 1000;
  const points = history.items;
  const times = points.map((point) => new Date(point.at).getTime());
  const to = Math.max(Math.ceil(now() / stepMs) * stepMs, (times.at(-1) ?? 0) + stepMs);
  const from = Math.min(to - history.seconds * 1000, times[0] ?? Infinity);
  const each = (read) => points.map(read);
  const common = { times, stepMs, from, to, width, redraw };
  const { waits, resets } = history;
  return h("div", { class: "charts" },
    chart({
      ...common, key: "databases", state: (ui.chart1 ??= {}), title: "Databases by state", kind: "stack", unit: "count", axis: "databases",
      series: STATES.map(([name]) => ({ name, tone: name, values: each((point) => (point.databases ? point.databases[name] ?? 0 : null)) })).filter((line) => line.values.some(Boolean)),
    }),
    chart({
      ...common, key: "waiting", state: (ui.chart2 ??= {}), title: "Callers in the queue", note: "maximum", kind: "bars", unit: "count", axis: "callers",
      series: [{ name: "waiting", tone: "tone-d", values: each((point) => point.waiting) }],
    }),
    chart({
      ...common, key: "waits", state: (ui.chart3 ??= {}), title: "Time to get a database", kind: "lines", unit: "seconds", axis: "time, logarithmic",
      note: spanNote(waits, "leases"), series: percentiles(each, "waits"),
    }),
    chart({
      ...common, key: "resets", state: (ui.chart4 ??= {}), title: "Time to reset a database", kind: "lines", unit: "seconds", axis: "time, logarithmic",
      note: spanNote(resets, "resets"), series: percentiles(each, "resets"),
    }),
    chart({
      ...common, key: "paths", state: (ui.chart5 ??= {}), title: "Resets by path", kind: "bars", unit: "count", axis: `resets in ${duration(history.step_seconds)}`,
      series: PATHS.filter((path) => history.paths[path]).map((path) => ({ name: path, tone: `path-${path}`, values: each((point) => point.paths[path] ?? 0) })),
    }),
    points.some((point) => point.failures) ? chart({
      ...common, key: "failures", state: (ui.chart6 ??= {}), title: "Failures", note: "creating or resetting a database", kind: "bars", unit: "count",
      axis: `failures in ${duration(history.step_seconds)}`, series: [{ name: "failed", tone: "failed", values: each((point) => point.failures) }],
    }) : null);
}

const percentiles = (each, what) => PERCENTILES.map(([name, words], index) => ({
  name: words, tone: `tone-${"abc"[index]}`, dashed: true, values: each((point) => point[what][name]),
}));

const spanNote = (span, what) => (span.count
  ? `${number(span.count)} ${what}: median ${duration(span.p50)}, 95 % within ${duration(span.p95)}, 99 % within ${duration(span.p99)}`
  : `no ${what}`);
