// A bar of a round length, from the slide's micrometres per pixel.

import { byId } from "./dom.js";

const LONGEST = 140;

/** The largest 1, 2 or 5 times a power of ten that is at most `most`. */
export function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [5, 2, 1].map((step) => step * power).find((length) => length <= most * (1 + 1e-9));
}

/** Show the bar for a scale of `mpp` micrometres per level-0 pixel; nothing where it is not known. */
export function drawScaleBar(mpp, screenPixelsPerPixel) {
  byId("scale-bar").hidden = !mpp;
  if (!mpp) return;
  const micrometresPerScreenPixel = mpp / screenPixelsPerPixel;
  const length = roundLength(LONGEST * micrometresPerScreenPixel);
  byId("scale-line").style.width = `${length / micrometresPerScreenPixel}px`;
  // 10x is a micrometre per pixel, as scanners count.
  const magnification = 10 / micrometresPerScreenPixel;
  const text = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
  byId("scale-text").textContent = `${text} · ${magnification >= 10 ? Math.round(magnification) : magnification.toPrecision(2)}×`;
}
