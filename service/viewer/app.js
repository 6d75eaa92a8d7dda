// The page: what its address names is shown, and what is done is written into its address.

import { getJson, withQuery } from "./api.js";
import { loadColours } from "./colours.js";
import { byId, element, fill, settled } from "./dom.js";
import { cancelJob, jobPanel, watchJob } from "./job.js";
import { askForKey } from "./key.js";
import { startKeyboard } from "./keyboard.js";
import { Library } from "./library.js";
import { MapControls } from "./map-controls.js";
import { numberIn, readPlace, writePlace } from "./place.js";
import { Raster } from "./raster.js";
import { clearResult, showExports, showTiles, showVerdict } from "./result.js";
import { drawScaleBar } from "./scale-bar.js";
import { ScoreLayer } from "./score-layer.js";
import { SlideView, loadOpenSeadragon } from "./slide-view.js";
import { SubmitDialog } from "./submit.js";
import { startTheme } from "./theme.js";

const TOP_TILES = 12;

class App {
  #library = new Library();
  #submit = new SubmitDialog((next) => (location.hash = writePlace(next)));
  #shown = { kind: null, id: null };
  #slide = null;
  #leaving = new AbortController();
  #remember = settled(200, () => this.#writeAddress());

  constructor(view, tables) {
    this.view = view;
    if (view) {
      this.layer = new ScoreLayer(view, byId("scores"));
      this.controls = new MapControls(this.layer, tables, () => this.#remember(), (name) => this.#showClass(name));
      view.onChange(() => this.#followView());
      view.onPointer((point) => this.#followPointer(point));
    }
  }

  start() {
    startTheme(byId("theme"));
    this.#startButtons();
    startKeyboard(this.#keys());
    this.#library.start();
    addEventListener("hashchange", () => this.#show(readPlace(location.hash)));
    this.#show(readPlace(location.hash));
  }

  async #show({ kind, id, view }) {
    if (kind === this.#shown.kind && id === this.#shown.id) return this.#place(view);
    this.#leaving.abort();
    this.#leaving = new AbortController();
    const { signal } = this.#leaving;
    this.#shown = { kind, id };
    this.#slide = null;
    this.view?.close();
    this.layer?.clear();
    clearResult();
    this.#library.mark(kind, id);
    this.#mode(kind ?? "nothing");
    this.#say("");
    if (kind) this.#pane(kind === "jobs" ? "result" : "stage");
    try {
      if (kind === "slides") await this.#showSlide(id, view, signal);
      if (kind === "predictions") await this.#showPrediction(id, view, signal);
      if (kind === "jobs") await this.#showJob(id, signal);
    } catch (error) {
      if (!signal.aborted) this.#say(error.message);
    }
  }

  async #showSlide(id, view, signal) {
    const slide = await getJson(`slides/${id}`, { signal });
    if (!(await this.#openPlane(slide, view, signal))) return;
    fill(byId("verdict"), element("h2", {}, slide.name), element("p", { class: "quiet" }, "not predicted here"));
  }

  async #showPrediction(id, view, signal) {
    const answer = await getJson(`predictions/${id}`, { signal });
    showVerdict(answer);
    showExports(id, answer.prediction.slide_id, () => this.#mapLook(), (error) => this.#say(error.message));
    byId("map-part").hidden = !answer.links.map || !this.view;
    if (!answer.links.map) return this.#say("This prediction has no map: the bag has no coordinates.");
    const raster = await Raster.load(id, view.class);
    const slide = await this.#slideOf(answer, raster, signal);
    if (!this.view || !(await this.#openPlane(slide, view, signal))) return;
    this.controls.start(raster, view, view.class);
    const { tiles } = await getJson(withQuery(`predictions/${id}/tiles`, { count: TOP_TILES }), { signal });
    showTiles(tiles, (tile) => this.#goToTile(tile));
  }

  /** The slide of a prediction; an empty plane of its size where it was made from a bag, or the slide is gone. */
  async #slideOf(answer, { place }, signal) {
    const plane = { width: place.level0_width, height: place.level0_height, mpp_x: place.mpp_x };
    if (!answer.slide) return plane;
    try {
      const slide = await getJson(`slides/${answer.slide}`, { signal });
      return { ...slide, mpp_x: slide.mpp_x ?? place.mpp_x };
    } catch (error) {
      if (signal.aborted) throw error;
      this.#say(`The slide cannot be shown: ${error.message}`);
      return plane;
    }
  }

  async #openPlane(slide, view, signal) {
    if (!this.view || signal.aborted) return false;
    await this.view.open(slide);
    if (signal.aborted) return false;
    this.#slide = slide;
    byId("stage").classList.toggle("empty-plane", !slide.id);
    this.#place(view);
    this.#followView();
    return true;
  }

  #place({ x, y, zoom }) {
    const [left, top] = [numberIn(x, -1e9, 1e9), numberIn(y, -1e9, 1e9)];
    if (this.#slide && left !== null && top !== null) this.view.goTo(left, top, numberIn(zoom, 1e-6, 1e3), true);
  }

  async #showJob(id, signal) {
    await watchJob(id, (job) => {
      if (job.state === "done" && job.prediction) {
        this.#library.reload("predictions");
        this.#library.reload("jobs");
        location.replace(writePlace({ kind: "predictions", id: job.prediction }));
        return;
      }
      fill(byId("job"), jobPanel(job, () => cancelJob(id).then(() => this.#library.reload("jobs"), (error) => this.#say(error.message))));
    }, signal);
  }

  async #showClass(className) {
    const { id } = this.#shown;
    try {
      const raster = await Raster.load(id, className);
      if (id === this.#shown.id) this.controls.start(raster, this.controls.look, className);
    } catch (error) {
      this.#say(error.message);
    }
  }

  #goToTile({ x, y, width, height }) {
    this.#pane("stage");
    const seen = Math.min(byId("stage").clientWidth, byId("stage").clientHeight);
    this.view.goTo(x + width / 2, y + height / 2, (0.3 * seen) / Math.max(width, height));
  }

  #followView() {
    const open = this.#slide !== null && this.view.isOpen;
    drawScaleBar(open && this.#slide.mpp_x, open ? this.view.screenPixelsPerPixel : 1);
    if (open) this.#remember();
  }

  #followPointer(point) {
    const score = point && this.layer.raster?.columns ? this.layer.raster.scoreAt(point.x, point.y) : null;
    byId("pointer").textContent = point
      ? `${Math.round(point.x)}, ${Math.round(point.y)}${score === null ? "" : ` · score ${score.toFixed(2)}`}`
      : "";
  }

  #writeAddress() {
    const { kind, id } = this.#shown;
    if (!this.#slide || !this.view.isOpen) return;
    const { x, y, zoom } = this.view.place;
    const { opacity, threshold, colours, hide, className } = kind === "predictions" ? this.controls.look : {};
    const view = { x: Math.round(x), y: Math.round(y), zoom: Number(zoom.toPrecision(4)), opacity, threshold, colours, hide, class: className };
    history.replaceState(null, "", writePlace({ kind, id, view }));
  }

  #mapLook() {
    const { opacity, threshold, colours } = this.controls?.look ?? {};
    return { alpha: opacity, threshold, colormap: colours };
  }

  #startButtons() {
    const at = (id, work) => byId(id).addEventListener("click", work);
    at("submit", () => this.#openSubmit());
    at("help", () => byId("help-dialog").showModal());
    at("key", () => askForKey("The key is kept until this tab is closed."));
    at("zoom-in", () => this.#slide && this.view.zoomBy(1.6));
    at("zoom-out", () => this.#slide && this.view.zoomBy(1 / 1.6));
    at("home", () => this.#slide && this.view.home());
    at("map-toggle", () => this.controls?.toggle());
    at("copy-link", () => this.#copyLink());
    for (const pane of ["library", "stage", "result"]) at(`go-${pane}`, () => this.#pane(pane));
  }

  #openSubmit() {
    this.#submit.open(this.#slide?.id ? { id: this.#slide.id, name: this.#slide.name } : null);
  }

  async #copyLink() {
    this.#writeAddress();
    try {
      await navigator.clipboard.writeText(location.href);
      this.#say("The link to this view is copied.");
    } catch {
      this.#say("The browser lets no page copy here: take the link from its address bar.");
    }
  }

  #keys() {
    const view = (work) => (key) => this.#slide && work(key);
    const map = (work) => () => this.#slide && this.layer.raster && work();
    const pan = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] };
    return [
      [Object.keys(pan), "move", view((key) => this.view.panBy(...pan[key]))],
      [["+", "="], "closer", view(() => this.view.zoomBy(1.6))],
      [["-"], "farther", view(() => this.view.zoomBy(1 / 1.6))],
      [["0"], "the whole slide", view(() => this.view.home())],
      [["m"], "map on and off", map(() => this.controls.toggle())],
      [["o", "O"], "map more, less opaque", (key) => this.layer?.raster && this.controls.stepOpacity(key === "o" ? 0.1 : -0.1)],
      [["t", "T"], "threshold up, down", (key) => this.layer?.raster && this.controls.stepThreshold(key === "t" ? 0.05 : -0.05)],
      [["h"], "hide tiles below the threshold", map(() => this.controls.toggleBelow())],
      [["c"], "next colours", map(() => this.controls.nextColours())],
      [["n"], "next of the strongest tiles", map(() => this.#walkTiles())],
      [["p"], "predict a slide or a file", () => this.#openSubmit()],
      [["/"], "look for a slide", () => this.#look()],
      [["?"], "these keys", () => byId("help-dialog").showModal()],
    ];
  }

  #walkTiles() {
    const tiles = [...document.querySelectorAll("#top-tiles button")];
    const at = tiles.indexOf(document.activeElement);
    const next = tiles[(at + 1) % tiles.length];
    next?.focus();
    next?.click();
  }

  #look() {
    this.#pane("library");
    this.#library.show("slides");
    byId("slide-filter").focus();
  }

  /** On a narrow screen one of the three parts is seen at a time. */
  #pane(name) {
    document.body.dataset.pane = name;
    for (const pane of ["library", "stage", "result"]) byId(`go-${pane}`).setAttribute("aria-pressed", pane === name);
  }

  #mode(kind) {
    document.body.dataset.kind = kind;
    byId("welcome").hidden = kind !== "nothing";
  }

  #say(text) {
    byId("said").textContent = text;
  }
}

const [hasViewer, tables] = await Promise.all([loadOpenSeadragon(), loadColours()]);
byId("no-openseadragon").hidden = hasViewer;
const app = new App(hasViewer ? new SlideView(byId("slide")) : null, tables);
app.start();
document.documentElement.dataset.ready = "true";
