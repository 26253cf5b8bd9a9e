// Parts of several views.

import { h, s } from "./dom.js";
import { ago, left, long, number } from "./format.js";

/** The states of a database in drawing order, each with a shape, because colour alone is not accessible. */
export const STATES = [
  ["ready", "M6 1a5 5 0 1 0 .01 0Z", "ready to be leased"],
  ["leased", "M1 1H11V11H1Z", "leased by a holder"],
  ["kept", "M6 0L12 6L6 12L0 6Z", "kept for inspection"],
  ["dirty", "M6 1L12 11H0Z", "released, waits for its reset"],
  ["resetting", "M6 1a5 5 0 1 0 .01 0ZM6 4a2 2 0 1 1 -.01 0Z", "is being reset"],
  ["creating", "M4.5 0h3v4.5H12v3H7.5v4.5h-3V7.5H0v-3h4.5Z", "is being created"],
  ["failed", "M2 0L6 4L10 0L12 2L8 6L12 10L10 12L6 8L2 12L0 10L4 6L0 2Z", "could not be created or reset"],
  ["dropping", "M0 4.5H12V7.5H0Z", "is being dropped"],
];
const SHAPES = Object.fromEntries(STATES.map(([name, path]) => [name, path]));
const LEASES = { active: "leased", kept: "kept", released: "ready", expired: "dirty", revoked: "failed" };
const TEMPLATES = { building: "creating", ready: "ready", failed: "failed", retired: "dropping" };

const stateMark = (state) => h("span", { class: "state" },
  s("svg", { class: `mark ${state}`, width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": "true" }, s("path", { d: SHAPES[state], "fill-rule": "evenodd" })));

const named = (state, as) => h("span", { class: "named" }, stateMark(as), ` ${state}`);
export const databaseState = (state) => named(state, state);
export const leaseState = (state) => named(state, LEASES[state]);
export const templateState = (state) => named(state, TEMPLATES[state]);

/** Databases of a pool by state: a bar, with the numbers beside it. */
export function stateBar(databases, most) {
  const there = STATES.filter(([state]) => databases[state]);
  const total = Math.max(most ?? 0, there.reduce((sum, [state]) => sum + databases[state], 0), 1);
  let at = 0;
  return h("div", { class: "bar" },
    s("svg", { width: "100%", height: 10, viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      s("rect", { class: "rest", width: 100, height: 10 }),
      there.map(([state]) => {
        const width = (databases[state] / total) * 100;
        const box = s("rect", { class: `area ${state}`, x: at, width, height: 10 });
        at += width;
        return box;
      })),
    h("span", { class: "counts" }, there.length ? there.map(([state]) => h("span", { key: state, "data-state": state }, stateMark(state), ` ${number(databases[state])} ${state}`)) : "none"));
}

/** An instant as its age, with the full date and time as title. */
export const since = (instant) => instant ? h("time", { datetime: instant, title: long(instant), "data-since": "" }, ago(instant)) : "–";
export const until = (instant) => instant ? h("time", { datetime: instant, title: long(instant), "data-until": "" }, left(instant)) : "–";

/** Update the ages on the page without drawing it again. */
export function tick() {
  for (const node of document.querySelectorAll("time[data-since], time[data-until]")) {
    const text = "since" in node.dataset ? ago(node.dateTime) : left(node.dateTime);
    if (node.textContent !== text) node.firstChild.data = text;
  }
}

export const link = (route, text) => h("a", { href: `#${route}` }, text);
export const short = (id) => h("code", { title: id }, id.slice(0, 8));
export const poolLink = (one) => link(`/pools/${one.pool_id ?? one.id}`, [templateLabel(one.template), one.isolation === "schema" ? " (schema)" : ""]);

/** A template's `name@fingerprint` with a short fingerprint, and the full one as title. */
export const templateLabel = (label) => h("span", { title: label }, label.replace(/@([^@\s]{8})[^@\s]+/, "@$1"));

/** A value from a holder as text, or as a link if it is an http(s) URL. */
export function said(value) {
  return /^https?:\/\/[^\s]+$/i.test(value)
    ? h("a", { href: value, rel: "noopener noreferrer", target: "_blank" }, shortUrl(value))
    : value;
}

function shortUrl(value) {
  const text = value.replace(/^https?:\/\//i, "");
  return text.length > 48 ? `${text.slice(0, 20)}…${text.slice(-26)}` : text;
}

/** A holder in one table cell, most useful facts first. */
export function holder(holderOf, principal) {
  const { name, user, host, worker, test, run, pid, ...others } = holderOf;
  const who = [user ?? name ?? principal, host && `@${host}`, worker && ` (${worker})`].filter(Boolean).join("");
  const lines = [test && h("div", { class: "test" }, said(test)), run && h("div", {}, said(run))];
  const rest = Object.entries(others).slice(0, 3).map(([key, value]) => h("div", {}, h("span", { class: "muted" }, `${key} `), said(value)));
  return h("div", { class: "holder" }, h("div", {}, h("b", {}, said(who || "unknown"))), lines, rest);
}

/** A list of names and values. */
export const facts = (pairs) => h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined)
  .map(([word, value]) => h("div", {}, h("dt", {}, word), h("dd", {}, value))));

export const section = (title, ...content) => h("section", { key: title }, h("h2", {}, title), content);

/** Leftovers of a holder as text. */
export function leftovers(found) {
  if (!found) return "none";
  const { connections, prepared_transactions: prepared, advisory_locks: locks, objects } = found;
  const counted = [[connections, "open connection"], [prepared, "prepared transaction"], [locks, "advisory lock"]]
    .filter(([count]) => count).map(([count, what]) => `${number(count)} ${what}${count === 1 ? "" : "s"}`);
  return [...counted, ...(objects ?? [])].join(", ") || "none";
}

/** A group of buttons. */
export const buttons = (...some) => h("div", { class: "buttons" }, some);
export const button = (text, onclick, props = {}) => h("button", { type: "button", onclick, ...props }, text);
