/** The image: takes frames from the stream, draws them, and tells the stream what is looked at. */

/** @import { Frame, Kind } from "./types.js" */
/** @import { Stream } from "./stream.js" */

import { Contrast } from "./contrast.js";
import { byId, setText } from "./dom.js";
import { percent } from "./format.js";
import { listen } from "./gestures.js";
import { Painter } from "./painter.js";
import { Readout } from "./readout.js";
import { ScaleBar } from "./scalebar.js";
import { Viewport } from "./viewport.js";

/** While a view is dragged it is asked for at most this often. */
const VIEW_EVERY_MS = 50;
/** A hidden page still acknowledges, so that it is not dropped, but asks for next to nothing. */
const HIDDEN_CANVAS = 16;
/** Larger than any image: the server sends the part that exists. */
const ALL = 1 << 20;

export class ImageView {
  #canvas = byId("canvas", HTMLCanvasElement);
  #zoom = byId("zoom", HTMLElement);
  #viewport = new Viewport();
  #painter = new Painter(this.#canvas, this.#viewport);
  #contrast;
  #scaleBar = new ScaleBar();
  #readout;
  /** @type {Kind} */
  #kind = "phase";
  /** Side of a pixel of each kind of image, once known. @type {Map<Kind, number>} */
  #pixelUm = new Map();
  /** @type {Frame | null} arrived and not yet drawn */
  #pending = null;
  #paintRequested = false;
  #viewSentAt = -Infinity;
  #viewTimer = 0;

  /**
   * @param {Stream} stream
   * @param {{drawn: (frame: Frame) => void, kindChanged: (kind: Kind) => void}} listener
   */
  constructor(stream, listener) {
    this.stream = stream;
    this.listener = listener;
    this.#contrast = new Contrast(this.#painter.table, () => {
      this.#painter.recolour();
      this.#repaint();
    });
    this.#readout = new Readout(this.#viewport, () => this.#painter.frame);
    listen(this.#canvas, this.#viewport, {
      moved: () => this.#moved(),
      pointed: (position) => this.#readout.point(position),
    });
    new ResizeObserver(() => this.#resize()).observe(this.#canvas);
    document.addEventListener("visibilitychange", () => {
      if (document.hidden && this.#pending) this.#finish(this.#pending);
      this.#look();
    });
    this.#resize();
  }

  /** The frame on the canvas. */
  get frame() {
    return this.#painter.frame;
  }

  /** @param {boolean} online whether the service can be asked */
  set online(online) {
    this.#readout.online = online;
  }

  /** @param {Frame} frame */
  receive(frame) {
    if (document.hidden || frame.header.kind !== this.#kind) {
      this.stream.acknowledge(frame.header.seq);
      return;
    }
    // a frame that arrives before the last one was drawn replaces it
    if (this.#pending) this.stream.acknowledge(this.#pending.header.seq);
    this.#pending = frame;
    this.#repaint();
  }

  /** The kind of image that is asked for. */
  get kind() {
    return this.#kind;
  }

  /** @param {Kind} kind */
  show(kind) {
    if (kind === this.#kind) return;
    this.#kind = kind;
    if (this.#pending) this.#finish(this.#pending);
    this.listener.kindChanged(kind);
    this.#look();
  }

  fit() {
    this.#viewport.fit();
    this.#moved();
  }

  autoContrast() {
    if (this.#painter.frame) this.#contrast.auto(this.#painter.frame);
  }

  nextColormap() {
    this.#contrast.nextColormap();
  }

  /** @param {number} factor about the centre */
  zoomBy(factor) {
    this.#viewport.zoomAt(factor, this.#canvas.width / 2, this.#canvas.height / 2);
    this.#moved();
  }

  /**
   * @param {number} x part of the canvas width by which the view moves
   * @param {number} y
   */
  moveBy(x, y) {
    this.#viewport.pan(-x * this.#canvas.width, -y * this.#canvas.height);
    this.#moved();
  }

  #moved() {
    this.#repaint();
    this.#look();
    this.#readout.update();
  }

  #resize() {
    const ratio = devicePixelRatio;
    const width = Math.max(1, Math.round(this.#canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.#canvas.clientHeight * ratio));
    if (this.#canvas.width !== width) this.#canvas.width = width;
    if (this.#canvas.height !== height) this.#canvas.height = height;
    this.#viewport.resize(width, height);
    // changing a canvas' size empties it: painting now, not in the next frame, avoids a flash
    this.#paint();
    this.#look();
  }

  /** Tell the server what is looked at, not more often than it makes sense. */
  #look() {
    clearTimeout(this.#viewTimer);
    const wait = this.#viewSentAt + VIEW_EVERY_MS - performance.now();
    if (wait > 0) {
      this.#viewTimer = setTimeout(() => this.#look(), wait);
      return;
    }
    this.#viewSentAt = performance.now();
    this.stream.look(this.#request());
  }

  #request() {
    const pixelUm = this.#pixelUm.get(this.#kind);
    if (document.hidden || pixelUm === undefined || !this.#viewport.known) {
      const canvas = document.hidden
        ? { canvas_width: HIDDEN_CANVAS, canvas_height: HIDDEN_CANVAS }
        : { canvas_width: this.#canvas.width, canvas_height: this.#canvas.height };
      return { type: "view", kind: this.#kind, x: 0, y: 0, width: ALL, height: ALL, ...canvas };
    }
    return this.#viewport.request(this.#kind, pixelUm);
  }

  #repaint() {
    if (this.#paintRequested) return;
    this.#paintRequested = true;
    requestAnimationFrame(() => {
      this.#paintRequested = false;
      this.#paint();
    });
  }

  #paint() {
    const frame = this.#pending;
    if (frame) this.#take(frame);
    this.#painter.paint();
    const ratio = this.#canvas.width / Math.max(1, this.#canvas.clientWidth);
    this.#scaleBar.update(this.#painter.frame ? this.#viewport.scale / ratio : 0);
    setText(this.#zoom, this.#painter.frame ? percent(this.#viewport.zoom) : "");
    if (frame) this.#finish(frame);
  }

  /** @param {Frame} frame */
  #take(frame) {
    const { header } = frame;
    this.#painter.setFrame(frame);
    const isOther = this.#viewport.setField(
      header.full_width * header.pixel_um,
      header.full_height * header.pixel_um,
      header.hr_pixel_um,
    );
    const isFirst = this.#pixelUm.get(header.kind) !== header.pixel_um;
    this.#pixelUm.set(header.kind, header.pixel_um);
    // with the frame, not with the choice: until it comes the image on the canvas is one of the other kind
    this.#contrast.show(header.kind);
    this.#contrast.begin(frame);
    if (isOther || isFirst) this.#look();
  }

  /** @param {Frame} frame drawn, or not going to be */
  #finish(frame) {
    this.#pending = null;
    this.stream.acknowledge(frame.header.seq);
    if (this.#painter.frame !== frame) return;
    this.#canvas.dataset.seq = String(frame.header.seq);
    this.#canvas.dataset.kind = frame.header.kind;
    this.#readout.update();
    this.listener.drawn(frame);
  }
}
