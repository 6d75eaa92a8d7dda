// Colour tables: the same that the service draws its map pictures with.

import { element } from "./dom.js";

const TABLES = new URL("colour-maps.json", import.meta.url);

/** {name: Uint8ClampedArray of 256 x RGB}, in the order in which they are offered. */
export async function loadColours() {
  const tables = await (await fetch(TABLES)).json();
  return Object.fromEntries(Object.entries(tables).map(([name, hexes]) => [name, bytesOf(hexes)]));
}

function bytesOf(hexes) {
  const table = new Uint8ClampedArray(3 * hexes.length);
  hexes.forEach((hex, i) => {
    for (let channel = 0; channel < 3; channel++) {
      table[3 * i + channel] = parseInt(hex.slice(1 + 2 * channel, 3 + 2 * channel), 16);
    }
  });
  return table;
}

/** A bar of the table's colours from score 0 to 1. */
export function drawLegend(canvas, table) {
  canvas.width = 256;
  canvas.height = 1;
  const row = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) row.data.set([...table.subarray(3 * i, 3 * i + 3), 255], 4 * i);
  canvas.getContext("2d").putImageData(row, 0, 0);
}

export const colourOptions = (tables) => Object.keys(tables).map((name) => element("option", { value: name }, name));
