// The overview: health and findings, the queue, the pools, the oldest leases, and failed databases.

import { all, get } from "./api.js";
import { h } from "./dom.js";
import { number, whole } from "./format.js";
import { databaseState, holder, link, poolLink, section, short, since, stateBar, templateLabel, until } from "./parts.js";
import { table } from "./table.js";

const OLDEST = 10;
const SOME = 20;
const HEADLINES = {
  ok: ["✓", "Healthy"],
  attention: ["!", "Attention needed"],
  failing: ["✕", "Failing"],
};

export const overview = {
  everyMs: 3000, // no event announces a new caller in the queue
  concerns: () => true,
  async load(args, signal) {
    const [seen, waiters, pools, leases, failed] = await Promise.all([
      get("/v1/overview", {}, signal), get("/v1/waiters", { limit: SOME }, signal), all("/v1/pools", {}, { signal }),
      get("/v1/leases", { limit: OLDEST }, signal), get("/v1/databases", { state: "failed", limit: SOME }, signal),
    ]);
    return { seen, waiters: waiters.items, pools: pools.items, leases: leases.items, failed: failed.items };
  },
  draw({ seen, waiters, pools, leases, failed }, { ui, redraw }) {
    const [sign, headline] = HEADLINES[seen.status];
    return h("div", {},
      h("h1", { class: `headline ${seen.status}` }, h("span", { class: "sign", "aria-hidden": "true" }, sign), ` ${headline}`),
      findings(seen.findings),
      tiles(seen),
      section("Queue", table({
        label: "Queue", rows: waiters, key: (one) => `${one.pool_id} ${one.since} ${one.position}`, state: (ui.waiters ??= {}), redraw,
        total: seen.waiting > waiters.length ? seen.waiting : null,
        empty: "Empty: requests are served immediately.",
        columns: waiterColumns(true),
      })),
      section("Pools", poolTable(pools, ui, redraw)),
      section("Oldest leases", table({
        label: "Oldest leases", rows: leases, key: (one) => one.id, state: (ui.leases ??= {}), redraw,
        empty: "No leases.",
        columns: [
          { title: "Holder", cell: (one) => holder(one.holder, one.principal) },
          { title: "Pool", cell: poolLink },
          { title: "Age", cell: (one) => since(one.granted_at), numeric: true },
          { title: "Expires in", cell: (one) => until(one.expires_at), numeric: true, wide: true },
          { title: "Lease", cell: (one) => link(`/leases/${one.id}`, short(one.id)) },
        ],
      }), h("p", {}, link("/leases", "All leases"))),
      section("Failed databases", table({
        label: "Failed databases", rows: failed, key: (one) => one.id, state: (ui.failed ??= {}), redraw,
        empty: "No failed databases. Earlier failures are in the events (database.failed).",
        columns: [
          { title: "Database", cell: (one) => link(`/databases/${one.id}`, one.database ?? short(one.id)) },
          { title: "State", cell: (one) => databaseState(one.state) },
          { title: "Since", cell: (one) => since(one.state_changed_at), numeric: true },
          { title: "Error", cell: (one) => one.error ?? "no reason given" },
        ],
      })));
  },
};

function findings(found) {
  if (!found.length) return null;
  return h("ul", { class: "findings", "aria-label": "Findings" }, found.map((one) => h("li", { class: one.severity, key: `${one.code} ${one.id}` },
    h("div", {}, h("b", { class: "severity" }, one.severity), " ", subject(one), ": ", one.message, one.message.endsWith(".") ? "" : "."),
    h("div", { class: "remedy" }, one.remedy))));
}

function subject(one) {
  if (one.subject === "pool") return link(`/pools/${one.id}`, templateLabel(one.label));
  if (one.subject === "server") return link("/servers", one.label);
  return link(`/templates/${one.id}`, templateLabel(one.label));
}

function tiles(seen) {
  const { databases } = seen;
  const live = (seen.leases.active ?? 0) + (seen.leases.kept ?? 0);
  const tile = (name, value, word, note, route) => h("a", { class: "tile", href: `#${route}`, key: name },
    h("span", { class: "word" }, word), h("span", { class: "value", "data-number": name }, number(value)), h("span", { class: "muted" }, note));
  return h("nav", { class: "tiles", "aria-label": "Summary" },
    tile("ready", databases.ready, "Ready", "to be leased", "/databases?state=ready"),
    tile("leases", live, "Leases", seen.leases.kept ? `including ${seen.leases.kept} kept` : "live", "/leases"),
    tile("waiting", seen.waiting, "Waiting", seen.waiting ? `the first for ${whole(seen.longest_wait_seconds)}` : "no callers", "/pools"),
    tile("cleaning", databases.dirty + databases.resetting, "Resetting", `including ${number(databases.dirty)} dirty`, "/databases?state=resetting"),
    tile("creating", databases.creating, "Creating", "new databases", "/databases?state=creating"),
    tile("failed", databases.failed, "Failed", databases.failed ? "see below" : "none", "/databases?state=failed"));
}

/** Columns of a table of the queue, with or without the pool. */
export const waiterColumns = (pool) => [
  { title: "Position", cell: (one) => number(one.position), numeric: true },
  { title: "Caller", cell: (one) => holder(one.holder, one.principal) },
  ...(pool ? [{ title: "Pool", cell: poolLink }] : []),
  { title: "Waiting for", cell: (one) => since(one.since), numeric: true },
  { title: "Leases", cell: (one) => number(one.wanted), numeric: true, wide: true },
  { title: "Reason", cell: (one) => [h("div", {}, `${one.why}.`), h("div", { class: "remedy" }, one.remedy)], wide: true },
];

export const poolTable = (pools, ui, redraw) => table({
  label: "Pools", rows: pools, key: (one) => one.id, state: (ui.pools ??= {}), redraw,
  empty: "No pools. The first lease of a template creates one. Register a template with freshdb template build or POST /v1/templates.",
  columns: [
    { title: "Template", cell: poolLink, by: (one) => one.template },
    { title: "Databases", cell: (one) => [stateBar(one.databases, one.max_size), one.last_error ? h("div", { class: "problem" }, one.last_error) : null] },
    { title: "Waiting", cell: (one) => number(one.waiting), by: (one) => one.waiting, numeric: true },
    { title: "min_ready", cell: (one) => number(one.min_ready), numeric: true, wide: true },
    { title: "max_size", cell: (one) => number(one.max_size), numeric: true, wide: true },
    { title: "Last request", cell: (one) => since(one.last_acquired_at), by: (one) => one.last_acquired_at, numeric: true, wide: true },
    { title: "Server", cell: (one) => one.server, by: (one) => one.server, wide: true },
  ],
});

