// Tables with sorting and pages. The document has only the rows of one page, and each row is updated separately.

import { h } from "./dom.js";
import { number } from "./format.js";

const PAGE = 50;

/**
 * A table.
 *
 * columns: `{title, cell(row), by?(row), numeric?, wide?}`. Columns with `by` can be sorted. `wide` columns are hidden on
 * phones. `state` is an object of the view that keeps the page and order of the table. `redraw` draws the view again.
 */
export function table({ label, columns, rows, key, state, redraw, empty, total = null }) {
  if (!rows.length) return h("p", { class: "empty" }, empty);
  const order = columns[state.sort]?.by;
  const sorted = order ? [...rows].sort((a, b) => compare(order(a), order(b)) * (state.down ? -1 : 1)) : rows;
  const pages = Math.ceil(sorted.length / PAGE);
  const page = Math.min(state.page ?? 0, pages - 1);
  const shown = sorted.slice(page * PAGE, (page + 1) * PAGE);
  const classes = (column) => [column.numeric && "numeric", column.wide && "wide"].filter(Boolean).join(" ") || null;
  return h("div", { class: "table" },
    h("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 },
      h("table", {},
        h("thead", {}, h("tr", {}, columns.map((column, index) => h("th", {
          scope: "col", class: classes(column),
          "aria-sort": state.sort === index ? (state.down ? "descending" : "ascending") : null,
        }, column.by ? sorter(column, index, state, redraw) : column.title)))),
        h("tbody", {}, shown.map((row) => h("tr", { key: key(row) },
          columns.map((column) => h("td", { class: classes(column) }, column.cell(row)))))))),
    pages > 1 || total !== null ? pager(page, pages, sorted.length, total, state, redraw, label) : null);
}

function sorter(column, index, state, redraw) {
  const sign = state.sort === index ? (state.down ? " ▼" : " ▲") : "";
  return h("button", {
    type: "button", class: "sort",
    onclick: () => {
      Object.assign(state, { down: state.sort === index && !state.down, sort: index, page: 0 });
      redraw();
    },
  }, column.title, h("span", { "aria-hidden": "true" }, sign));
}

function pager(page, pages, count, total, state, redraw, label) {
  const to = (wanted) => () => { state.page = wanted; redraw(); };
  const first = page * PAGE + 1;
  const last = Math.min(count, first + PAGE - 1);
  return h("nav", { class: "pager", "aria-label": `Pages of ${label}` },
    h("button", { type: "button", disabled: page === 0, onclick: to(page - 1) }, "Previous"),
    h("span", {}, `${number(first)}–${number(last)} of ${number(total ?? count)}`),
    h("button", { type: "button", disabled: page >= pages - 1, onclick: to(page + 1) }, "Next"));
}

function compare(a, b) {
  return a === b ? 0 : a === null || a === undefined ? 1 : b === null || b === undefined ? -1 : a < b ? -1 : 1;
}
