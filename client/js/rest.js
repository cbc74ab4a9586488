/** Requests to the REST interface; what goes wrong becomes a sentence that can be shown. */

/** @import { Estimate, Live, Microscope, Plan, Run } from "./types.js" */

const BASE = new URL("api/v1/", document.baseURI);

export const STREAM_URL = new URL("stream", BASE);
STREAM_URL.protocol = STREAM_URL.protocol.replace("http", "ws");

/** @typedef {{pointer: string, message: string}} FieldError */

/** A request that was refused or did not arrive. */
export class RequestError extends Error {
  /**
   * @param {string} message
   * @param {FieldError[]} fields
   */
  constructor(message, fields = []) {
    super(message);
    this.fields = fields;
  }
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>} a response with a 2xx status
 */
async function request(path, options) {
  /** @type {Response} */
  let response;
  try {
    response = await fetch(new URL(path, BASE), { cache: "no-store", ...options });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new RequestError("The service does not answer.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new RequestError(problem.detail ?? `The service answered ${response.status}.`, problem.errors ?? []);
}

/**
 * @param {string} path
 * @param {object} [body]
 * @param {Record<string, string>} [headers]
 * @param {AbortSignal} [signal]
 */
async function post(path, body, headers = {}, signal) {
  const response = await request(path, {
    method: "POST",
    headers: body ? { "Content-Type": "application/json", ...headers } : headers,
    body: body ? JSON.stringify(body) : undefined,
    signal,
  });
  return response.json();
}

/** @returns {Promise<Microscope>} */
export async function readMicroscope() {
  return (await request("microscope")).json();
}

/** @returns {Promise<Run[]>} the newest first */
export async function readRuns() {
  return (await (await request("acquisitions")).json()).acquisitions;
}

/**
 * @param {boolean} running
 * @returns {Promise<Live>}
 */
export function switchLive(running) {
  return post(running ? "live/start" : "live/stop");
}

/**
 * @param {Plan} plan
 * @param {AbortSignal} signal
 * @returns {Promise<Estimate>}
 */
export function estimate(plan, signal) {
  return post("acquisitions?dry_run=true", plan, {}, signal);
}

/**
 * @param {Plan} plan
 * @param {string} key makes a retry of the same request safe
 * @returns {Promise<Run>}
 */
export function startRun(plan, key) {
  return post("acquisitions", plan, { "Idempotency-Key": key });
}

/**
 * @param {string} id
 * @returns {Promise<Run>}
 */
export function cancelRun(id) {
  return post(`acquisitions/${encodeURIComponent(id)}/cancel`);
}

/**
 * The exact value of one pixel of the newest frame.
 *
 * @param {string} kind
 * @param {number} x
 * @param {number} y
 * @returns {Promise<{seq: number, value: number}>}
 */
export async function readPixel(kind, x, y) {
  const response = await request(`preview/region?kind=${kind}&x=${x}&y=${y}&width=1&height=1`);
  const value = new DataView(await response.arrayBuffer()).getFloat32(0, true);
  return { seq: Number(response.headers.get("X-Livephase-Seq")), value };
}

/** A random key; crypto.randomUUID exists only on pages from this computer or over TLS. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
