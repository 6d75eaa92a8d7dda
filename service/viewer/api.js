// Talking to the service: paths below /v1, errors as problems, and a key when it asks for one.

import { askForKey, keyHeader } from "./key.js";

const BASE = new URL("../v1/", import.meta.url);

/** What the service refused, in its own words. */
export class Problem extends Error {
  constructor(status, { detail, remedy } = {}, retryAfter = null) {
    super([detail || `the service answered ${status}`, remedy].filter(Boolean).join("; "));
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export const urlOf = (path) => new URL(path.replace(/^\/?(v1\/)?/, ""), BASE);

/** A response that is no problem. */
export async function request(path, options = {}) {
  for (;;) {
    const sent = { ...options, headers: { ...options.headers, ...keyHeader() } };
    let answer;
    try {
      answer = await fetch(urlOf(path), sent);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, { detail: "the service cannot be reached", remedy: "see whether it runs" });
    }
    if (answer.ok) return answer;
    const problem = new Problem(answer.status, await answer.json().catch(() => ({})), answer.headers.get("retry-after"));
    const again = answer.status === 401 && (await askForKey(problem.message));
    if (!again) throw problem;
  }
}

export const getJson = async (path, options) => (await request(path, options)).json();

/** Send JSON. Resolves to the status and the body. */
export async function sendJson(method, path, body, headers = {}) {
  const sent = body === undefined ? {} : { body: JSON.stringify(body) };
  const answer = await request(path, { method, ...sent, headers: { "Content-Type": "application/json", ...headers } });
  return { status: answer.status, body: answer.status === 204 ? null : await answer.json() };
}

/** A path with the query's values that are set. */
export function withQuery(path, query) {
  const set = Object.entries(query).filter(([, value]) => value != null && value !== "");
  return set.length ? `${path}?${new URLSearchParams(set)}` : path;
}

/** A picture as an address that an <img> can show although it needs the key's header. */
export async function pictureOf(path) {
  return URL.createObjectURL(await (await request(path)).blob());
}

/** Save what is at a path as a file. */
export async function download(path, filename) {
  const address = await pictureOf(path);
  const link = document.createElement("a");
  link.href = address;
  link.download = filename;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
