// The slide in OpenSeadragon. Positions are level-0 pixels everywhere outside this file.

import { urlOf } from "./api.js";
import { keyHeader } from "./key.js";

const LIBRARY = new URL("openseadragon.min.js", import.meta.url);
const MOST_SCREEN_PIXELS = 8;

/** Whether OpenSeadragon could be loaded; without it the slide cannot be shown, and everything else can. */
export function loadOpenSeadragon() {
  const script = document.createElement("script");
  script.src = LIBRARY;
  const loaded = new Promise((resolve) => {
    script.onload = () => resolve(true);
    script.onerror = () => resolve(false);
  });
  document.head.append(script);
  return loaded;
}

export class SlideView {
  #viewer;
  #plane = null;
  #seen = "nothing";
  #listeners = [];

  constructor(host) {
    this.#viewer = new OpenSeadragon.Viewer({
      element: host,
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: true,
      navigatorPosition: "BOTTOM_RIGHT",
      navigatorSizeRatio: 0.18,
      navigatorAutoFade: false,
      navigatorBackground: "#fff",
      navigatorBorderColor: "transparent",
      navigatorDisplayRegionColor: "#0f766e",
      navigatorOpacity: 0.92,
      maxZoomPixelRatio: MOST_SCREEN_PIXELS,
      minZoomImageRatio: 0.5,
      visibilityRatio: 0.2,
      animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.4,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true },
      imageSmoothingEnabled: true,
      placeholderFillStyle: "transparent",
    });
    this.#viewer.addHandler("update-viewport", () => this.#changed());
    this.#viewer.addHandler("resize", () => this.#changed());
    // The page has keys of its own, which work wherever the focus is.
    this.#viewer.addHandler("canvas-key", (event) => (event.preventDefaultAction = true));
  }

  /** Called after every change of what is seen. */
  onChange(listener) {
    this.#listeners.push(listener);
  }

  /** Called with the level-0 position under the pointer, null when it leaves. */
  onPointer(listener) {
    const host = this.#viewer.container;
    host.addEventListener("pointermove", (event) => {
      const box = host.getBoundingClientRect();
      listener(this.isOpen ? this.toSlide(event.clientX - box.left, event.clientY - box.top) : null);
    });
    host.addEventListener("pointerleave", () => listener(null));
  }

  get isOpen() {
    return this.#plane !== null && this.#viewer.isOpen();
  }

  get plane() {
    return this.#plane;
  }

  /**
   * Open a slide as the service describes it, or an empty plane {width, height} where there is no slide.
   * Resolves when positions can be asked for.
   */
  open(slide) {
    this.close();
    this.#plane = slide;
    const source = {
      width: slide.width,
      height: slide.height,
      tileSize: slide.tile_size ?? 512,
      tileOverlap: slide.tile_overlap ?? 0,
      minLevel: slide.min_level ?? 0,
      maxLevel: slide.max_level ?? Math.ceil(Math.log2(Math.max(slide.width, slide.height))),
      // The address names the version, so that what the browser keeps is never shown for a file that took the slide's place.
      getTileUrl: (level, column, row) =>
        urlOf(`slides/${slide.id}/tiles/${level}/${column}_${row}.jpg?version=${slide.version}`).href,
      ...(slide.id ? {} : { tileExists: () => false }),
    };
    return new Promise((resolve, reject) => {
      this.#viewer.addOnceHandler("open", () => {
        this.home(true);
        resolve();
      });
      this.#viewer.addOnceHandler("open-failed", (event) => reject(new Error(event.message)));
      // Tiles that are fetched can carry the key.
      this.#viewer.open({ tileSource: source, loadTilesWithAjax: true, ajaxHeaders: keyHeader() });
    });
  }

  close() {
    this.#plane = null;
    this.#viewer.close();
    this.#changed();
  }

  /** Show all of the slide that was scanned. */
  home(immediately = false) {
    const { bounds, width, height } = this.#plane;
    const [x, y, w, h] = bounds ?? [0, 0, width, height];
    this.#viewer.viewport.fitBounds(new OpenSeadragon.Rect(x / width, y / width, w / width, h / width), immediately);
  }

  /** Put a level-0 position into the middle; `scale` is screen pixels per level-0 pixel, as it is where not given. */
  goTo(x, y, scale = null, immediately = false) {
    const { viewport } = this.#viewer;
    viewport.panTo(this.#point(x, y), immediately);
    if (scale !== null) viewport.zoomTo((scale * this.#plane.width) / this.#width(), this.#point(x, y), immediately);
    viewport.applyConstraints(immediately);
  }

  zoomBy(factor) {
    this.#viewer.viewport.zoomBy(factor);
    this.#viewer.viewport.applyConstraints();
  }

  /** Move by a share of what is seen. */
  panBy(right, down) {
    const seen = this.#viewer.viewport.getBounds();
    this.#viewer.viewport.panBy(new OpenSeadragon.Point(right * seen.width, down * seen.height));
    this.#viewer.viewport.applyConstraints();
  }

  /** {x, y, zoom}: the level-0 position in the middle, and screen pixels per level-0 pixel. */
  get place() {
    const centre = this.#viewer.viewport.getCenter(true);
    return { x: centre.x * this.#plane.width, y: centre.y * this.#plane.width, zoom: this.screenPixelsPerPixel };
  }

  get screenPixelsPerPixel() {
    return (this.#viewer.viewport.getZoom(true) * this.#width()) / this.#plane.width;
  }

  /** Where a level-0 position is, in CSS pixels from the corner of the view. */
  toScreen(x, y) {
    return this.#viewer.viewport.pixelFromPoint(this.#point(x, y), true);
  }

  /** The level-0 position at CSS pixels from the corner of the view. */
  toSlide(x, y) {
    const point = this.#viewer.viewport.pointFromPixel(new OpenSeadragon.Point(x, y), true);
    return { x: point.x * this.#plane.width, y: point.y * this.#plane.width };
  }

  // OpenSeadragon counts both axes in widths of the picture.
  #point(x, y) {
    return new OpenSeadragon.Point(x / this.#plane.width, y / this.#plane.width);
  }

  #width() {
    return this.#viewer.viewport.getContainerSize().x;
  }

  // OpenSeadragon draws more often than the view changes: at each tile that arrives, and without end where there are none.
  #changed() {
    const seen = this.isOpen ? `${Object.values(this.place)} ${this.#viewer.viewport.getContainerSize()}` : "nothing";
    if (seen === this.#seen) return;
    this.#seen = seen;
    for (const listener of this.#listeners) listener();
  }
}
