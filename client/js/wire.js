/** Reads the binary preview message: magic, header length, JSON header, float16 pixels. */

/** @import { Frame, Header } from "./types.js" */

const MAGIC = 0x3148504c; // "LPH1", read as a little-endian number
const text = new TextDecoder();

/**
 * The pixels stay where they are in the message: nothing is copied. Typed arrays are little-endian on every
 * machine that runs a browser.
 *
 * @param {ArrayBuffer} message
 * @param {number} receivedAt
 * @returns {Frame}
 */
export function decode(message, receivedAt) {
  const view = new DataView(message);
  if (message.byteLength < 8 || view.getUint32(0, true) !== MAGIC) throw new Error("not a preview message");
  const start = 8 + view.getUint32(4, true);
  /** @type {Header} */
  const header = JSON.parse(text.decode(new Uint8Array(message, 8, start - 8)));
  const bits = new Uint16Array(message, start);
  if (bits.length !== header.width * header.height) {
    throw new Error(`${bits.length} pixels, expected ${header.width} x ${header.height}`);
  }
  return { header, bits, receivedAt };
}
