// The first view: is it healthy, and if not, why; who waits; who holds what; what failed.

import { all, get } from "./api.js";
import { h } from "./dom.js";
import { number, whole } from "./format.js";
import { databaseState, holder, link, poolLink, section, short, since, stateBar, templateLabel, until } from "./parts.js";
import { table } from "./table.js";

const OLDEST = 10;
const SOME = 20;
const HEADLINES = {
  ok: ["✓", "All is well"],
  attention: ["!", "Somebody should have a look"],
  failing: ["✕", "Something is failing"],
};

export const overview = {
  everyMs: 3000, // nothing tells when somebody begins to wait
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
      section("Who waits", table({
        label: "Who waits", rows: waiters, key: (one) => `${one.pool_id} ${one.since} ${one.position}`, state: (ui.waiters ??= {}), redraw,
        total: seen.waiting > waiters.length ? seen.waiting : null,
        empty: "Nobody waits: whoever asks for a database gets one at once.",
        columns: waiterColumns(true),
      })),
      section("Pools", poolTable(pools, ui, redraw)),
      section("Held for the longest", table({
        label: "Leases that are held for the longest", rows: leases, key: (one) => one.id, state: (ui.leases ??= {}), redraw,
        empty: "Nobody holds a database now. Leases show here as soon as they are acquired.",
        columns: [
          { title: "Holder", cell: (one) => holder(one.holder, one.principal) },
          { title: "Of", cell: poolLink },
          { title: "Since", cell: (one) => since(one.granted_at), numeric: true },
          { title: "Ends in", cell: (one) => until(one.expires_at), numeric: true, wide: true },
          { title: "Lease", cell: (one) => link(`/leases/${one.id}`, short(one.id)) },
        ],
      }), h("p", {}, link("/leases", "All leases"))),
      section("What failed", table({
        label: "Databases that failed", rows: failed, key: (one) => one.id, state: (ui.failed ??= {}), redraw,
        empty: "No database is in the state failed. Work that failed before stands in the events (database.failed).",
        columns: [
          { title: "Database", cell: (one) => link(`/databases/${one.id}`, one.database ?? short(one.id)) },
          { title: "State", cell: (one) => databaseState(one.state) },
          { title: "Since", cell: (one) => since(one.state_changed_at), numeric: true },
          { title: "Why", cell: (one) => one.error ?? "no reason was given" },
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
  return link("/templates", templateLabel(one.label));
}

function tiles(seen) {
  const { databases } = seen;
  const live = (seen.leases.active ?? 0) + (seen.leases.kept ?? 0);
  const tile = (name, value, word, note, route) => h("a", { class: "tile", href: `#${route}`, key: name },
    h("span", { class: "word" }, word), h("span", { class: "value", "data-number": name }, number(value)), h("span", { class: "muted" }, note));
  return h("nav", { class: "tiles", "aria-label": "At a glance" },
    tile("ready", databases.ready, "Ready", "to be leased at once", "/databases?state=ready"),
    tile("leases", live, "Leases", seen.leases.kept ? `${seen.leases.kept} of them kept` : "live", "/leases"),
    tile("waiting", seen.waiting, "Waiting", seen.waiting ? `the first for ${whole(seen.longest_wait_seconds)}` : "nobody", "/pools"),
    tile("cleaning", databases.dirty + databases.resetting, "Being cleaned", `${number(databases.dirty)} not begun`, "/databases?state=resetting"),
    tile("creating", databases.creating, "Being made", "new ones", "/databases?state=creating"),
    tile("failed", databases.failed, "Failed", databases.failed ? "see below" : "none", "/databases?state=failed"));
}

/** Columns of a table of those who wait; `pool` says whether to name the pool. */
export const waiterColumns = (pool) => [
  { title: "Place", cell: (one) => number(one.position), numeric: true },
  { title: "Who", cell: (one) => holder(one.holder, one.principal) },
  ...(pool ? [{ title: "For", cell: poolLink }] : []),
  { title: "Since", cell: (one) => since(one.since), numeric: true },
  { title: "Wants", cell: (one) => number(one.wanted), numeric: true, wide: true },
  { title: "Why", cell: (one) => [h("div", {}, `${one.why}.`), h("div", { class: "remedy" }, one.remedy)], wide: true },
];

export const poolTable = (pools, ui, redraw) => table({
  label: "Pools", rows: pools, key: (one) => one.id, state: (ui.pools ??= {}), redraw,
  empty: "There is no pool yet. One is made with the first lease of a template: register one (freshdb template build, or POST /v1/templates), and acquire it.",
  columns: [
    { title: "Template", cell: poolLink, by: (one) => one.template },
    { title: "Databases", cell: (one) => [stateBar(one.databases, one.max_size), one.last_error ? h("div", { class: "problem" }, one.last_error) : null] },
    { title: "Waiting", cell: (one) => number(one.waiting), by: (one) => one.waiting, numeric: true },
    { title: "min_ready", cell: (one) => number(one.min_ready), numeric: true, wide: true },
    { title: "max_size", cell: (one) => number(one.max_size), numeric: true, wide: true },
    { title: "Last asked", cell: (one) => since(one.last_acquired_at), by: (one) => one.last_acquired_at, numeric: true, wide: true },
    { title: "Server", cell: (one) => one.server, by: (one) => one.server, wide: true },
  ],
});

