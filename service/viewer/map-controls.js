// Opacity, threshold, colours and class of the map, and the words that go with them.

import { colourOptions, drawLegend } from "./colours.js";
import { byId, element, fill } from "./dom.js";
import { numberIn } from "./place.js";
import { plural, squareMillimetres } from "./words.js";

const OPACITY = 0.6;

export class MapControls {
  #layer;
  #tables;
  #own = 0.5;
  #changed;
  #classChanged;

  /**
   * @param layer the ScoreLayer that follows the controls.
   * @param tables of loadColours().
   * @param changed called after any change; `classChanged` with the class whose scores are wanted, null for the predicted one.
   */
  constructor(layer, tables, changed, classChanged) {
    Object.assign(this, { look: {} });
    this.#layer = layer;
    this.#tables = tables;
    this.#changed = changed;
    this.#classChanged = classChanged;
    fill(byId("colours"), colourOptions(tables));
    for (const id of ["opacity", "threshold", "colours", "hide-below"]) byId(id).addEventListener("input", () => this.#apply());
    byId("threshold-reset").addEventListener("click", () => this.setThreshold(this.#own));
    byId("map-class").addEventListener("change", () => this.#classChanged(byId("map-class").value || null));
  }

  /** Begin with a prediction's raster, and the look that the address asks for. */
  start(raster, { opacity, threshold, colours, hide }, className) {
    const { place } = raster;
    this.#own = place.threshold;
    byId("opacity").value = numberIn(opacity, 0, 1) ?? OPACITY;
    byId("threshold").value = numberIn(threshold, 0, 1) ?? this.#own;
    byId("colours").value = colours in this.#tables ? colours : Object.keys(this.#tables)[0];
    byId("hide-below").checked = hide === "1";
    const classes = place.classes.map((name) => element("option", { value: name }, name));
    fill(byId("map-class"), element("option", { value: "" }, "the predicted finding"), classes);
    byId("map-class").value = className ?? "";
    byId("map-class-row").hidden = !classes.length;
    this.#layer.show(raster);
    this.#apply();
  }

  setThreshold(value) {
    byId("threshold").value = value;
    this.#apply();
  }

  stepOpacity(by) {
    byId("opacity").valueAsNumber += by;
    this.#apply();
  }

  stepThreshold(by) {
    byId("threshold").valueAsNumber += by;
    this.#apply();
  }

  toggleBelow() {
    byId("hide-below").checked = !byId("hide-below").checked;
    this.#apply();
  }

  nextColours() {
    const field = byId("colours");
    field.selectedIndex = (field.selectedIndex + 1) % field.length;
    this.#apply();
  }

  toggle() {
    this.visible = !(this.visible ?? true);
    this.#layer.set({ visible: this.visible });
    byId("map-toggle").setAttribute("aria-pressed", this.visible);
  }

  #apply() {
    const opacity = byId("opacity").valueAsNumber;
    const threshold = byId("threshold").valueAsNumber;
    const colours = byId("colours").value;
    const hideBelow = byId("hide-below").checked;
    this.look = { opacity, threshold, colours, hide: hideBelow ? 1 : null, className: byId("map-class").value || null };
    byId("opacity-value").textContent = `${Math.round(100 * opacity)} %`;
    byId("threshold-value").textContent = threshold.toFixed(2);
    byId("threshold-reset").hidden = Math.abs(threshold - this.#own) < 0.005;
    byId("threshold-reset").textContent = `back to the model's ${this.#own.toFixed(2)}`;
    byId("legend-mark").style.left = `${100 * threshold}%`;
    drawLegend(byId("legend"), this.#tables[colours]);
    this.#layer.set({ opacity, threshold, table: this.#tables[colours], hideBelow });
    this.#sayArea(threshold);
    this.#changed();
  }

  #sayArea(threshold) {
    const { raster } = this.#layer;
    const { tiles, above } = raster?.columns ? raster.count(threshold) : { tiles: 0, above: 0 };
    const { mpp_x: mppX, mpp_y: mppY } = raster?.place ?? {};
    const part = tiles ? `${((100 * above) / tiles).toFixed(1)} % of the tissue` : plural(0, "tile");
    const area = mppX && tiles ? `${squareMillimetres(above * raster.cellArea * mppX * mppY)}, ` : "";
    byId("area").textContent = `At or above the threshold: ${area}${part}`;
  }
}
