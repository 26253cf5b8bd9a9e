// Actions of the user. Destructive ones need a confirmation. Errors of the service are shown in the dialog.

import { call, get } from "./api.js";
import { ask, say } from "./dialog.js";
import { h } from "./dom.js";

const what = (lease) => `${lease.template}, database ${lease.database}${lease.schema ? `, schema ${lease.schema}` : ""}`;
const who = (lease) => lease.holder.user ?? lease.holder.name ?? lease.principal;

export const revoke = (lease) => ask({
  title: "Revoke this lease?",
  text: [what(lease), `Connections of ${who(lease)} are closed at once, and its tests fail. The database is reset.`],
  yes: "Revoke", dangerous: true,
  work: () => call("DELETE", `/v1/leases/${lease.id}`, { query: { force: "true" } }),
}).then((done) => done && say("Lease revoked."));

export const release = (lease) => ask({
  title: lease.state === "kept" ? "Release this kept database?" : "Release this lease?",
  text: [what(lease), lease.state === "kept" ? "The kept data is lost." : "Its database is reset, and its URL stops working."],
  yes: "Release", dangerous: true,
  work: () => call("DELETE", `/v1/leases/${lease.id}`),
}).then((done) => done && say("Lease released."));

export const keep = (lease) => ask({
  title: "Keep this database for inspection?",
  text: [what(lease), "It stays unchanged, without heartbeats, until it expires or is released."],
  fields: [
    { name: "minutes", label: "Minutes", type: "number", value: 60, min: 1, step: 1, required: true },
    { name: "reason", label: "Reason", value: lease.end_reason ?? "", hint: "Optional. Other users can see it." },
  ],
  yes: "Keep",
  work: ({ minutes, reason }) => call("POST", `/v1/leases/${lease.id}/keep`, { body: { ttl_seconds: Number(minutes) * 60, reason: reason || null } }),
}).then((done) => done && say("Database kept."));

export const resize = (pool) => ask({
  title: "Change the sizes of this pool",
  text: `${pool.template} (${pool.isolation})`,
  fields: [
    { name: "min_ready", label: "min_ready", type: "number", value: pool.min_ready, min: 0, step: 1, required: true, hint: "Minimum ready databases. A pool whose callers had to wait keeps more." },
    { name: "max_size", label: "max_size", type: "number", value: pool.max_size, min: 1, step: 1, required: true, hint: "Maximum databases." },
    { name: "idle_seconds", label: "idle_seconds", type: "number", value: pool.idle_seconds, min: 0.01, step: "any", required: true, hint: "Idle time after which databases beyond min_ready are dropped." },
  ],
  yes: "Change",
  work: (given) => call("PATCH", `/v1/pools/${pool.id}`, { body: Object.fromEntries(Object.entries(given).map(([name, value]) => [name, Number(value)])) }),
}).then((done) => done && say("Sizes changed."));

export const retire = (template) => ask({
  title: "Retire this template?",
  text: [`${template.name}@${template.fingerprint}`, "It grants no new leases, and its databases are dropped. This cannot be undone, but the template can be registered again."],
  fields: [{ name: "force", label: "Also with live leases, whose databases are dropped when they end", type: "checkbox", value: "true" }],
  yes: "Retire", dangerous: true,
  work: ({ force }) => call("DELETE", `/v1/templates/${template.id}`, { query: { force } }),
}).then((done) => done && say("Template retired."));

/** The psql command of a lease. Only the token that acquired the lease gets its password. */
async function copyPsql(lease) {
  let line;
  let mine;
  try {
    const now = await get(`/v1/leases/${lease.id}`);
    mine = now.url !== null;
    const user = encodeURIComponent(now.user);
    const host = now.host.includes(":") ? `[${now.host}]` : now.host;
    line = `psql '${now.url ?? `postgresql://${user}@${host}:${now.port}/${encodeURIComponent(now.database)}`}'`;
  } catch (error) {
    say(error.message);
    return;
  }
  const note = mine ? "" : " It has no password, because only the token that acquired the lease gets it.";
  try {
    await navigator.clipboard.writeText(line);
    say(`psql command copied.${note}`);
  } catch {
    await ask({
      title: "psql command", text: `The browser does not allow copying here. Copy it manually.${note}`,
      fields: [{ name: "line", label: "Command", value: line, readonly: true }], yes: "Done",
    });
  }
}

/** The buttons of one lease that the user's scopes allow. */
export function ofLease(lease, may, after) {
  if (!["active", "kept"].includes(lease.state)) return null;
  const mine = may.principal === lease.principal && may.has("lease");
  const then = (action) => () => action(lease).then(after);
  return h("div", { class: "buttons" },
    h("button", { type: "button", onclick: then(copyPsql) }, "Copy psql command"),
    mine ? h("button", { type: "button", onclick: then(keep) }, lease.state === "kept" ? "Keep longer" : "Keep") : null,
    mine ? h("button", { type: "button", onclick: then(release) }, "Release") : null,
    may.has("admin") ? h("button", { type: "button", class: "dangerous", onclick: then(revoke) }, "Revoke") : null);
}
