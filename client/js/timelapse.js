/** The time-lapse form: plan, estimate of size and end while typing, start. */

/** @import { Plan, Run } from "./types.js" */

import { byId, make, setText } from "./dom.js";
import { bytes, clock, duration } from "./format.js";
import { RequestError, estimate, randomKey, startRun } from "./rest.js";

const TYPING_PAUSE_MS = 250;
const FALLBACK_DEFOCUS_UM = 6;

export class TimeLapseForm {
  #form = byId("time-lapse", HTMLFormElement);
  #fields = {
    name: byId("plan-name", HTMLInputElement),
    time_points: byId("plan-time-points", HTMLInputElement),
    interval_s: byId("plan-interval", HTMLInputElement),
    defocus_um: byId("plan-defocus", HTMLInputElement),
  };
  #estimate = byId("estimate", HTMLElement);
  #warnings = byId("plan-warnings", HTMLElement);
  #error = byId("plan-error", HTMLElement);
  #start = byId("plan-start", HTMLButtonElement);
  #timer = 0;
  /** @type {AbortController | null} */
  #asking = null;
  #defocusTouched = false;
  /** Key of the last attempt and the plan it was for: the same plan tried again must not become a second run. */
  #attempt = { plan: "", key: "" };

  /** @param {(run: Run) => void} started */
  constructor(started) {
    this.started = started;
    this.#form.addEventListener("input", (event) => {
      if (event.target === this.#fields.defocus_um) this.#defocusTouched = true;
      this.#error.hidden = true;
      this.refresh(TYPING_PAUSE_MS);
    });
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#submit();
    });
  }

  /**
   * Propose the present defocus until the user has written another one.
   *
   * @param {number | null} um
   */
  proposeDefocus(um) {
    if (!this.#defocusTouched) this.#fields.defocus_um.value = String(Number((um ?? FALLBACK_DEFOCUS_UM).toFixed(3)));
  }

  /**
   * Ask for the estimate again.
   *
   * @param {number} afterMs
   */
  refresh(afterMs = 0) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#askEstimate(), afterMs);
  }

  /** @returns {Plan | null} null while a field holds no number */
  #plan() {
    const { name, time_points, interval_s, defocus_um } = this.#fields;
    const numbers = [time_points, interval_s, defocus_um];
    for (const field of numbers) field.setAttribute("aria-invalid", String(!field.validity.valid));
    const wrong = numbers.find((field) => !field.validity.valid);
    if (wrong) {
      const label = wrong.labels?.[0]?.textContent?.trim() ?? "";
      setText(this.#error, `${label}: ${wrong.validationMessage}`);
      this.#error.hidden = false;
      return null;
    }
    return {
      name: name.value.trim() || "time-lapse",
      time_points: time_points.valueAsNumber,
      interval_s: interval_s.valueAsNumber,
      defocus_um: defocus_um.valueAsNumber,
    };
  }

  async #askEstimate() {
    this.#asking?.abort();
    const plan = this.#plan();
    this.#start.disabled = plan === null;
    if (!plan) {
      this.#estimate.replaceChildren();
      this.#warnings.replaceChildren();
      return;
    }
    const asking = new AbortController();
    this.#asking = asking;
    try {
      const { bytes: size, duration_s, warnings, disk_free_bytes } = await estimate(plan, asking.signal);
      const lasts =
        duration_s === null
          ? "as fast as possible"
          : `${duration(duration_s)}, ends ${clock(new Date(Date.now() + 1000 * duration_s))}`;
      this.#estimate.replaceChildren(
        make("span", "", lasts),
        make("span", "", `up to ${bytes(size)}, ${bytes(disk_free_bytes)} free`),
      );
      this.#warnings.replaceChildren(...warnings.map((warning) => make("li", "", warning)));
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return;
      if (!(error instanceof RequestError)) throw error;
      this.#estimate.replaceChildren();
      this.#warnings.replaceChildren();
      this.#showError(error);
    }
  }

  async #submit() {
    const plan = this.#plan();
    if (!plan) return;
    const text = JSON.stringify(plan);
    if (this.#attempt.plan !== text) this.#attempt = { plan: text, key: randomKey() };
    this.#start.disabled = true;
    this.#error.hidden = true;
    try {
      const run = await startRun(plan, this.#attempt.key);
      this.#attempt = { plan: "", key: "" };
      this.started(run);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      this.#showError(error);
    } finally {
      this.#start.disabled = false;
    }
  }

  /** @param {RequestError} error */
  #showError(error) {
    for (const { pointer } of error.fields) {
      const name = pointer.split("/").pop() ?? "";
      if (name in this.#fields) {
        this.#fields[/** @type {keyof Plan} */ (name)].setAttribute("aria-invalid", "true");
      }
    }
    setText(this.#error, [error.message, ...error.fields.map(({ message }) => message)].join(" "));
    this.#error.hidden = false;
  }
}
