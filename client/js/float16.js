/** float16 as the stream carries it: what a bit pattern is worth, and which colour it is drawn in. */

/** The value of every bit pattern. */
export const VALUES = values();

/** Colour index of a value is round(255 * position); this many entries has a colour map. */
const ENTRIES = 256;

function values() {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
    else if (exponent === 31) table[bits] = fraction ? NaN : sign * Infinity;
    else table[bits] = sign * (1024 + fraction) * 2 ** (exponent - 25);
  }
  return table;
}

/**
 * Colours of all bit patterns between two limits; what is not finite is transparent, never a colour.
 *
 * @param {Uint32Array} entries colour map, 256 entries
 * @param {number} low value of the first entry
 * @param {number} high value of the last entry, above `low`
 * @param {Uint32Array} [table] reused when given
 * @returns {Uint32Array} 65,536 entries as they lie in ImageData
 */
export function colourTable(entries, low, high, table = new Uint32Array(65536)) {
  const gain = (ENTRIES - 1) / (high - low);
  for (let bits = 0; bits < 65536; bits++) {
    const value = VALUES[bits];
    if (!Number.isFinite(value)) {
      table[bits] = 0;
      continue;
    }
    const index = Math.floor((value - low) * gain + 0.5);
    table[bits] = entries[index < 0 ? 0 : index >= ENTRIES ? ENTRIES - 1 : index];
  }
  return table;
}
