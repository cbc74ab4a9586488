/** The run that has the microscope: progress, remaining time, and cancelling with a question first. */

/** @import { Run } from "./types.js" */

import { byId, setText } from "./dom.js";
import { clock, duration } from "./format.js";
import { RequestError, cancelRun } from "./rest.js";

export class RunProgress {
  #card = byId("run-progress", HTMLElement);
  #name = byId("progress-name", HTMLElement);
  #bar = byId("progress-bar", HTMLProgressElement);
  #count = byId("progress-count", HTMLElement);
  #left = byId("progress-left", HTMLElement);
  #lost = byId("progress-lost", HTMLElement);
  #cancel = byId("progress-cancel", HTMLButtonElement);
  #question = byId("cancel-question", HTMLElement);
  #kept = byId("cancel-kept", HTMLElement);
  #keep = byId("cancel-no", HTMLButtonElement);
  #error = byId("cancel-error", HTMLElement);
  /** @type {Run | null} */
  #run = null;
  #toldAt = 0;

  constructor() {
    this.#cancel.addEventListener("click", () => this.#ask(true));
    this.#keep.addEventListener("click", () => this.#ask(false));
    this.#question.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#ask(false);
    });
    byId("cancel-yes", HTMLButtonElement).addEventListener("click", () => void this.#cancelRun());
    setInterval(() => this.#update(), 1000);
  }

  /** @param {Run | null} run */
  show(run) {
    if (run?.id !== this.#run?.id) {
      this.#question.hidden = true;
      this.#cancel.hidden = false;
      this.#error.hidden = true;
    }
    this.#run = run;
    this.#toldAt = performance.now();
    this.#card.hidden = run === null;
    this.#update();
  }

  #update() {
    const run = this.#run;
    if (!run) return;
    const { expected, raw_written, raw_missing, phase_written, phase_missing } = run.counters;
    setText(this.#name, run.name);
    this.#bar.max = expected;
    this.#bar.value = raw_written + raw_missing;
    const behind = raw_written - phase_written - phase_missing;
    setText(
      this.#count,
      `${raw_written + raw_missing} of ${expected} frames` + (behind > 1 ? `, phase of ${phase_written}` : ""),
    );
    const missing = [];
    if (raw_missing) missing.push(`${raw_missing} raw`);
    if (phase_missing) missing.push(`${phase_missing} phase`);
    setText(this.#lost, missing.length ? `missing: ${missing.join(", ")}` : "");
    setText(this.#kept, `The ${raw_written} frames on disk stay readable.`);
    if (run.remaining_s === null) {
      setText(this.#left, run.state === "queued" ? "starting" : "– left");
      return;
    }
    const left = Math.max(0, run.remaining_s - (performance.now() - this.#toldAt) / 1000);
    setText(this.#left, `${duration(left)} left, ends ${clock(new Date(Date.now() + 1000 * left))}`);
  }

  /** @param {boolean} open */
  #ask(open) {
    this.#question.hidden = !open;
    this.#cancel.hidden = open;
    // the harmless answer has the focus
    (open ? this.#keep : this.#cancel).focus();
  }

  async #cancelRun() {
    if (!this.#run) return;
    this.#error.hidden = true;
    try {
      await cancelRun(this.#run.id);
      this.#question.hidden = true;
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      setText(this.#error, error.message);
      this.#error.hidden = false;
    }
  }
}
