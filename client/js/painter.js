/** Puts the newest frame on the canvas: float16 through the colour table, then placed by the viewport. */

/** @import { Frame } from "./types.js" */
/** @import { Viewport } from "./viewport.js" */

/** From this many canvas pixels per image pixel on, pixels are shown as squares. */
const NEAREST_FROM = 2;
const HATCH_STEP = 8;

export class Painter {
  /** @type {Frame | null} */
  #frame = null;
  /** @type {ImageData | null} */
  #pixels = null;
  #coloured = new OffscreenCanvas(1, 1);
  #context;
  #colouredContext;
  #hatch;
  #mustColour = false;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Viewport} viewport
   */
  constructor(canvas, viewport) {
    this.canvas = canvas;
    this.viewport = viewport;
    this.#context = context2d(canvas);
    this.#colouredContext = context2d(this.#coloured);
    this.#hatch = hatch(this.#context);
    /** Colours of the float16 bit patterns. */
    this.table = new Uint32Array(65536);
  }

  get frame() {
    return this.#frame;
  }

  /** @param {Frame} frame */
  setFrame(frame) {
    this.#frame = frame;
    this.#mustColour = true;
  }

  /** Colour the present frame again: the table has changed. */
  recolour() {
    this.#mustColour = true;
  }

  paint() {
    const { width, height } = this.canvas;
    const context = this.#context;
    context.clearRect(0, 0, width, height);
    const frame = this.#frame;
    if (!frame || !this.viewport.known) return;
    if (this.#mustColour) this.#colour(frame);

    const { header } = frame;
    const binUm = header.bin * header.pixel_um;
    const [left, top] = this.viewport.toCanvas(header.x * header.pixel_um, header.y * header.pixel_um);
    const side = binUm * this.viewport.scale;
    const [fieldLeft, fieldTop] = this.viewport.toCanvas(0, 0);
    const fieldWidth = this.viewport.fieldWidth * this.viewport.scale;
    const fieldHeight = this.viewport.fieldHeight * this.viewport.scale;
    context.save();
    context.beginPath();
    // bins at the far edges reach beyond the field
    context.rect(fieldLeft, fieldTop, fieldWidth, fieldHeight);
    context.clip();
    // what is not finite is transparent: the hatching below it says that there is no data
    context.fillStyle = this.#hatch;
    context.fillRect(left, top, header.width * side, header.height * side);
    context.imageSmoothingEnabled = side < NEAREST_FROM;
    context.imageSmoothingQuality = "medium";
    context.drawImage(this.#coloured, left, top, header.width * side, header.height * side);
    context.restore();
  }

  /** @param {Frame} frame */
  #colour(frame) {
    const { width, height } = frame.header;
    if (!this.#pixels || this.#pixels.width !== width || this.#pixels.height !== height) {
      this.#coloured.width = width;
      this.#coloured.height = height;
      this.#pixels = this.#colouredContext.createImageData(width, height);
    }
    const target = new Uint32Array(this.#pixels.data.buffer);
    const { bits } = frame;
    const { table } = this;
    for (let i = 0; i < target.length; i++) target[i] = table[bits[i]];
    this.#colouredContext.putImageData(this.#pixels, 0, 0);
    this.#mustColour = false;
  }
}

/**
 * @template {HTMLCanvasElement | OffscreenCanvas} C
 * @param {C} canvas
 * @returns {C extends HTMLCanvasElement ? CanvasRenderingContext2D : OffscreenCanvasRenderingContext2D}
 */
function context2d(canvas) {
  const context = canvas.getContext("2d");
  if (!context) throw new Error("this browser gives no 2D canvas");
  return /** @type {any} */ (context);
}

/** @param {CanvasRenderingContext2D} context */
function hatch(context) {
  const tile = new OffscreenCanvas(HATCH_STEP, HATCH_STEP);
  const draw = context2d(tile);
  draw.fillStyle = "#17191d";
  draw.fillRect(0, 0, HATCH_STEP, HATCH_STEP);
  draw.strokeStyle = "#2c3037";
  draw.beginPath();
  for (const offset of [-HATCH_STEP, 0, HATCH_STEP]) {
    draw.moveTo(offset, HATCH_STEP);
    draw.lineTo(offset + HATCH_STEP, 0);
  }
  draw.stroke();
  const pattern = context.createPattern(tile, "repeat");
  if (!pattern) throw new Error("this browser gives no canvas pattern");
  return pattern;
}
