// The API key: asked for when the service wants one, kept until the tab is closed and nowhere else.

import { byId } from "./dom.js";

const NAME = "comel-api-key";
let asking = null;

export const storedKey = () => sessionStorage.getItem(NAME);

/** The header that carries the key; none where there is no key. */
export function keyHeader() {
  const key = storedKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Ask for a key. Resolves to whether one was given; questions that come meanwhile share the answer. */
export function askForKey(reason = "") {
  asking ??= ask(reason).finally(() => (asking = null));
  return asking;
}

function ask(reason) {
  const dialog = byId("key-dialog");
  const field = byId("key-field");
  byId("key-reason").textContent = reason;
  field.value = storedKey() ?? "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "forget") sessionStorage.removeItem(NAME);
      const given = dialog.returnValue === "use" && field.value.trim();
      if (given) sessionStorage.setItem(NAME, field.value.trim());
      field.value = "";
      resolve(Boolean(given));
    }, { once: true });
  });
}
