/** Geometry: which part of the field of view lies where on the canvas. Lengths in µm and in canvas pixels. */

/** @import { Kind } from "./types.js" */

/** Canvas pixels along the side of one HR pixel at the highest zoom. */
const CLOSEST = 48;

export class Viewport {
  constructor() {
    this.canvasWidth = 1;
    this.canvasHeight = 1;
    this.fieldWidth = 0;
    this.fieldHeight = 0;
    this.hrPixelUm = 1;
    /** Canvas pixels per µm. */
    this.scale = 1;
    /** Field position at the centre of the canvas. */
    this.centreX = 0;
    this.centreY = 0;
    /** Whether the whole field is shown, and goes on being shown when the canvas changes its size. */
    this.fitted = true;
  }

  /** Whether anything is known about the field. */
  get known() {
    return this.fieldWidth > 0;
  }

  get fitScale() {
    return Math.min(this.canvasWidth / this.fieldWidth, this.canvasHeight / this.fieldHeight);
  }

  /** Canvas pixels per HR pixel. */
  get zoom() {
    return this.scale * this.hrPixelUm;
  }

  /**
   * @param {number} width canvas pixels
   * @param {number} height canvas pixels
   */
  resize(width, height) {
    this.canvasWidth = width;
    this.canvasHeight = height;
    this.#settle();
  }

  /**
   * @param {number} widthUm
   * @param {number} heightUm
   * @param {number} hrPixelUm
   * @returns {boolean} whether the field is another one than before
   */
  setField(widthUm, heightUm, hrPixelUm) {
    const same =
      Math.abs(widthUm - this.fieldWidth) < hrPixelUm &&
      Math.abs(heightUm - this.fieldHeight) < hrPixelUm &&
      hrPixelUm === this.hrPixelUm;
    if (same) return false;
    this.fieldWidth = widthUm;
    this.fieldHeight = heightUm;
    this.hrPixelUm = hrPixelUm;
    this.fit();
    return true;
  }

  fit() {
    this.fitted = true;
    this.#settle();
  }

  /**
   * Zoom so that the field position under a canvas position stays there.
   *
   * @param {number} factor
   * @param {number} x canvas pixels
   * @param {number} y canvas pixels
   */
  zoomAt(factor, x, y) {
    if (!this.known) return;
    const [fieldX, fieldY] = this.toField(x, y);
    const wanted = Math.min(this.scale * factor, CLOSEST / this.hrPixelUm);
    this.fitted = wanted <= this.fitScale;
    this.scale = wanted;
    this.centreX = fieldX - (x - this.canvasWidth / 2) / wanted;
    this.centreY = fieldY - (y - this.canvasHeight / 2) / wanted;
    this.#settle();
  }

  /**
   * @param {number} dx canvas pixels by which the image moves
   * @param {number} dy
   */
  pan(dx, dy) {
    this.centreX -= dx / this.scale;
    this.centreY -= dy / this.scale;
    this.#settle();
  }

  /**
   * @param {number} x canvas pixels
   * @param {number} y
   * @returns {[number, number]} µm from the field's upper left corner
   */
  toField(x, y) {
    return [
      this.centreX + (x - this.canvasWidth / 2) / this.scale,
      this.centreY + (y - this.canvasHeight / 2) / this.scale,
    ];
  }

  /**
   * @param {number} x µm
   * @param {number} y µm
   * @returns {[number, number]} canvas pixels
   */
  toCanvas(x, y) {
    return [
      (x - this.centreX) * this.scale + this.canvasWidth / 2,
      (y - this.centreY) * this.scale + this.canvasHeight / 2,
    ];
  }

  /**
   * What the server is asked for: the visible pixels of an image.
   *
   * @param {Kind} kind
   * @param {number} pixelUm
   */
  request(kind, pixelUm) {
    const [left, top] = this.toField(0, 0);
    const [right, bottom] = this.toField(this.canvasWidth, this.canvasHeight);
    const x = Math.floor(Math.max(0, left) / pixelUm);
    const y = Math.floor(Math.max(0, top) / pixelUm);
    const width = Math.max(1, Math.ceil(Math.min(right, this.fieldWidth) / pixelUm) - x);
    const height = Math.max(1, Math.ceil(Math.min(bottom, this.fieldHeight) / pixelUm) - y);
    // the part of the canvas that shows these pixels: with the whole canvas instead, an image that does not
    // fill it would be sent in less detail than can be seen
    return {
      type: "view",
      kind,
      x,
      y,
      width,
      height,
      canvas_width: Math.max(1, Math.round(width * pixelUm * this.scale)),
      canvas_height: Math.max(1, Math.round(height * pixelUm * this.scale)),
    };
  }

  /** Keep the scale within its limits, and the image on the canvas or, where it is smaller, centred. */
  #settle() {
    if (!this.known) return;
    if (this.fitted || this.scale < this.fitScale) {
      this.scale = this.fitScale;
    }
    this.centreX = within(this.centreX, this.fieldWidth, this.canvasWidth / this.scale);
    this.centreY = within(this.centreY, this.fieldHeight, this.canvasHeight / this.scale);
  }
}

/**
 * @param {number} centre
 * @param {number} field
 * @param {number} visible
 */
function within(centre, field, visible) {
  if (visible >= field) return field / 2;
  return Math.min(Math.max(centre, visible / 2), field - visible / 2);
}
