// A list that grows by pages, with a line that says when it is empty or cannot be read.

import { getJson, pictureOf, withQuery } from "./api.js";
import { element, fill } from "./dom.js";

const PAGE = 50;

export class PagedList {
  #host;
  #path;
  #row;
  #empty;
  #query = {};
  #turn = 0;

  /**
   * @param host a <ul>.
   * @param path of the list below /v1.
   * @param row makes the <li> of an item.
   * @param empty what to say where there is none.
   */
  constructor(host, path, row, empty) {
    Object.assign(this, { items: [] });
    this.#host = host;
    this.#path = path;
    this.#row = row;
    this.#empty = empty;
  }

  /** Read the first page again, with another query where one is given. */
  async reload(query = this.#query) {
    this.#query = query;
    const turn = ++this.#turn;
    try {
      const page = await getJson(withQuery(this.#path, { ...query, limit: PAGE }));
      // A slower answer to an older question must not replace this one.
      if (turn !== this.#turn) return;
      this.items = page.items;
      fill(this.#host, page.items.map(this.#row), this.#more(page.next));
      if (!page.items.length) fill(this.#host, element("li", { class: "quiet" }, this.#empty(query)));
    } catch (error) {
      if (turn === this.#turn) fill(this.#host, element("li", { class: "quiet", role: "alert" }, error.message));
    }
  }

  #more(cursor) {
    if (!cursor) return null;
    const row = element("li", {}, element("button", { class: "plain wide", click: () => this.#next(row, cursor) }, "Show more"));
    return row;
  }

  async #next(row, cursor) {
    const page = await getJson(withQuery(this.#path, { ...this.#query, limit: PAGE, cursor }));
    this.items.push(...page.items);
    row.replaceWith(...page.items.map(this.#row), ...[this.#more(page.next)].filter(Boolean));
  }
}

const shown = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    shown.unobserve(target);
    pictureOf(target.dataset.path).then(
      (address) => (target.src = address),
      () => target.classList.add("missing"),
    );
  }
}, { rootMargin: "200px" });

/** A picture that is fetched when it comes into sight. */
export function lazyPicture(path, attributes = {}) {
  const image = element("img", { alt: "", "data-path": path, ...attributes });
  shown.observe(image);
  return image;
}
