// Elements, and updates of the document tree.
//
// A view draws a whole new tree each time. `patch` updates the page to it and does not touch unchanged nodes, so that focus,
// selection, scroll positions and typed text stay. Text only becomes text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";
const HANDLERS = ["onclick", "onsubmit", "oninput", "onchange", "onkeydown", "onpointermove", "onpointerleave", "onblur", "ontoggle"];

/** Create an element. `props`: attributes (null and false omit one), `on…` handlers, `key` to identify it among siblings. */
export function h(name, props = {}, ...children) {
  return built(document.createElement(name), props, children);
}

/** Create an SVG element. */
export function s(name, props = {}, ...children) {
  return built(document.createElementNS(SVG, name), props, children);
}

function built(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "key") node.__key = String(value);
    else if (HANDLERS.includes(name)) node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(node, child);
    else if (child instanceof Node) node.appendChild(child);
    else if (child !== null && child !== undefined && child !== false) node.appendChild(document.createTextNode(String(child)));
  }
}

/** Update `node` to `next`, which must not be used afterwards. Returns the resulting node. */
export function patch(node, next) {
  if (!alike(node, next)) {
    node.replaceWith(next);
    return next;
  }
  if (node.nodeType === Node.TEXT_NODE) {
    if (node.data !== next.data) node.data = next.data;
    return node;
  }
  patchAttributes(node, next);
  for (const handler of HANDLERS) if (node[handler] !== next[handler]) node[handler] = next[handler];
  patchChildren(node, [...next.childNodes]);
  return node;
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && one.__key === other.__key;
}

function patchAttributes(node, next) {
  for (const { name } of [...node.attributes]) {
    if (!next.hasAttribute(name) && !(name === "open" && node.nodeName === "DETAILS")) node.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function patchChildren(node, wanted) {
  const keyed = new Map();
  for (const child of node.childNodes) if (child.__key !== undefined) keyed.set(child.__key, child);
  let at = node.firstChild;
  for (const next of wanted) {
    const known = next.__key === undefined ? at : keyed.get(next.__key);
    if (known && alike(known, next)) {
      if (known === at) at = at.nextSibling;
      else node.insertBefore(known, at);
      patch(known, next);
    } else {
      node.insertBefore(next, at);
    }
  }
  while (at) {
    const after = at.nextSibling;
    at.remove();
    at = after;
  }
}
