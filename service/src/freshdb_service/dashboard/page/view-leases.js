// The list of leases, and the history of one lease.

import { ofLease } from "./actions.js";
import { all, get } from "./api.js";
import { h } from "./dom.js";
import { duration, long, whole } from "./format.js";
import { facts, holder, leaseState, leftovers, link, poolLink, said, section, short, since, templateLabel, until } from "./parts.js";
import { table } from "./table.js";

const MOST = 2000;
const STATES = ["live", "released", "expired", "revoked"];

export const list = {
  everyMs: 10000,
  gapMs: 1500,
  concerns: ({ event }) => event.startsWith("lease."),
  load: ({ state }, signal) => all("/v1/leases", { state: state === "live" ? null : state }, { most: MOST, signal }),
  draw({ items, more }, page) {
    const { args, ui, redraw } = page;
    const words = (ui.words ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const rows = words.length ? items.filter((one) => { const text = textOf(one); return words.every((word) => text.includes(word)); }) : items;
    return h("div", {},
      h("h1", {}, "Leases"),
      h("nav", { class: "choices", "aria-label": "Leases by state" }, STATES.map((state) =>
        h("a", { key: state, href: state === "live" ? "#/leases" : `#/leases?state=${state}`, "aria-current": (args.state ?? "live") === state ? "true" : null }, state))),
      h("label", { class: "search" }, "Search by holder, run, test, template or database",
        h("input", { type: "search", autocomplete: "off", oninput: (event) => { Object.assign(ui, { words: event.target.value }); (ui.table ??= {}).page = 0; redraw(); } })),
      h("p", { class: "muted" }, h("span", { "data-number": "listed" }, rows.length), rows.length === 1 ? " lease" : " leases", words.length ? " found" : "", more ? ` (only the oldest ${MOST} are shown)` : "", "."),
      table({
        label: "Leases", rows, key: (one) => one.id, state: (ui.table ??= {}), redraw,
        empty: words.length ? "No lease matches all words." : "No leases. Acquire one with freshdb acquire, freshdb run, or the pytest plugin.",
        columns: [
          { title: "Holder", cell: (one) => holder(one.holder, one.principal), by: (one) => one.holder.user ?? one.holder.name ?? one.principal },
          { title: "Pool", cell: poolLink, by: (one) => one.template },
          { title: "State", cell: (one) => leaseState(one.state), by: (one) => one.state, wide: true },
          { title: "Age", cell: (one) => since(one.granted_at), by: (one) => one.granted_at, numeric: true },
          { title: "Expires in", cell: (one) => (one.ended_at ? "ended" : until(one.expires_at)), by: (one) => one.expires_at, numeric: true, wide: true },
          { title: "Lease", cell: (one) => link(`/leases/${one.id}`, short(one.id)) },
          { title: "Actions", cell: (one) => ofLease(one, page.may, page.reload), wide: true },
        ],
      }));
  },
};

const textOf = (one) => [one.id, one.template, one.database, one.schema, one.principal, one.server, ...Object.values(one.holder), ...Object.values(one.labels)].join(" ").toLowerCase();

export const one = {
  everyMs: 5000,
  concerns: ({ data }, { id }) => data.lease === id,
  async load({ id }, signal) {
    const [lease, resets, events] = await Promise.all([
      get(`/v1/leases/${id}`, {}, signal), get("/v1/resets", { lease: id, limit: 20 }, signal), get("/v1/events/recent", { about: id, limit: 50 }, signal),
    ]);
    return { lease, resets: resets.items, events: events.items };
  },
  draw({ lease, resets, events }, { may, ui, redraw, reload }) {
    return h("div", {},
      h("h1", {}, "Lease ", short(lease.id), " ", leaseState(lease.state)),
      ofLease(lease, may, reload),
      facts([
        ["Template", poolLink(lease)], ["Database", link(`/databases/${lease.database_id}`, lease.schema ? `${lease.database}, schema ${lease.schema}` : lease.database)],
        ["Acquired by", lease.principal], ["Age", since(lease.granted_at)], ["Expires in", lease.ended_at ? null : until(lease.expires_at)],
        ["Expires at the latest in", lease.ended_at ? null : until(lease.max_expires_at)], ["TTL", duration(lease.ttl_seconds)], ["Generation", lease.generation], ["Login", h("code", {}, lease.user)],
        ["Server", link("/servers", lease.server)], [lease.state === "kept" ? "Reason for keeping" : "Reason for ending", lease.end_reason],
      ]),
      section("Holder", pairs(lease.holder, "No details. The client and the plugin send them automatically, and other callers can send them in holder."),
        Object.keys(lease.labels).length ? [h("h3", {}, "Labels"), pairs(lease.labels, "")] : null),
      section("History", h("ol", { class: "life" }, life(lease, resets).map((each) => h("li", { key: each.key }, h("time", { datetime: each.at }, long(each.at)), " ", each.text)))),
      section("Events", eventTable(events, ui, redraw)));
  },
};

const pairs = (some, none) => (Object.keys(some).length ? facts(Object.entries(some).map(([key, value]) => [key, said(value)])) : h("p", { class: "empty" }, none));

function life(lease, resets) {
  const begun = new Date(lease.granted_at);
  const steps = [{ key: "granted", at: lease.granted_at, text: `acquired by ${lease.principal}, generation ${lease.generation}` }];
  for (const reset of resets) {
    steps.push({ key: reset.id, at: reset.at, text: `reset in ${duration(reset.seconds)} (${reset.path}: ${reset.reason}), leftovers: ${leftovers(reset.leftovers)}` });
  }
  if (lease.ended_at) {
    const text = `${lease.state}${lease.end_reason ? ` (${lease.end_reason})` : ""} after ${whole((new Date(lease.ended_at) - begun) / 1000)}`;
    steps.push({ key: "ended", at: lease.ended_at, text });
  }
  return steps.sort((a, b) => new Date(a.at) - new Date(b.at));
}

/** A table of events. */
export const eventTable = (events, ui, redraw) => table({
  label: "Events", rows: events, key: (event) => event.id, state: (ui.events ??= {}), redraw,
  empty: "No events. Only the last ten thousand are stored.",
  columns: [
    { title: "When", cell: (event) => h("time", { datetime: event.data.at, title: long(event.data.at) }, long(event.data.at).replace(/ (UTC|GMT|[A-Z]{2,5})?[+-]?\d*$/, "")) },
    { title: "Event", cell: (event) => h("code", {}, event.event) },
    { title: "Details", cell: (event) => h("div", { class: "event" }, Object.entries(event.data).filter(([name]) => name !== "at").map(([name, value]) => fact(name, value))) },
  ],
});

function fact(name, value) {
  if (value === null || value === "" || (typeof value === "object" && !Object.keys(value).length)) return null;
  const target = { lease: "/leases", pool: "/pools", database_id: "/databases" }[name] ?? (name === "database" && /^[0-9a-f-]{36}$/.test(value) ? "/databases" : null);
  const shown = name === "template" ? templateLabel(value) : target ? link(`${target}/${value}`, short(value)) : typeof value === "number" && name === "seconds" ? duration(value) : typeof value === "object" ? JSON.stringify(value) : String(value);
  return h("span", {}, h("span", { class: "muted" }, `${name} `), shown, " ");
}
