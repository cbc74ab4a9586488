/** The value under the pointer: what is shown there, and the exact float32 of that pixel. */

/** @import { Frame, Kind } from "./types.js" */
/** @import { Viewport } from "./viewport.js" */

import { byId, setText } from "./dom.js";
import { VALUES } from "./float16.js";
import { fixed } from "./format.js";
import { readPixel } from "./rest.js";

/** The exact value is asked for at most this often. */
const EXACT_EVERY_MS = 200;

export class Readout {
  #position = byId("readout-position", HTMLElement);
  #pixel = byId("readout-pixel", HTMLElement);
  #shown = byId("readout-shown", HTMLElement);
  #exact = byId("readout-exact", HTMLElement);
  /** @type {[number, number] | null} */
  #pointer = null;
  /** Which pixel the exact value belongs to that stands there. */
  #exactFor = "";
  #asking = false;
  #askedAt = -Infinity;
  #timer = 0;

  /**
   * @param {Viewport} viewport
   * @param {() => Frame | null} frame
   */
  constructor(viewport, frame) {
    this.viewport = viewport;
    this.frame = frame;
    /** Whether the service can be asked for exact values. */
    this.online = false;
  }

  /** @param {[number, number] | null} position in canvas pixels, null when the pointer has left */
  point(position) {
    this.#pointer = position;
    this.update();
  }

  /** Write the values again: the pointer moved, or there is a new frame. */
  update() {
    const frame = this.frame();
    const pixel = frame && this.#pixelUnderPointer(frame);
    if (!frame || !pixel) {
      for (const part of [this.#position, this.#pixel, this.#shown, this.#exact]) setText(part, "");
      this.#exactFor = "";
      return;
    }
    const { header } = frame;
    setText(this.#position, `x ${fixed(pixel.xUm, 2)}  y ${fixed(pixel.yUm, 2)} µm`);
    setText(this.#pixel, `px ${pixel.x}, ${pixel.y}`);
    setText(this.#shown, shownValue(frame, pixel.x, pixel.y));
    const key = `${header.kind} ${pixel.x} ${pixel.y}`;
    if (this.#exactFor !== key) setText(this.#exact, "");
    this.#askExact(header.kind, pixel.x, pixel.y, key);
  }

  /** @param {Frame} frame */
  #pixelUnderPointer({ header }) {
    if (!this.#pointer || !this.viewport.known) return null;
    const [xUm, yUm] = this.viewport.toField(...this.#pointer);
    const x = Math.floor(xUm / header.pixel_um);
    const y = Math.floor(yUm / header.pixel_um);
    const inside = x >= 0 && y >= 0 && x < header.full_width && y < header.full_height;
    return inside ? { x, y, xUm, yUm } : null;
  }

  /**
   * @param {Kind} kind
   * @param {number} x
   * @param {number} y
   * @param {string} key
   */
  #askExact(kind, x, y, key) {
    clearTimeout(this.#timer);
    if (!this.online) return;
    const wait = this.#askedAt + EXACT_EVERY_MS - performance.now();
    if (this.#asking || wait > 0) {
      this.#timer = setTimeout(() => this.update(), Math.max(wait, 20));
      return;
    }
    const known = this.#exactFor === key && this.#exact.dataset.seq === String(this.frame()?.header.seq);
    if (known) return;
    this.#asking = true;
    this.#askedAt = performance.now();
    readPixel(kind, x, y).then(
      ({ seq, value }) => {
        this.#asking = false;
        this.#exactFor = key;
        this.#exact.dataset.seq = String(seq);
        this.#exact.dataset.value = String(value);
        setText(this.#exact, `exact ${withUnit(value, kind, 4)} · frame ${seq}`);
        this.update();
      },
      () => {
        // a banner says what is wrong with the service; the exact value just is not there
        this.#asking = false;
        this.#exactFor = "";
        setText(this.#exact, "");
      },
    );
  }
}

/**
 * What is drawn at a pixel, and of how many pixels it is the mean.
 *
 * @param {Frame} frame
 * @param {number} x
 * @param {number} y
 */
export function shownValue({ header, bits }, x, y) {
  const column = Math.floor((x - header.x) / header.bin);
  const row = Math.floor((y - header.y) / header.bin);
  if (column < 0 || row < 0 || column >= header.width || row >= header.height) return "";
  const value = VALUES[bits[row * header.width + column]];
  if (!Number.isFinite(value)) return "no data";
  if (header.bin === 1) return withUnit(value, header.kind, 3);
  return `${withUnit(value, header.kind, 3)} (mean of ${header.bin} × ${header.bin} px)`;
}

/**
 * @param {number} value
 * @param {Kind} kind
 * @param {number} digits of a phase
 */
function withUnit(value, kind, digits) {
  if (!Number.isFinite(value)) return "no data";
  if (kind === "phase") return `${fixed(value, digits)} rad`;
  return `${fixed(value, Number.isInteger(value) ? 0 : 1)} counts`;
}
