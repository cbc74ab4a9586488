/** Numbers, lengths, times and sizes as the page writes them. */

/** A minus sign has the width of a figure, a hyphen has not. */
const MINUS = "\u2212";

/**
 * @param {number} value
 * @param {number} digits after the decimal point
 */
export function fixed(value, digits) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? MINUS + text : text;
}

/** @param {number} seconds */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return whole % 60 && minutes < 10 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

/** @param {number} seconds between two time points, as exactly as it was asked for */
export function interval(seconds) {
  return seconds < 60 || !Number.isInteger(seconds) ? `${Number(seconds.toPrecision(6))} s` : duration(seconds);
}

/** @param {number} count */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 99.95 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

/** @param {Date} time with the day when it is not today */
export function clock(time) {
  const hours = time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  if (time.toDateString() === new Date().toDateString()) return hours;
  return `${time.toLocaleDateString([], { day: "numeric", month: "short" })} ${hours}`;
}

/** @param {number} ms */
export function age(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : duration(ms / 1000);
}

/** @param {number} um */
export function length(um) {
  return um >= 1000 ? `${um / 1000} mm` : `${um} µm`;
}

/** @param {number} fraction */
export function percent(fraction) {
  const value = 100 * fraction;
  return `${value >= 10 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : value.toFixed(2)} %`;
}
