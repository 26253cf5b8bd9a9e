// Templates, servers, leftovers of holders, and events.

import { retire } from "./actions.js";
import { all, get } from "./api.js";
import { h, s } from "./dom.js";
import { bytes, number } from "./format.js";
import { button, facts, link, section, since, templateState } from "./parts.js";
import { table } from "./table.js";
import { resetTable } from "./view-databases.js";
import { eventTable } from "./view-leases.js";

const KINDS = ["", "lease.*", "database.*", "template.*", "pool.*", "lease.expired", "lease.revoked", "lease.kept", "database.failed", "database.audited"];

export const templates = {
  everyMs: 10000,
  concerns: ({ event }) => event.startsWith("template."),
  load: (args, signal) => all("/v1/templates", {}, { signal }),
  draw: ({ items }, { may, ui, redraw, reload }) => h("div", {}, h("h1", {}, "Templates"), table({
    label: "Templates", rows: items, key: (one) => one.id, state: (ui.table ??= {}), redraw,
    empty: "No templates. Create one: freshdb template build NAME --inputs 'migrations/**' -- COMMAND.",
    columns: [
      { title: "Name", cell: (one) => link(`/templates/${one.id}`, one.name), by: (one) => one.name },
      { title: "Fingerprint", cell: (one) => h("code", { title: one.fingerprint }, one.fingerprint.slice(0, 16)), wide: true },
      { title: "State", cell: (one) => [templateState(one.state), doubts(one)], by: (one) => one.state },
      { title: "Size", cell: (one) => bytes(one.size_bytes), by: (one) => one.size_bytes, numeric: true },
      { title: "Created", cell: (one) => since(one.created_at), by: (one) => one.created_at, numeric: true, wide: true },
      { title: "Last used", cell: (one) => since(one.last_used_at), by: (one) => one.last_used_at, numeric: true },
      { title: "Server", cell: (one) => one.server, by: (one) => one.server, wide: true },
      ...(may.has("admin") ? [{ title: "Actions", cell: (one) => (["ready", "failed"].includes(one.state) ? button("Retire", () => retire(one).then(reload), { class: "dangerous" }) : null) }] : []),
    ],
  })),
};

const doubts = (one) => [one.error ? String(one.error.message ?? "no reason given") : null, ...one.warnings].filter(Boolean).map((text) => h("div", { class: "problem" }, text));

export const template = {
  everyMs: 10000,
  concerns: ({ event, data }, args, loaded) => event.startsWith("template.") && (!loaded || data.template === `${loaded.template.name}@${loaded.template.fingerprint}`),
  load: async ({ id }, signal) => {
    const [template, build] = await Promise.all([get(`/v1/templates/${id}`, {}, signal), get(`/v1/templates/${id}/log`, {}, signal)]);
    return { template, build };
  },
  draw: ({ template: one, build }) => h("div", {}, h("h1", {}, one.name), doubts(one),
    facts([["Fingerprint", h("code", {}, one.fingerprint)], ["State", templateState(one.state)], ["Size", bytes(one.size_bytes)], ["Server", one.server], ["Created", since(one.created_at)], ["Last used", since(one.last_used_at)]]),
    section("Build log", build.log ? h("pre", { class: "log", tabindex: "0", "aria-label": "Build log" }, build.log) : h("p", { class: "muted" }, one.state === "building" ? "The log can be read when the build has ended." : "The build printed nothing, or its builder sent no log."))),
};

export const servers = {
  everyMs: 5000,
  gapMs: 3000,
  concerns: () => true,
  load: (args, signal) => get("/v1/servers", {}, signal),
  draw: ({ items }) => h("div", {}, h("h1", {}, "Servers"), h("p", { class: "muted" }, "PostgreSQL servers that freshdb manages. Disk is the space of freshdb's databases, measured every few seconds."),
    h("div", { class: "cards" }, items.map((one) => h("section", { class: "card", key: one.name },
      h("h2", {}, one.name),
      one.error ? h("p", { class: "problem", role: "alert" }, `It does not answer: ${one.error}. Check that it runs and can be reached from here.`) : null,
      facts([["Address", `${one.host}:${one.port}`], ["PostgreSQL", one.version], ["Leased", number(one.leased)], ["Templates", number(one.templates)], ["Running statements", one.active === null ? "–" : number(one.active)]]),
      meter("Databases", one.databases, one.max_databases, number), meter("Disk", one.disk_bytes, one.max_disk_bytes, bytes),
      one.connections === null ? null : meter("Connections", one.connections, one.max_connections, number))))),
};

function meter(word, used, most, format) {
  const share = Math.min(1, used / most);
  return h("div", { class: "meter" }, h("span", {}, word), h("span", { class: "numeric" }, `${format(used)} of ${format(most)} (${Math.round(share * 100)} %)`),
    s("svg", { width: "100%", height: 8, viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
      s("rect", { class: "rest", width: 100, height: 8 }), s("rect", { class: `area ${share >= 0.85 ? "failed" : "leased"}`, width: share * 100, height: 8 })));
}

export const leftBehind = {
  everyMs: 10000,
  gapMs: 3000,
  concerns: ({ event }) => event === "database.ready" || event === "lease.reset",
  load: (args, signal) => get("/v1/resets", { left_behind: true, limit: 200 }, signal),
  draw: ({ items }, { ui, redraw }) => h("div", {}, h("h1", {}, "Leftovers of holders"),
    h("p", { class: "muted" }, "Connections, prepared transactions and advisory locks that were open when a lease ended, and objects that its holder created or changed. A database with such objects is rebuilt, which takes longer. The last 200 of one day."),
    resetTable(items, ui, redraw, "No leftovers in the last day.")),
};

export const events = {
  everyMs: 15000,
  concerns: () => true,
  load: ({ kind, about }, signal) => get("/v1/events/recent", { kind, about, limit: 200 }, signal),
  draw: ({ items }, { args, ui, redraw }) => h("div", {}, h("h1", {}, "Events"),
    h("form", { class: "filters", onsubmit: (event) => { event.preventDefault(); go(new FormData(event.target)); } },
      h("label", {}, "Kind", h("select", { name: "kind", onchange: (event) => go(new FormData(event.target.form)) },
        KINDS.map((kind) => h("option", { value: kind, selected: kind === (args.kind ?? "") }, kind || "all kinds")))),
      h("label", {}, "Object", h("input", { name: "about", type: "search", value: args.about ?? "", autocomplete: "off", "aria-describedby": "about-hint" })),
      h("button", { type: "submit" }, "Filter"), h("small", { id: "about-hint", class: "muted" }, "Id of a lease, database or pool, or name of a template, database, user, test or run.")),
    eventTable(items, ui, redraw)),
};

function go(form) {
  const query = new URLSearchParams([...form].filter(([, value]) => value));
  location.hash = `#/events${query.size ? `?${query}` : ""}`;
}
