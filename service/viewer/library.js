// The lists on the left: slides, predictions and jobs.

import { byId, element, settled } from "./dom.js";
import { jobRow } from "./job.js";
import { PagedList, lazyPicture } from "./list.js";
import { writePlace } from "./place.js";
import { since, share } from "./words.js";

const TABS = ["slides", "predictions", "jobs"];

export class Library {
  #lists = {
    slides: new PagedList(byId("list-slides"), "slides", slideRow, ({ prefix }) =>
      prefix ? `No slide's name begins with “${prefix}”.` : "No slides here. Start the service with --slides FOLDER, or send a file."),
    predictions: new PagedList(byId("list-predictions"), "predictions", predictionRow, () => "No predictions yet."),
    jobs: new PagedList(byId("list-jobs"), "jobs", jobRow, () => "No jobs yet."),
  };

  start() {
    for (const name of TABS) byId(`tab-${name}`).addEventListener("click", () => this.show(name));
    byId("tabs").addEventListener("keydown", (event) => this.#walk(event));
    const filter = byId("slide-filter");
    filter.addEventListener("input", settled(250, () => this.#lists.slides.reload({ prefix: filter.value.trim() })));
    this.show("slides");
  }

  /** Show one of the lists, read anew. */
  show(name) {
    for (const other of TABS) {
      const chosen = other === name;
      byId(`tab-${other}`).setAttribute("aria-selected", chosen);
      byId(`tab-${other}`).tabIndex = chosen ? 0 : -1;
      byId(`pane-${other}`).hidden = !chosen;
    }
    return this.#lists[name].reload();
  }

  reload(name) {
    return this.#lists[name].reload();
  }

  /** Mark the row of what is shown. */
  mark(kind, id) {
    for (const link of document.querySelectorAll("#library a[href]")) {
      const current = link.getAttribute("href").startsWith(`#/${kind}/${id}`);
      if (current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  #walk(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const at = TABS.findIndex((name) => byId(`tab-${name}`) === document.activeElement);
    const next = TABS[(at + step + TABS.length) % TABS.length];
    byId(`tab-${next}`).focus();
    this.show(next);
    event.stopPropagation();
  }
}

function slideRow(slide) {
  const megabytes = (slide.size_bytes / 1e6).toLocaleString("en", { maximumFractionDigits: 1 });
  return element("li", {},
    element("a", { href: writePlace({ kind: "slides", id: slide.id }), class: "row" },
      lazyPicture(`slides/${slide.id}/thumbnail.jpg?width=96`, { class: "thumbnail" }),
      element("span", { class: "words" }, element("b", {}, slide.name), element("small", {}, `${megabytes} MB`))));
}

function predictionRow(prediction) {
  const said = prediction.label === null ? "no tissue" : `${prediction.label} ${share(prediction.confidence)}`;
  return element("li", {},
    element("a", { href: writePlace({ kind: "predictions", id: prediction.id }), class: "row" },
      element("span", { class: "words" },
        element("b", {}, prediction.slide_id),
        element("small", {}, said, " · ", since(prediction.created)))));
}
