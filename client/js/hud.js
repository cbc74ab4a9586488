/** What the image is, and how fresh: where the frame comes from, frames per second, age, drops, "stale". */

/** @import { Frame, Kind, Live, Run } from "./types.js" */

import { byId, setText } from "./dom.js";
import { age, clock, fixed, percent } from "./format.js";

/** Frames per second are counted over this time, or over so many frames where they come rarely. */
const RATE_OVER_MS = 3000;
const RATE_OVER_FRAMES = 4;
/** A live image this old is stale, even if frames come rarely. */
const PATIENCE_MS = 3000;
const UPDATE_EVERY_MS = 250;
/** Below this a few hot pixels are at the camera's limit, not the image. */
export const SATURATED_FROM = 0.0005;

/** @typedef {{live: Live, run: Run | null, connected: boolean, kind: Kind}} Situation */

export class Hud {
  #stage = byId("stage", HTMLElement);
  #source = byId("hud-source", HTMLElement);
  #rate = byId("hud-rate", HTMLElement);
  #age = byId("hud-age", HTMLElement);
  #drops = byId("hud-drops", HTMLElement);
  #notes = byId("hud-notes", HTMLElement);
  #misfit = byId("hud-misfit", HTMLElement);
  #stale = byId("stale", HTMLElement);
  #empty = byId("empty", HTMLElement);
  /** @type {number[]} times at which new frames were drawn */
  #drawn = [];
  #lastSeq = -1;
  /** Usual time between two frames, and when they began to be expected. */
  #intervalMs = 0;
  #expectedSince = 0;
  #wasExpected = false;

  /**
   * @param {() => Frame | null} frame
   * @param {() => Situation} situation
   */
  constructor(frame, situation) {
    this.frame = frame;
    this.situation = situation;
    setInterval(() => this.update(), UPDATE_EVERY_MS);
  }

  /** @param {Frame} frame that has just been drawn */
  count(frame) {
    if (frame.header.seq === this.#lastSeq) return;
    this.#lastSeq = frame.header.seq;
    const now = performance.now();
    const before = this.#drawn.at(-1);
    if (before !== undefined) {
      const step = now - before;
      this.#intervalMs = this.#intervalMs ? 0.8 * this.#intervalMs + 0.2 * step : step;
    }
    this.#drawn.push(now);
    if (this.#stale.hidden === false || this.#drawn.length === 1) this.update();
  }

  update() {
    const now = performance.now();
    const frame = this.frame();
    const { live, run, connected, kind } = this.situation();
    this.#empty.hidden = frame !== null;
    const expected = live.running || run !== null;
    if (expected && !this.#wasExpected) {
      // what happened before live mode started says nothing about how often frames come now
      this.#expectedSince = now;
      this.#intervalMs = 0;
      this.#drawn.length = 0;
    }
    this.#wasExpected = expected;
    this.#drawn = this.#drawn.filter((time, index, all) => now - time <= RATE_OVER_MS || index >= all.length - RATE_OVER_FRAMES);
    if (!frame) {
      this.#setStale(null);
      return;
    }
    const { header } = frame;
    const ageMs = header.age_ms + now - frame.receivedAt;
    setText(this.#source, connected ? source(frame, live, run) : "Offline");
    setText(this.#rate, expected && connected ? rate(this.#drawn, now) : "");
    setText(this.#age, `age ${age(ageMs)}`);
    setText(this.#drops, `${header.dropped} dropped`);
    setText(this.#notes, notes(frame, kind));
    const raised = isDoubtful(frame);
    setText(this.#misfit, misfit(frame, raised));
    this.#misfit.classList.toggle("is-warning", raised);
    // right after a start the last image is old without being late
    const lateMs = Math.min(ageMs, now - this.#expectedSince);
    const patienceMs = PATIENCE_MS + Math.max(3 * this.#intervalMs, run ? 1500 * run.interval_s : 0);
    if (!connected) this.#setStale(`no connection, image ${age(ageMs)} old`);
    else if (expected && lateMs > patienceMs) this.#setStale(`last frame ${age(ageMs)} ago`);
    else this.#setStale(null);
  }

  /** @param {string | null} why */
  #setStale(why) {
    this.#stage.classList.toggle("is-stale", why !== null);
    this.#stale.hidden = why === null;
    if (why !== null) setText(this.#stale, `Stale: ${why}`);
  }
}

/**
 * @param {number[]} times at which frames were drawn
 * @param {number} now
 */
function rate(times, now) {
  if (times.length < 2) return "";
  const steps = times.length - 1;
  // a frame that is overdue counts as one that comes now, so that the rate falls when frames stop
  const intervalMs = Math.max((times[steps] - times[0]) / steps, (now - times[0]) / (steps + 1));
  const fps = 1000 / intervalMs;
  return fps >= 1 ? `${fps.toFixed(1)} fps` : `one in ${age(intervalMs)}`;
}

/**
 * @param {Frame} frame
 * @param {Live} live
 * @param {Run | null} run
 */
function source({ header }, live, run) {
  if (run && header.run_id === run.id) return `Run ${(header.time_point ?? 0) + 1} / ${run.time_points}`;
  if (live.running) return "Live";
  return `Still, ${clock(new Date(Number(BigInt(header.time_utc_ns) / 1_000_000n)))}`;
}

/**
 * Whether the re-propagated phase leaves more of the frame unexplained than matched frames do.
 *
 * @param {Frame} frame
 */
function isDoubtful({ header }) {
  return header.kind === "phase" && header.misfit !== null && header.misfit > (header.misfit_threshold ?? Infinity);
}

/**
 * @param {Frame} frame
 * @param {boolean} raised
 */
function misfit({ header }, raised) {
  if (header.kind !== "phase" || header.misfit === null) return "";
  const figure = `misfit ${fixed(header.misfit, 1)}`;
  return raised ? `phase does not explain the frame: ${figure}` : figure;
}

/**
 * @param {Frame} frame
 * @param {Kind} kind that is asked for
 */
function notes({ header }, kind) {
  const parts = [];
  if (header.kind !== kind) parts.push(`showing ${header.kind}, no ${kind} image yet`);
  if (header.defocus_um !== null) parts.push(`z ${header.defocus_um > 0 ? "+" : ""}${fixed(header.defocus_um, 2)} µm`);
  if (header.saturated_fraction >= SATURATED_FROM) parts.push(`${percent(header.saturated_fraction)} saturated`);
  if (header.out_of_range) parts.push("outside valid range");
  return parts.join(" · ");
}
