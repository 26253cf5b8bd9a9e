// Starts the page: navigation, authentication, refresh and error messages.

import { get, hasToken, setToken } from "./api.js";
import { say } from "./dialog.js";
import { h, patch } from "./dom.js";
import { serverTime } from "./format.js";
import { Refresher, Stream } from "./live.js";
import { tick } from "./parts.js";
import { routed, VIEWS } from "./views.js";

const THEMES = { auto: ["◐", "system"], light: ["☀", "light"], dark: ["☾", "dark"] };
const STATUS = { ok: "Healthy", attention: "Attention", failing: "Failing" };
const LIVE = { live: "Live", reconnecting: "Reconnecting…", refused: "Not allowed", connecting: "Connecting…" };

const top_ = document.getElementById("top");
const main = document.getElementById("main");
const anonymous = { principal: null, scopes: [], open: false, has: () => false };
const page = { view: null, args: {}, path: "", ui: {}, data: null, problem: null, may: anonymous, known: false, live: "connecting", status: null, refresher: null, control: null };
const memory = new Map();
let body = main.appendChild(h("div"));
let bar = top_.appendChild(h("div"));

const stream = new Stream({
  onEvent: (event) => {
    if (page.view?.concerns(event, page.args, page.data)) page.refresher?.request();
    if (page.view?.nav !== "/") glance.request();
  },
  onState: (state) => {
    if (page.live === state) return;
    const back = state === "live" && page.live === "reconnecting";
    page.live = state;
    drawTop();
    if (back) { page.refresher?.now(); glance.now(); }
  },
});

const glance = new Refresher(async () => {
  if (page.view?.nav === "/" || !page.known) return true; // the overview fetches it itself
  try { took(await get("/v1/overview")); return true; } catch { return false; }
}, { everyMs: 10000, gapMs: 3000 });

function took(overview) {
  serverTime(overview.at);
  if (page.status === overview.status) return;
  page.status = overview.status;
  drawTop();
}

/** Fetch the caller's scopes, which all other requests depend on. */
async function enter() {
  try {
    const me = await get("/v1/whoami");
    Object.assign(page, { may: { ...me, has: (scope) => me.scopes.includes(scope) }, known: true, problem: null });
    if (!page.may.has("read")) page.problem = { status: 403, message: `The token ${me.principal} lacks the scope read.` };
    else stream.start();
    glance.now();
    drawTop();
    return true;
  } catch (error) {
    if (error.status === 401) setToken("");
    Object.assign(page, { problem: error, known: false });
    return false;
  }
}

async function load() {
  const { view, args } = page;
  const control = (page.control = new AbortController());
  try {
    if (!page.known && !(await enter())) { draw(); return page.problem.status === 401; }
    if (!page.may.has("read")) { draw(); return true; }
    const data = await view.load(args, control.signal);
    if (control.signal.aborted) return true;
    Object.assign(page, { data, problem: null });
    if (data.seen) took(data.seen);
  } catch (error) {
    if (control.signal.aborted) return true;
    if (!("code" in error)) throw error;
    page.problem = error;
    if (error.status === 401) { setToken(""); Object.assign(page, { known: false, data: null, may: anonymous }); stream.stop(); }
  }
  draw();
  return page.problem === null || page.problem.status === 404;
}

function go() {
  const found = routed(location.hash);
  page.control?.abort();
  page.refresher?.stop();
  if (!found) {
    Object.assign(page, { view: null, refresher: null, data: null });
    show(h("div", {}, h("h1", {}, "Page not found"), h("p", {}, h("a", { href: "#/" }, "Overview"))));
    return;
  }
  const moved = found.path !== page.path;
  if (!memory.has(found.path)) memory.set(found.path, {});
  Object.assign(page, { ...found, ui: memory.get(found.path), data: moved ? null : page.data, problem: null });
  document.title = found.view.nav === "/" ? "freshdb" : `${found.view.name} · freshdb`;
  page.refresher = new Refresher(load, found.view);
  drawTop();
  draw();
  if (document.hidden) page.refresher.suspend();
  else page.refresher.now();
  if (moved && main.contains(document.activeElement)) main.focus();
  if (moved) scrollTo(0, 0);
}

function draw() {
  const began = performance.now();
  const { problem, data, view } = page;
  if (problem?.status === 401) {
    page.refresher.suspend(); // until the user enters another token
    return show(tokenForm(problem));
  }
  const notice = problem && h("div", { class: "notice", role: "alert", key: "notice" }, h("p", {}, problem.message), h("p", {}, advice(problem)));
  const content = data === null ? (notice ? null : h("p", { class: "muted", "aria-busy": "true" }, "Loading…")) : view.draw(data, {
    args: page.args, ui: page.ui, may: page.may, width: Math.max(280, Math.min(main.clientWidth - 34, main.clientWidth > 1100 ? main.clientWidth / 2 - 46 : 4000)),
    redraw: draw, reload: () => page.refresher?.now(),
  });
  show(h("div", { key: page.path, class: problem ? "stale" : null }, notice, content));
  performance.measure("freshdb draw", { start: began, end: performance.now() });
}

function show(next) {
  body = patch(body, next);
}

function advice(problem) {
  if (problem.status === 0) return "The page shows the last known state. It retries automatically, less and less often.";
  if (problem.status === 404) return "It may have ended and been deleted (after a day). The lists show all existing objects.";
  if (problem.status === 403) return "Sign out (above) and use another token.";
  if (problem.status === 503) return "The service runs, but PostgreSQL or Redis is unavailable: see the message and /readyz. The page retries automatically.";
  return "The page retries automatically. If the error stays, see the service log.";
}

function tokenForm(problem) {
  const submit = async (event) => {
    event.preventDefault();
    const given = String(new FormData(event.target).get("token")).trim();
    if (!given) return;
    setToken(given);
    page.refresher.resume();
  };
  return h("div", { class: "token", key: "token" }, h("h1", {}, "This service needs a token"),
    hasToken() || !problem.message.includes("needs a token") ? h("p", { class: "problem", role: "alert" }, problem.message) : null,
    h("form", { onsubmit: submit },
      h("label", {}, "Token", h("input", { name: "token", type: "password", autocomplete: "off", required: true, autofocus: true, spellcheck: "false" })),
      h("button", { type: "submit", class: "primary" }, "Sign in")),
    h("p", { class: "muted" }, "The scope read shows everything, lease can keep and release its own leases, and admin can revoke, resize and retire. An operator of the service creates a token with ",
      h("code", {}, "freshdb token create --name me --scopes read"), ". It stays in this tab until the tab is closed."));
}

function drawTop() {
  const here = page.view && (page.view.nav ?? VIEWS.find((view) => view.nav && view.nav !== "/" && page.path.startsWith(view.nav))?.nav);
  const theme = document.documentElement.dataset.theme ?? "auto";
  const [sign, word] = THEMES[theme];
  bar = patch(bar, h("div", { class: "inner" },
    h("a", { class: "brand", href: "#/" }, "freshdb"),
    page.status ? h("a", { class: `pill ${page.status}`, href: "#/" }, STATUS[page.status]) : null,
    h("span", { class: `live ${page.live}`, role: "status" }, LIVE[page.live]),
    h("nav", { class: "views", "aria-label": "Views" }, VIEWS.filter((view) => view.nav).map((view) =>
      h("a", { href: `#${view.nav}`, key: view.nav, "aria-current": view.nav === here ? "page" : null }, view.name))),
    h("span", { class: "me" }, page.may.principal ? `${page.may.principal}${page.may.open ? " (open service)" : ` (${page.may.has("admin") ? "admin" : page.may.scopes.join(", ")})`}` : "",
      page.may.principal && !page.may.open ? h("button", { type: "button", onclick: signOut }, "Sign out") : null,
      h("button", { type: "button", class: "theme", onclick: nextTheme, "aria-label": `Colours: ${word}. Change`, title: `Colours: ${word}` }, sign))));
}

function signOut() {
  setToken("");
  stream.stop();
  Object.assign(page, { may: anonymous, known: false, data: null, status: null, live: "connecting" });
  memory.clear();
  drawTop();
  go();
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const theme = names[(names.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % names.length];
  setTheme(theme);
  try { localStorage.setItem("freshdb.theme", theme); } catch { /* without storage, the theme lasts until the page is closed */ }
  say(`Colours: ${THEMES[theme][1]}.`);
  drawTop();
}

function setTheme(theme) {
  if (theme in THEMES && theme !== "auto") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

try { setTheme(localStorage.getItem("freshdb.theme")); } catch { /* without storage, use the default */ }
document.querySelector(".skip").onclick = (event) => { event.preventDefault(); main.focus(); };
addEventListener("hashchange", go);
addEventListener("resize", () => page.view && draw());
// A hidden page sends no requests, so that an idle embedded service can stop.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { page.refresher?.suspend(); glance.suspend(); stream.stop(); }
  else { page.refresher?.resume(); glance.resume(); if (page.known && page.may.has("read")) stream.start(); }
});
setInterval(tick, 1000);
go();
