/** Colour map and contrast limits, one set for phase and one for raw; the colour bar and its inputs. */

/** @import { ColormapName } from "./colormaps.js" */
/** @import { Frame, Kind } from "./types.js" */

import { COLORMAPS, colormap } from "./colormaps.js";
import { byId, setText } from "./dom.js";
import { VALUES, colourTable } from "./float16.js";

/** Pixels looked at for automatic limits: enough for a percentile, and sorted in a few milliseconds. */
const SAMPLES = 40_000;
const LOW_QUANTILE = 0.005;
const HIGH_QUANTILE = 0.999;

/** @typedef {{colormap: ColormapName, low: number, high: number, chosen: boolean}} Settings */

export class Contrast {
  /** @type {Record<Kind, Settings>} */
  #settings = {
    phase: { colormap: "magma", low: 0, high: 4, chosen: false },
    raw: { colormap: "grey", low: 0, high: 255, chosen: false },
  };
  /** @type {Kind} */
  #kind = "phase";
  #low = byId("limit-low", HTMLInputElement);
  #high = byId("limit-high", HTMLInputElement);
  #select = byId("colormap", HTMLSelectElement);
  #unit = byId("limit-unit", HTMLElement);
  #bar;

  /**
   * @param {Uint32Array} table colours of the float16 bit patterns, kept up to date
   * @param {() => void} changed called after the table has changed
   */
  constructor(table, changed) {
    this.table = table;
    this.changed = changed;
    const bar = byId("colour-bar", HTMLCanvasElement);
    const context = bar.getContext("2d");
    if (!context) throw new Error("this browser gives no 2D canvas");
    this.#bar = context;
    for (const name of COLORMAPS) this.#select.append(new Option(name, name));
    this.#select.addEventListener("change", () => {
      this.#settings[this.#kind].colormap = /** @type {ColormapName} */ (this.#select.value);
      this.#apply();
    });
    for (const input of [this.#low, this.#high]) {
      input.addEventListener("input", () => this.#typed(input));
      input.addEventListener("blur", () => this.#write());
    }
    this.#apply();
  }

  /** The colour map and limits in use. */
  get shown() {
    const { colormap, low, high } = this.#settings[this.#kind];
    if (colormap !== "diverging") return { colormap, low, high };
    // pinned at 0: equal distances from 0 look equally far from the centre
    const reach = Math.max(Math.abs(low), Math.abs(high));
    return { colormap, low: -reach, high: reach };
  }

  /** @param {Kind} kind */
  show(kind) {
    if (kind === this.#kind) return;
    this.#kind = kind;
    this.#apply();
  }

  nextColormap() {
    const settings = this.#settings[this.#kind];
    settings.colormap = COLORMAPS[(COLORMAPS.indexOf(settings.colormap) + 1) % COLORMAPS.length];
    this.#apply();
  }

  /**
   * Limits from the first frame of a kind; later ones change nothing.
   *
   * @param {Frame} frame
   */
  begin(frame) {
    if (!this.#settings[frame.header.kind].chosen) this.auto(frame);
  }

  /**
   * Limits that show almost all of what the frame shows.
   *
   * @param {Frame} frame
   */
  auto(frame) {
    const values = samples(frame);
    if (values.length === 0) return;
    const low = values[Math.floor(LOW_QUANTILE * (values.length - 1))];
    const high = values[Math.ceil(HIGH_QUANTILE * (values.length - 1))];
    const step = frame.header.kind === "phase" ? 0.05 : 1;
    const settings = this.#settings[frame.header.kind];
    settings.low = round(Math.floor(low / step) * step);
    settings.high = round(Math.max(Math.ceil(high / step), Math.floor(low / step) + 1) * step);
    settings.chosen = true;
    this.#apply();
  }

  /** @param {HTMLInputElement} input */
  #typed(input) {
    const settings = this.#settings[this.#kind];
    const diverging = settings.colormap === "diverging";
    const value = Number(input.value);
    const isNumber = input.value.trim() !== "" && Number.isFinite(value);
    let low = input === this.#low ? value : Number(this.#low.value);
    let high = input === this.#high ? value : Number(this.#high.value);
    if (diverging) [low, high] = [-Math.abs(value), Math.abs(value)];
    const valid = isNumber && low < high;
    input.setAttribute("aria-invalid", String(!valid));
    if (!valid) return;
    Object.assign(settings, { low, high, chosen: true });
    this.#apply(input);
  }

  /** @param {HTMLInputElement} [typedInto] left as it is, somebody is writing there */
  #apply(typedInto) {
    const { colormap: name, low, high } = this.shown;
    const entries = colormap(name);
    colourTable(entries, low, high, this.table);
    this.#write(typedInto);
    this.#select.value = name;
    setText(this.#unit, this.#kind === "phase" ? "rad" : "counts");
    const pixels = new Uint32Array(entries);
    this.#bar.putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), 256, 1), 0, 0);
    this.changed();
  }

  /** @param {HTMLInputElement} [except] */
  #write(except) {
    const { low, high } = this.shown;
    for (const [input, value] of /** @type {const} */ ([[this.#low, low], [this.#high, high]])) {
      if (input === except) continue;
      input.value = String(value);
      input.removeAttribute("aria-invalid");
    }
  }
}

/**
 * @param {Frame} frame
 * @returns {Float32Array} finite values of a part of the pixels, ascending
 */
function samples({ bits }) {
  // an odd step does not fall on the same columns in every row
  const step = Math.max(1, Math.floor(bits.length / SAMPLES)) | 1;
  const values = new Float32Array(Math.ceil(bits.length / step));
  let count = 0;
  for (let i = 0; i < bits.length; i += step) {
    const value = VALUES[bits[i]];
    if (Number.isFinite(value)) values[count++] = value;
  }
  return values.subarray(0, count).sort();
}

/** @param {number} value without the dust of binary fractions */
function round(value) {
  return Number(value.toFixed(4));
}
