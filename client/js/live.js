/** The live button: starts and stops live mode. */

import { byId, setText } from "./dom.js";
import { RequestError, switchLive } from "./rest.js";

export class LiveButton {
  #button = byId("live", HTMLButtonElement);
  #label = byId("live-label", HTMLElement);
  #note = byId("live-note", HTMLElement);
  #running = false;
  #possible = false;
  #busy = false;

  /** @param {(live: import("./types.js").Live) => void} changed */
  constructor(changed) {
    this.changed = changed;
    this.#button.addEventListener("click", () => this.toggle());
    byId("empty-live", HTMLButtonElement).addEventListener("click", () => this.toggle());
  }

  /**
   * @param {boolean} running
   * @param {string} obstacle why it cannot be switched at present, empty when it can
   */
  show(running, obstacle) {
    if (running !== this.#running) setText(this.#note, "");
    this.#running = running;
    this.#possible = obstacle === "";
    this.#button.classList.toggle("is-on", running && this.#possible);
    this.#button.setAttribute("aria-disabled", String(!this.#possible || this.#busy));
    setText(this.#label, obstacle || (running ? "Stop live" : "Start live"));
  }

  async toggle() {
    if (!this.#possible || this.#busy) return;
    this.#busy = true;
    this.#button.setAttribute("aria-disabled", "true");
    try {
      this.changed(await switchLive(!this.#running));
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      setText(this.#note, error.message);
    } finally {
      this.#busy = false;
      this.#button.setAttribute("aria-disabled", String(!this.#possible));
    }
  }
}
