// The views and their URLs. A view has
//
//   load(args, signal)   fetches its data
//   draw(data, page)     draws it; `page` has args, width, may (scopes of the user), ui (state of the view), redraw, reload
//   concerns(event)      true if an event may change the view
//   everyMs              interval of refreshes without events

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
  { path: /^\/templates\/(?<id>[^/]+)$/, name: "Template", ...rest.template },
  { path: /^\/servers$/, name: "Servers", nav: "/servers", ...rest.servers },
  { path: /^\/left-behind$/, name: "Leftovers", nav: "/left-behind", ...rest.leftBehind },
  { path: /^\/events$/, name: "Events", nav: "/events", ...rest.events },
];

/** The view of a URL, with its arguments: `#/pools/1f…?range=86400`. */
export function routed(hash) {
  const [path, query = ""] = (hash.replace(/^#/, "") || "/").split("?");
  for (const view of VIEWS) {
    const match = view.path.exec(path);
    if (match) return { view, path, args: { ...Object.fromEntries(new URLSearchParams(query)), ...match.groups } };
  }
  return null;
}
