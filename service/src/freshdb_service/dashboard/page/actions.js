// What a person can do. Everything that cannot be undone is asked for once more; what the service refuses is shown.

import { call, get } from "./api.js";
import { ask, say } from "./dialog.js";
import { h } from "./dom.js";

const what = (lease) => `${lease.template}, database ${lease.database}${lease.schema ? `, schema ${lease.schema}` : ""}`;
const who = (lease) => lease.holder.user ?? lease.holder.name ?? lease.principal;

export const revoke = (lease) => ask({
  title: "Revoke this lease?",
  text: [what(lease), `${who(lease)} is thrown out at once, and whatever runs on it fails. The database is cleaned.`],
  yes: "Revoke", dangerous: true,
  work: () => call("DELETE", `/v1/leases/${lease.id}`, { query: { force: "true" } }),
}).then((done) => done && say("The lease is revoked."));

export const release = (lease) => ask({
  title: lease.state === "kept" ? "Release this kept database?" : "Release this lease?",
  text: [what(lease), lease.state === "kept" ? "What was kept for a look is lost." : "Its database is cleaned, and its URL stops working."],
  yes: "Release", dangerous: true,
  work: () => call("DELETE", `/v1/leases/${lease.id}`),
}).then((done) => done && say("The lease is released."));

export const keep = (lease) => ask({
  title: "Keep this database for a look?",
  text: [what(lease), "It stays as it is, without heartbeats, until its time is over or somebody releases it."],
  fields: [
    { name: "minutes", label: "For how many minutes", type: "number", value: 60, min: 1, step: 1, required: true },
    { name: "reason", label: "Why", value: lease.end_reason ?? "", hint: "Others see it; it may be empty." },
  ],
  yes: "Keep",
  work: ({ minutes, reason }) => call("POST", `/v1/leases/${lease.id}/keep`, { body: { ttl_seconds: Number(minutes) * 60, reason: reason || null } }),
}).then((done) => done && say("The database is kept."));

export const resize = (pool) => ask({
  title: "Change the sizes of this pool",
  text: `${pool.template} (${pool.isolation})`,
  fields: [
    { name: "min_ready", label: "min_ready", type: "number", value: pool.min_ready, min: 0, step: 1, required: true, hint: "So many are ready at least; more where callers had to wait." },
    { name: "max_size", label: "max_size", type: "number", value: pool.max_size, min: 1, step: 1, required: true, hint: "There are never more, whoever waits." },
    { name: "idle_seconds", label: "idle_seconds", type: "number", value: pool.idle_seconds, min: 0.01, step: "any", required: true, hint: "What nobody used for so long is dropped, down to min_ready." },
  ],
  yes: "Change",
  work: (given) => call("PATCH", `/v1/pools/${pool.id}`, { body: Object.fromEntries(Object.entries(given).map(([name, value]) => [name, Number(value)])) }),
}).then((done) => done && say("The sizes are changed."));

export const retire = (template) => ask({
  title: "Retire this template?",
  text: [`${template.name}@${template.fingerprint}`, "Nobody can lease from it any more, and its databases are dropped. It cannot be taken back: who needs it registers it again."],
  fields: [{ name: "force", label: "Also while leases of it live: their databases go when they end", type: "checkbox", value: "true" }],
  yes: "Retire", dangerous: true,
  work: ({ force }) => call("DELETE", `/v1/templates/${template.id}`, { query: { force } }),
}).then((done) => done && say("The template is retired."));

/** The line that opens psql. Its password is told to who acquired the lease, and to nobody else. */
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
  const note = mine ? "" : " The password is not in it: only who acquired the lease is told that.";
  try {
    await navigator.clipboard.writeText(line);
    say(`The psql line is copied.${note}`);
  } catch {
    await ask({
      title: "The psql line", text: `The browser lets nobody copy here: copy it by hand.${note}`,
      fields: [{ name: "line", label: "Line", value: line, readonly: true }], yes: "Done",
    });
  }
}

/** The buttons of one lease, as far as this person may. */
export function ofLease(lease, may, after) {
  if (!["active", "kept"].includes(lease.state)) return null;
  const mine = may.principal === lease.principal && may.has("lease");
  const then = (action) => () => action(lease).then(after);
  return h("div", { class: "buttons" },
    h("button", { type: "button", onclick: then(copyPsql) }, "Copy psql line"),
    mine ? h("button", { type: "button", onclick: then(keep) }, lease.state === "kept" ? "Keep longer" : "Keep") : null,
    mine ? h("button", { type: "button", onclick: then(release) }, "Release") : null,
    may.has("admin") ? h("button", { type: "button", class: "dangerous", onclick: then(revoke) }, "Revoke") : null);
}
