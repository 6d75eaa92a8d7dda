// A prediction's scores: one byte a grid cell, and where the grid lies on the slide.

import { getJson, request, withQuery } from "./api.js";

/** Scores as bytes: 0 where no tile lies, else 1 + 254 x score; and their place in level-0 pixels. */
export class Raster {
  constructor(values, columns, rows, place) {
    Object.assign(this, { values, columns, rows, place });
  }

  static async load(prediction, className = null) {
    const [place, picture] = await Promise.all([
      getJson(`predictions/${prediction}/raster.json`),
      request(withQuery(`predictions/${prediction}/raster.png`, { class: className })).then((answer) => answer.blob()),
    ]);
    if (!place.columns) return new Raster(new Uint8Array(0), 0, 0, place);
    return new Raster(await bytesOf(picture), place.columns, place.rows, place);
  }

  /** The score of the cell at a level-0 position, null where no tile lies. */
  scoreAt(x, y) {
    const { place, columns, rows } = this;
    const column = Math.floor(((x - place.x) / place.width) * columns);
    const row = Math.floor(((y - place.y) / place.height) * rows);
    const inside = column >= 0 && column < columns && row >= 0 && row < rows;
    const value = inside ? this.values[row * columns + column] : 0;
    return value ? (value - 1) / 254 : null;
  }

  /** How many cells there are, and how many reach the threshold. */
  count(threshold) {
    const least = this.leastByte(threshold);
    let tiles = 0;
    let above = 0;
    for (const value of this.values) {
      if (value) tiles++;
      if (value >= least) above++;
    }
    return { tiles, above };
  }

  /** The least byte of a cell that a threshold marks; beyond all bytes where all scores are equal and tell nothing apart. */
  leastByte(threshold) {
    const tiles = this.values.filter((value) => value);
    const equal = tiles.length > 1 && tiles.every((value) => value === tiles[0]);
    return equal && threshold > 0 ? 256 : byteOf(threshold);
  }

  /** Level-0 pixels that a cell covers, squared. */
  get cellArea() {
    return (this.place.width / this.columns) * (this.place.height / this.rows);
  }
}

/** The least byte of a cell whose score reaches the threshold. */
const byteOf = (threshold) => 1 + Math.round(254 * threshold);

async function bytesOf(picture) {
  const image = await createImageBitmap(picture, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height).data;
  const values = new Uint8Array(image.width * image.height);
  for (let i = 0; i < values.length; i++) values[i] = pixels[4 * i + 3] ? pixels[4 * i] : 0;
  return values;
}
