// The panel on the right: what the model says of the slide, and what to take away.

import { download, withQuery } from "./api.js";
import { byId, element, fill } from "./dom.js";
import { lazyPicture } from "./list.js";
import { share } from "./words.js";

const MOST_CLASSES = 8;

/** Empties the panel, so that nothing of one slide stands beside another while that loads, or where it cannot be shown. */
export function clearResult() {
  for (const part of ["verdict", "probabilities", "facts", "exports", "job"]) fill(byId(part));
  byId("map-part").hidden = true;
  showTiles([], null);
}

/** The verdict: label, probability, whether the slide is one that the model knows the like of. */
export function showVerdict(answer) {
  const { prediction } = answer;
  const outside = answer.out_of_distribution ?? prediction.out_of_distribution;
  fill(byId("verdict"),
    element("h2", {}, prediction.slide_id),
    prediction.label === null
      ? element("p", { class: "label" }, "no prediction")
      : element("p", { class: prediction.positive ? "label positive" : "label" },
          prediction.label, element("span", { class: "confidence" }, share(prediction.confidence))),
    prediction.task && element("p", { class: "quiet" },
      prediction.mode === "task-incremental" ? `task given: ${prediction.task}` : `task: ${prediction.task}`),
    outside?.flag && element("p", { class: "warning", role: "alert" },
      prediction.mode === "task-incremental"
        ? `Unlike the slides of ${prediction.task} that the model has learned from: do not rely on this prediction.`
        : "Unlike the slides that the model has learned from: do not rely on this prediction."),
    prediction.notes.map((note) => element("p", { class: "quiet" }, note)));
  fill(byId("probabilities"), probabilityRows(prediction));
  fill(byId("facts"), facts(answer, outside));
}

function probabilityRows({ probabilities, task, label }) {
  const sorted = Object.entries(probabilities ?? {}).sort(([, a], [, b]) => b - a);
  const rows = sorted.slice(0, MOST_CLASSES).map(([name, value]) =>
    element("li", { class: name === `${task}/${label}` || name === label ? "chosen" : "" },
      element("span", {}, name),
      element("meter", { min: 0, max: 1, value, "aria-label": `${name}: ${share(value)}` }),
      element("span", { class: "number" }, share(value))));
  const left = sorted.length - rows.length;
  return left > 0 ? [...rows, element("li", { class: "quiet" }, `and ${left} more below ${share(sorted[MOST_CLASSES - 1][1])}`)] : rows;
}

function facts(answer, outside) {
  const { model } = answer.prediction;
  const named = [
    ["Model", `${model.name ?? model.run}, version ${model.version}`],
    outside && ["Distance from known slides", `${outside.score.toFixed(2)}${outside.threshold ? ` (limit ${outside.threshold.toFixed(2)})` : ""}`],
    !outside && ["Unknown slides", "this model cannot tell"],
    ["Tiles", answer.instances.count.toLocaleString("en")],
    answer.created && ["Made", new Date(answer.created).toLocaleString("en-GB")],
  ];
  return named.filter(Boolean).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
}

/** The strongest tiles; each leads to its place on the slide. */
export function showTiles(tiles, go) {
  byId("top-tiles-part").hidden = !tiles.length;
  fill(byId("top-tiles"), tiles.map((tile) =>
    element("li", {},
      element("button", { class: "tile", click: () => go(tile), "aria-label": `tile ${tile.rank}, score ${tile.score.toFixed(2)}: show its place` },
        tile.image ? lazyPicture(tile.image, { class: "tile-picture" }) : element("span", { class: "tile-picture none" }, `${tile.rank}`),
        element("span", { class: "number" }, tile.score.toFixed(2))))));
}

/** Buttons that save the map, its regions, the bag and the numbers. `look` gives the map's present look. */
export function showExports(id, name, look, failed) {
  const base = `predictions/${id}`;
  const files = [
    ["Map (PNG)", () => [withQuery(`${base}/map.png`, { width: 2048, ...look() }), `${name}-map.png`]],
    ["Tiles (GeoJSON)", () => [withQuery(`${base}/map.geojson`, { minimum_score: look().threshold }), `${name}-tiles.geojson`]],
    ["Regions (GeoJSON)", () => [withQuery(`${base}/map.geojson`, { minimum_score: look().threshold, merge: true }), `${name}-regions.geojson`]],
    ["Bag (HDF5)", () => [`${base}/bag.h5`, `${name}.h5`]],
    ["Numbers (JSON)", () => [`${base}/instances`, `${name}.json`]],
  ];
  fill(byId("exports"), files.map(([title, what]) =>
    element("button", { click: () => download(...what()).catch(failed) }, title)));
}
