// The views, by their addresses. A view is
//
//   load(args, signal)   fetches what it shows
//   draw(data, page)     draws it; `page` has args, width, may (what this person may do), ui (what it keeps), redraw, reload
//   concerns(event)      whether an event may change it
//   everyMs              how often it is fetched when nothing happens

import * as overview from "./view-overview.js";
import * as pools from "./view-pools.js";
import * as leases from "./view-leases.js";
import * as databases from "./view-databases.js";
import * as rest from "./view-rest.js";

export const VIEWS = [
  { path: /^\/$/, name: "Overview", nav: "/", ...overview.overview },
  { path: /^\/leases$/, name: "Leases", nav: "/leases", ...leases.list },
  { path: /^\/leases\/(?<id>[^/]+)$/, name: "Lease", ...leases.one },
  { path: /^\/pools$/, name: "Pools", nav: "/pools", ...pools.list },
  { path: /^\/pools\/(?<id>[^/]+)$/, name: "Pool", ...pools.one },
  { path: /^\/databases$/, name: "Databases", nav: "/databases", ...databases.list },
  { path: /^\/databases\/(?<id>[^/]+)$/, name: "Database", ...databases.one },
  { path: /^\/templates$/, name: "Templates", nav: "/templates", ...rest.templates },
  { path: /^\/servers$/, name: "Servers", nav: "/servers", ...rest.servers },
  { path: /^\/left-behind$/, name: "Left behind", nav: "/left-behind", ...rest.leftBehind },
  { path: /^\/events$/, name: "Events", nav: "/events", ...rest.events },
];

/** The view that an address means, and what it says: `#/pools/1f…?range=86400`. */
export function routed(hash) {
  const [path, query = ""] = (hash.replace(/^#/, "") || "/").split("?");
  for (const view of VIEWS) {
    const match = view.path.exec(path);
    if (match) return { view, path, args: { ...Object.fromEntries(new URLSearchParams(query)), ...match.groups } };
  }
  return null;
}
