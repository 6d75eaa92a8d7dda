// The map over the slide: the raster coloured once, then drawn at its level-0 corners at each change of the view.


const OUTLINE = "rgb(20 20 24 / 0.9)";
const PLANE = "rgb(250 250 250)";
const FOOTPRINT = [222, 225, 230, 255];

export class ScoreLayer {
  #canvas;
  #view;
  #raster = null;
  #coloured = null;
  #outline = null;
  #footprint = null;
  #look = { opacity: 0.6, threshold: 0.5, table: null, hideBelow: false, visible: true };

  /**
   * @param view where things are on the screen; see SlideView.
   * @param canvas lies over the slide and covers the same pixels.
   */
  constructor(view, canvas) {
    this.#view = view;
    this.#canvas = canvas;
    view.onChange(() => this.draw());
  }

  get raster() {
    return this.#raster;
  }

  show(raster) {
    this.#raster = raster;
    this.#paint();
  }

  clear() {
    this.show(null);
  }

  /** Change opacity (of a tile with score 1), threshold, table of colours, hideBelow or visible. */
  set(change) {
    const before = this.#look;
    this.#look = { ...before, ...change };
    const repaint = ["threshold", "table", "hideBelow"].some((name) => before[name] !== this.#look[name]);
    if (repaint) this.#paint();
    else this.draw();
  }

  draw() {
    const canvas = this.#canvas;
    const ratio = devicePixelRatio;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.#view.isOpen) return;
    const bare = !this.#view.plane.id;
    if (bare) this.#drawPlane(context, ratio);
    if (!this.#coloured || !this.#look.visible) return;
    const { place, columns, rows } = this.#raster;
    const corner = this.#view.toScreen(place.x, place.y);
    const scale = this.#view.screenPixelsPerPixel;
    const cell = { width: (place.width / columns) * scale, height: (place.height / rows) * scale };
    context.setTransform(cell.width * ratio, 0, 0, cell.height * ratio, corner.x * ratio, corner.y * ratio);
    // Cells stay sharp squares; only where several share a screen pixel are they averaged.
    context.imageSmoothingEnabled = cell.width * ratio < 1;
    if (bare) context.drawImage(this.#footprint, 0, 0);
    context.globalAlpha = this.#look.opacity;
    context.drawImage(this.#coloured, 0, 0);
    if (cell.width * ratio < 2) return;
    context.globalAlpha = Math.min(1, 2 * this.#look.opacity);
    context.lineWidth = (1.25 * ratio) / (cell.width * ratio);
    context.strokeStyle = OUTLINE;
    context.stroke(this.#outline);
  }

  /** The slide's extent, where there is no slide to show. */
  #drawPlane(context, ratio) {
    const { width, height } = this.#view.plane;
    const corner = this.#view.toScreen(0, 0);
    const scale = this.#view.screenPixelsPerPixel * ratio;
    context.fillStyle = PLANE;
    context.fillRect(corner.x * ratio, corner.y * ratio, width * scale, height * scale);
  }

  #paint() {
    const { table, threshold, hideBelow } = this.#look;
    const raster = this.#raster;
    this.#coloured = this.#outline = this.#footprint = null;
    if (raster?.columns && table) {
      const least = raster.leastByte(threshold);
      this.#coloured = coloured(raster, table, hideBelow ? least : 1);
      this.#outline = outlineOf(raster, least);
      this.#footprint = footprintOf(raster);
    }
    this.draw();
  }
}

/** Cells in their score's colour; as in the map pictures, opacity grows with the score. */
function coloured({ values, columns, rows }, table, least) {
  const image = new ImageData(columns, rows);
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (!value || value < least) continue;
    const score = (value - 1) / 254;
    const colour = 3 * Math.round(255 * score);
    image.data[4 * i] = table[colour];
    image.data[4 * i + 1] = table[colour + 1];
    image.data[4 * i + 2] = table[colour + 2];
    image.data[4 * i + 3] = Math.round(255 * score);
  }
  return pictureOf(image);
}

/** Where tiles lie, in one colour. */
function footprintOf({ values, columns, rows }) {
  const image = new ImageData(columns, rows);
  values.forEach((value, i) => value && image.data.set(FOOTPRINT, 4 * i));
  return pictureOf(image);
}

function pictureOf(image) {
  const canvas = new OffscreenCanvas(image.width, image.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** The border between cells that reach the threshold and the others, in cells; neighbouring pieces are one line. */
function outlineOf({ values, columns, rows }, least) {
  const above = (column, row) =>
    column >= 0 && column < columns && row >= 0 && row < rows && values[row * columns + column] >= least;
  const path = new Path2D();
  const trace = (lines, length, differs, line) => {
    for (let at = 0; at <= lines; at++) {
      let start = -1;
      for (let i = 0; i <= length; i++) {
        const edge = i < length && differs(at, i);
        if (edge && start < 0) start = i;
        if (!edge && start >= 0) {
          line(at, start, i);
          start = -1;
        }
      }
    }
  };
  trace(rows, columns, (y, x) => above(x, y - 1) !== above(x, y), (y, from, to) => {
    path.moveTo(from, y);
    path.lineTo(to, y);
  });
  trace(columns, rows, (x, y) => above(x - 1, y) !== above(x, y), (x, from, to) => {
    path.moveTo(x, from);
    path.lineTo(x, to);
  });
  return path;
}
