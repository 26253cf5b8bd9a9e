// The list of databases, and the history of one database.

import { all, get } from "./api.js";
import { h } from "./dom.js";
import { duration, now, number } from "./format.js";
import { databaseState, facts, holder, leaseState, leftovers, link, poolLink, section, short, since, STATES } from "./parts.js";
import { table } from "./table.js";
import { databaseColumns } from "./view-pools.js";

const MOST = 2000;

export const list = {
  everyMs: 10000,
  gapMs: 2000,
  concerns: ({ event }) => event.startsWith("database.") || event.startsWith("lease."),
  async load({ state }, signal) {
    const [seen, found] = await Promise.all([get("/v1/overview", {}, signal), all("/v1/databases", { state }, { most: MOST, signal })]);
    return { seen, ...found };
  },
  draw({ seen, items, more }, { args, ui, redraw }) {
    const total = Object.values(seen.databases).reduce((sum, count) => sum + count, 0);
    const choice = (name, count, value) => h("a", { key: name, href: value ? `#/databases?state=${value}` : "#/databases", "aria-current": args.state === value ? "true" : null }, `${name} ${number(count)}`);
    return h("div", {},
      h("h1", {}, "Databases"),
      h("nav", { class: "choices", "aria-label": "Databases by state" }, choice("all", total, undefined), STATES.map(([name]) => choice(name, seen.databases[name], name))),
      h("p", { class: "muted" }, h("span", { "data-number": "listed" }, number(items.length)), " listed", more ? `, the first ${number(MOST)}` : "", "."),
      table({
        label: "Databases", rows: items, key: (each) => each.id, state: (ui.table ??= {}), redraw,
        empty: args.state ? `No database is in state ${args.state}.` : "No databases. The first lease of a template creates them.",
        columns: [databaseColumns[0], { title: "Pool", cell: poolLink, by: (each) => each.template }, ...databaseColumns.slice(1)],
      }));
  },
};

export const one = {
  everyMs: 5000,
  concerns: ({ data }, { id }) => data.database === id || data.database_id === id,
  load: ({ id }, signal) => get(`/v1/databases/${id}`, {}, signal),
  draw(database, { ui, redraw }) {
    return h("div", {},
      h("h1", {}, database.database ?? "A database", database.schema ? `, schema ${database.schema}` : "", " ", databaseState(database.state)),
      database.error ? h("p", { class: "problem", role: "alert" }, database.error) : null,
      facts([
        ["Pool", poolLink(database)], ["In this state for", since(database.state_changed_at)], ["Generation", `${number(database.generation)} (number of leases and resets)`],
        ["Server", link("/servers", database.server)], ["Lease", database.lease_id ? link(`/leases/${database.lease_id}`, short(database.lease_id)) : null],
      ]),
      section("Leases", table({
        label: "Leases of this database", rows: database.leases, key: (each) => each.id, state: (ui.leases ??= {}), redraw,
        empty: "No lease in the last day.",
        columns: [
          { title: "Holder", cell: (each) => holder(each.holder, each.principal) },
          { title: "State", cell: (each) => leaseState(each.state) },
          { title: "Acquired", cell: (each) => since(each.granted_at), numeric: true },
          { title: "Duration", cell: (each) => duration((new Date(each.ended_at ?? now()) - new Date(each.granted_at)) / 1000), numeric: true },
          { title: "Generation", cell: (each) => number(each.generation), numeric: true, wide: true },
          { title: "Lease", cell: (each) => link(`/leases/${each.id}`, short(each.id)) },
        ],
      })),
      section("Resets", resetTable(database.resets, ui, redraw, "No reset in the last day.")));
  },
};

/** A table of resets. */
export const resetTable = (resets, ui, redraw, empty) => table({
  label: "Resets", rows: resets, key: (each) => each.id, state: (ui.resets ??= {}), redraw, empty,
  columns: [
    { title: "When", cell: (each) => since(each.at), by: (each) => each.at, numeric: true },
    { title: "Leftovers", cell: (each) => leftovers(each.leftovers) },
    { title: "Path", cell: (each) => h("code", {}, each.path), by: (each) => each.path },
    { title: "Duration", cell: (each) => duration(each.seconds), by: (each) => each.seconds, numeric: true },
    { title: "Reason", cell: (each) => each.reason, wide: true },
    { title: "Database", cell: (each) => link(`/databases/${each.database_id}`, short(each.database_id)), wide: true },
    { title: "Previous lease", cell: (each) => (each.lease_id ? link(`/leases/${each.lease_id}`, short(each.lease_id)) : "–") },
  ],
});
