// Requests to the REST API. The token stays in this tab, in sessionStorage, and is never in a URL.

const KEY = "freshdb.token";
let token = remembered();

/** An error response, or no response (`status` 0). */
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
  } catch { /* without storage, the token lasts until the page is closed */ }
}

/** The URL of a request. A proxy may serve freshdb below another path. */
export const address = (path, query = {}) => {
  const url = new URL(`.${path}`, document.baseURI.split("#")[0]);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return url;
};

export const headers = (more = {}) => (token ? { Authorization: `Bearer ${token}`, ...more } : more);

/** Send a request and return the JSON of the response. Throws `Problem`. */
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
    throw new Problem(0, "unreachable", "The service does not answer. Check that it is running.");
  }
  if (answer.ok) return answer.json();
  throw await problemOf(answer);
}

export async function problemOf(answer) {
  const said = await answer.json().catch(() => ({}));
  const retry = Number(answer.headers.get("Retry-After")) || 0;
  return new Problem(answer.status, said.code ?? "error", said.detail ?? `The service responded with status ${answer.status}.`, retry);
}

export const get = (path, query, signal) => call("GET", path, { query, signal });

/** All items of a list, up to `most`, fetched in pages. */
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
