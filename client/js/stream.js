/** The connection to the service: connects, stays connected, acknowledges, and says when it cannot. */

/** @import { Frame, StreamEvent } from "./types.js" */

import { decode } from "./wire.js";

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 10_000;
/** The service says something at least every 5 s; silence for longer means that the connection is gone. */
const SILENCE_MS = 12_000;

/**
 * @typedef {object} StreamListener
 * @property {(frame: Frame) => void} frame must be answered with `acknowledge` once
 * @property {(event: StreamEvent) => void} event
 * @property {() => void} opened
 * @property {(retryAt: number) => void} lost with the time (`performance.now()`) of the next attempt
 */

export class Stream {
  /** @type {WebSocket | null} */
  #socket = null;
  #retryMs = FIRST_RETRY_MS;
  #retryTimer = 0;
  #heardAt = 0;
  /** @type {string | null} */
  #view = null;

  /**
   * @param {URL} url
   * @param {StreamListener} listener
   */
  constructor(url, listener) {
    this.url = url;
    this.listener = listener;
    setInterval(() => this.#checkSilence(), 2000);
    addEventListener("online", () => this.connect());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.connect();
    });
  }

  get connected() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Connect now, unless connected or about to be. */
  connect() {
    if (this.#socket) return;
    clearTimeout(this.#retryTimer);
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#heardAt = performance.now();
    socket.onopen = () => {
      this.#retryMs = FIRST_RETRY_MS;
      if (this.#view) socket.send(this.#view);
      this.listener.opened();
    };
    socket.onmessage = (message) => {
      this.#heardAt = performance.now();
      if (typeof message.data === "string") this.listener.event(JSON.parse(message.data).event);
      else this.listener.frame(decode(message.data, this.#heardAt));
    };
    socket.onclose = () => this.#lost(socket);
  }

  /**
   * Say what is looked at; said again after every reconnection.
   *
   * @param {object} view
   */
  look(view) {
    const message = JSON.stringify(view);
    if (message === this.#view) return;
    this.#view = message;
    if (this.connected) this.#socket?.send(message);
  }

  /** @param {number} seq */
  acknowledge(seq) {
    if (this.connected) this.#socket?.send(JSON.stringify({ type: "ack", seq }));
  }

  #checkSilence() {
    const socket = this.#socket;
    if (!socket || performance.now() - this.#heardAt < SILENCE_MS) return;
    // a cut cable closes nothing by itself; close() would wait for an answer
    socket.onclose = null;
    socket.close();
    this.#lost(socket);
  }

  /** @param {WebSocket} socket */
  #lost(socket) {
    if (this.#socket !== socket) return;
    socket.onmessage = null;
    this.#socket = null;
    // some randomness, so that many pages do not come back at the same moment
    const wait = this.#retryMs * (0.8 + 0.4 * Math.random());
    this.#retryMs = Math.min(2 * this.#retryMs, LONGEST_RETRY_MS);
    this.#retryTimer = setTimeout(() => this.connect(), wait);
    this.listener.lost(performance.now() + wait);
  }
}
