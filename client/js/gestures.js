/** Pointer, wheel and touch on the image: drag to move, wheel or pinch to zoom, hover to read. */

/** @import { Viewport } from "./viewport.js" */

const WHEEL_GAIN = 0.0016;
/** CSS pixels that a line and a page of a wheel stand for. */
const WHEEL_UNIT = [1, 18, 400];

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Viewport} viewport
 * @param {{moved: () => void, pointed: (position: [number, number] | null) => void}} listener
 */
export function listen(canvas, viewport, listener) {
  /** @type {Map<number, [number, number]>} */
  const down = new Map();

  /**
   * @param {MouseEvent} event
   * @returns {[number, number]} canvas pixels
   */
  function position(event) {
    const box = canvas.getBoundingClientRect();
    const ratio = canvas.width / box.width;
    return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
  }

  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const factor = Math.exp(-event.deltaY * WHEEL_UNIT[event.deltaMode] * WHEEL_GAIN);
      viewport.zoomAt(factor, ...position(event));
      listener.moved();
      listener.pointed(position(event));
    },
    { passive: false },
  );

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    down.set(event.pointerId, position(event));
    canvas.classList.add("is-held");
    listener.pointed(position(event));
  });

  canvas.addEventListener("pointermove", (event) => {
    const now = position(event);
    const before = down.get(event.pointerId);
    if (before) {
      const other = [...down].find(([id]) => id !== event.pointerId)?.[1];
      viewport.pan((now[0] - before[0]) / down.size, (now[1] - before[1]) / down.size);
      if (other) {
        const factor = distance(now, other) / Math.max(1, distance(before, other));
        viewport.zoomAt(factor, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      }
      down.set(event.pointerId, now);
      listener.moved();
    }
    listener.pointed(now);
  });

  for (const name of /** @type {const} */ (["pointerup", "pointercancel"])) {
    canvas.addEventListener(name, (event) => {
      down.delete(event.pointerId);
      if (down.size === 0) canvas.classList.remove("is-held");
    });
  }
  canvas.addEventListener("pointerleave", () => listener.pointed(null));
}

/**
 * @param {[number, number]} a
 * @param {[number, number]} b
 */
function distance(a, b) {
  return Math.hypot(a[0] - b[0], a[1] - b[1]);
}
