// Keys that work anywhere on the page but in a field, and the list of them.

import { byId, element, fill } from "./dom.js";

/**
 * @param actions [[keys, words, work]]; docs/viewer.md has the same table.
 */
export function startKeyboard(actions) {
  const rows = actions.map(([keys, words]) =>
    element("tr", {}, element("td", {}, keys.map((key) => element("kbd", {}, NAMES[key] ?? key))), element("td", {}, words)));
  fill(byId("keys"), rows);
  const byKey = new Map(actions.flatMap(([keys, , work]) => keys.map((key) => [key, work])));
  document.addEventListener("keydown", (event) => {
    const work = byKey.get(event.key);
    if (!work || event.ctrlKey || event.metaKey || event.altKey || isBusy(event.target)) return;
    event.preventDefault();
    work(event.key);
  });
}

const NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };

const isBusy = (target) =>
  document.querySelector("dialog[open]") !== null || target.closest?.("input, select, textarea, [role=tablist]") != null;
