/** Scale bar: a length of 1, 2 or 5 times a power of ten that fits its place. */

import { byId, setText } from "./dom.js";
import { length } from "./format.js";

/** Longest bar in CSS pixels. */
const LONGEST = 150;

/**
 * @param {number} pixelsPerUm
 * @param {number} longest pixels
 * @returns {number} µm
 */
export function barLength(pixelsPerUm, longest = LONGEST) {
  const most = longest / pixelsPerUm;
  const power = 10 ** Math.floor(Math.log10(most));
  const factor = [5, 2, 1].find((step) => step * power <= most) ?? 1;
  return Number((factor * power).toPrecision(1));
}

export class ScaleBar {
  #bar = byId("scale-bar", HTMLElement);
  #label = byId("scale-label", HTMLElement);
  #line = byId("scale-line", HTMLElement);

  /** @param {number} pixelsPerUm CSS pixels per µm, 0 while nothing is shown */
  update(pixelsPerUm) {
    this.#bar.hidden = pixelsPerUm <= 0;
    if (pixelsPerUm <= 0) return;
    const um = barLength(pixelsPerUm);
    this.#line.style.width = `${um * pixelsPerUm}px`;
    setText(this.#label, length(um));
  }
}
