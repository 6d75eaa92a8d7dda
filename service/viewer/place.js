// What the page shows, as its address: #/predictions/ID?x=..&y=..&zoom=..&opacity=..

const KINDS = ["slides", "predictions", "jobs"];

/** {kind, id, view} of an address's hash; kind and id are null where it names nothing. */
export function readPlace(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [kind, id] = path.split("/");
  const known = KINDS.includes(kind) && /^[0-9a-f]{32}$/.test(id ?? "");
  return { kind: known ? kind : null, id: known ? id : null, view: Object.fromEntries(new URLSearchParams(query)) };
}

export function writePlace({ kind, id, view = {} }) {
  const query = new URLSearchParams(Object.entries(view).filter(([, value]) => value != null && value !== ""));
  return `#/${kind}/${id}${query.size ? `?${query}` : ""}`;
}

/** A number of an address, or null where it is none or out of range. */
export function numberIn(text, least, most) {
  const value = text == null || text === "" ? NaN : Number(text);
  return value >= least && value <= most ? value : null;
}
