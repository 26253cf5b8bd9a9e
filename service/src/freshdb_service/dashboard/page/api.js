// Calls of the REST interface. The token stays in this tab: in sessionStorage, and never in an address.

const KEY = "freshdb.token";
let token = remembered();

/** An answer that is no success, or none at all (`status` 0). */
export class Problem extends Error {
  constructor(status, code, detail, retryAfterSeconds = 0) {
    super(detail);
    Object.assign(this, { status, code, retryAfterSeconds });
  }
}

function remembered() {
  try { return sessionStorage.getItem(KEY) ?? ""; } catch { return ""; }
}

export const hasToken = () => token !== "";

export function setToken(value) {
  token = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch { /* then it lives as long as the page */ }
}

/** The address of a call; also where a proxy serves freshdb under a path of its own. */
export const address = (path, query = {}) => {
  const url = new URL(`.${path}`, document.baseURI.split("#")[0]);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url;
};

export const headers = (more = {}) => (token ? { Authorization: `Bearer ${token}`, ...more } : more);

/** Ask; the JSON of the answer. Throws `Problem`. */
export async function call(method, path, { query, body, signal } = {}) {
  let answer;
  try {
    answer = await fetch(address(path, query), {
      method,
      signal,
      headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }),
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "The service does not answer. Is it running?");
  }
  if (answer.ok) return answer.json();
  throw await problemOf(answer);
}

export async function problemOf(answer) {
  const said = await answer.json().catch(() => ({}));
  const retry = Number(answer.headers.get("Retry-After")) || 0;
  return new Problem(answer.status, said.code ?? "error", said.detail ?? `The service answered ${answer.status}.`, retry);
}

export const get = (path, query, signal) => call("GET", path, { query, signal });

/** Every item of a list, page by page, up to `most`. */
export async function all(path, query = {}, { most = 2000, signal } = {}) {
  const items = [];
  let cursor = null;
  do {
    const page = await get(path, { ...query, limit: Math.min(1000, most - items.length), cursor }, signal);
    items.push(...page.items);
    cursor = page.next;
  } while (cursor && items.length < most);
  return { items, more: cursor !== null };
}
