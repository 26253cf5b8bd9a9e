// Starts the page: which view, who is asking, what is fetched when, and what is said when nobody answers.

import { get, hasToken, setToken } from "./api.js";
import { say } from "./dialog.js";
import { h, patch } from "./dom.js";
import { serverTime } from "./format.js";
import { Refresher, Stream } from "./live.js";
import { tick } from "./parts.js";
import { routed, VIEWS } from "./views.js";

const THEMES = { auto: ["◐", "like the system"], light: ["☀", "light"], dark: ["☾", "dark"] };
const STATUS = { ok: "All is well", attention: "Needs a look", failing: "Failing" };
const LIVE = { live: "Live", reconnecting: "Reconnecting…", refused: "Not allowed", connecting: "Connecting…" };

const top_ = document.getElementById("top");
const main = document.getElementById("main");
const nobody = { principal: null, scopes: [], open: false, has: () => false };
const page = { view: null, args: {}, path: "", ui: {}, data: null, problem: null, may: nobody, known: false, live: "connecting", status: null, refresher: null, control: null };
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
  if (page.view?.nav === "/" || !page.known) return true; // the view has it
  try { took(await get("/v1/overview")); return true; } catch { return false; }
}, { everyMs: 10000, gapMs: 3000 });

function took(overview) {
  serverTime(overview.at);
  if (page.status === overview.status) return;
  page.status = overview.status;
  drawTop();
}

/** Ask who we are; without an answer to that nothing else is fetched. */
async function enter() {
  try {
    const me = await get("/v1/whoami");
    Object.assign(page, { may: { ...me, has: (scope) => me.scopes.includes(scope) }, known: true, problem: null });
    if (!page.may.has("read")) page.problem = { status: 403, message: `The token of ${me.principal} may not look: it lacks the scope read.` };
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
    if (error.status === 401) { setToken(""); Object.assign(page, { known: false, data: null, may: nobody }); stream.stop(); }
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
    show(h("div", {}, h("h1", {}, "There is nothing here"), h("p", {}, h("a", { href: "#/" }, "To the overview"))));
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
    page.refresher.suspend(); // until there is another token
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
  if (problem.status === 0) return "What stands here is how it was. The page asks again by itself, ever more rarely; it goes on when the service is back.";
  if (problem.status === 404) return "It may be over and forgotten by now (after a day). The lists have what there is.";
  if (problem.status === 403) return "Take another token (Sign out, above), or have this one's scopes changed.";
  if (problem.status === 503) return "The service runs, but something that it needs is away: see the message, and /readyz. The page asks again by itself.";
  return "The page asks again by itself. If it stays like this, the service's log says more.";
}

function tokenForm(problem) {
  const submit = async (event) => {
    event.preventDefault();
    const given = String(new FormData(event.target).get("token")).trim();
    if (!given) return;
    setToken(given);
    page.refresher.resume();
  };
  return h("div", { class: "token", key: "token" }, h("h1", {}, "This service wants a token"),
    hasToken() || !problem.message.includes("wants a token") ? h("p", { class: "problem", role: "alert" }, problem.message) : null,
    h("form", { onsubmit: submit },
      h("label", {}, "Token", h("input", { name: "token", type: "password", autocomplete: "off", required: true, autofocus: true, spellcheck: "false" })),
      h("button", { type: "submit", class: "primary" }, "Enter")),
    h("p", { class: "muted" }, "It needs the scope read to look; lease to keep and release what is its own; admin to revoke, resize and retire. Whoever runs the service makes one: ",
      h("code", {}, "freshdb token create --name me --scopes read"), ". It stays in this tab, and is forgotten when the tab is closed."));
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
  Object.assign(page, { may: nobody, known: false, data: null, status: null, live: "connecting" });
  memory.clear();
  drawTop();
  go();
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const theme = names[(names.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % names.length];
  setTheme(theme);
  try { localStorage.setItem("freshdb.theme", theme); } catch { /* then it lives as long as the page */ }
  say(`Colours: ${THEMES[theme][1]}.`);
  drawTop();
}

function setTheme(theme) {
  if (theme in THEMES && theme !== "auto") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

try { setTheme(localStorage.getItem("freshdb.theme")); } catch { /* no storage, no memory */ }
document.querySelector(".skip").onclick = (event) => { event.preventDefault(); main.focus(); };
addEventListener("hashchange", go);
addEventListener("resize", () => page.view && draw());
// A page that nobody looks at asks for nothing: an embedded service may go to sleep beneath it.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { page.refresher?.suspend(); glance.suspend(); stream.stop(); }
  else { page.refresher?.resume(); glance.resume(); if (page.known && page.may.has("read")) stream.start(); }
});
setInterval(tick, 1000);
go();
