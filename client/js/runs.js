/** The list of runs: state, counters, and the details on request. */

/** @import { Run } from "./types.js" */

import { byId, make, setText } from "./dom.js";
import { clock, fixed, interval } from "./format.js";

const SHOWN = 100;

export class RunList {
  #list = byId("runs", HTMLElement);
  #none = byId("runs-none", HTMLElement);
  #more = byId("runs-more", HTMLElement);
  /** @type {Map<string, Run>} */
  #runs = new Map();
  /** @type {Map<string, HTMLElement>} */
  #rows = new Map();

  /** @param {Run[]} runs all of them */
  replace(runs) {
    this.#runs = new Map(runs.map((run) => [run.id, run]));
    this.#show();
  }

  /** @param {Run} run new or changed */
  put(run) {
    this.#runs.set(run.id, run);
    this.#show();
  }

  #show() {
    const newestFirst = [...this.#runs.values()].sort((a, b) => (a.created_utc < b.created_utc ? 1 : -1));
    const shown = newestFirst.slice(0, SHOWN);
    const rows = shown.map((run) => {
      const row = this.#rows.get(run.id) ?? makeRow(run.id);
      fill(row, run);
      return row;
    });
    this.#rows = new Map(shown.map((run, index) => [run.id, rows[index]]));
    const present = [...this.#list.children];
    // replacing the children would close details and drop the focus
    if (present.length !== rows.length || rows.some((row, index) => row !== present[index])) {
      this.#list.replaceChildren(...rows);
    }
    this.#none.hidden = rows.length > 0;
    this.#more.hidden = newestFirst.length <= SHOWN;
    setText(this.#more, `and ${newestFirst.length - SHOWN} older runs`);
  }
}

/** @param {string} id */
function makeRow(id) {
  const row = make("li", "run");
  row.dataset.run = id;
  const details = make("details");
  const summary = make("summary");
  for (const part of ["name", "state", "count", "time"]) summary.append(make("span", `run-${part}`));
  details.append(summary, make("dl"));
  row.append(details);
  return row;
}

/**
 * @param {HTMLElement} row
 * @param {Run} run
 */
function fill(row, run) {
  const { expected, raw_written, raw_missing, phase_written, phase_missing } = run.counters;
  /** @type {Record<string, string>} */
  const parts = {
    name: run.name,
    state: run.state,
    count: `${raw_written} / ${expected}` + (raw_missing + phase_missing ? `, ${raw_missing + phase_missing} missing` : ""),
    time: clock(new Date(run.created_utc)),
  };
  for (const [part, text] of Object.entries(parts)) {
    const target = row.querySelector(`.run-${part}`);
    if (target) setText(target, text);
  }
  row.dataset.state = run.state;
  row.dataset.missing = String(raw_missing + phase_missing > 0);
  /** @type {[string, string][]} */
  const facts = [
    ["Plan", `${run.time_points} × ${interval(run.interval_s)}, z ${fixed(run.defocus_um, 2)} µm`],
    ["Raw", `${raw_written} written, ${raw_missing} missing`],
    ["Phase", `${phase_written} written, ${phase_missing} missing`],
  ];
  if (run.ended_utc) facts.push(["Ended", clock(new Date(run.ended_utc))]);
  if (run.reason) facts.push(["Reason", run.reason]);
  for (const warning of run.warnings) facts.push(["Warning", warning]);
  facts.push(["Store", run.path]);
  const list = row.querySelector("dl");
  if (!list || list.dataset.facts === JSON.stringify(facts)) return;
  list.dataset.facts = JSON.stringify(facts);
  list.replaceChildren(...facts.flatMap(([term, text]) => [make("dt", "", term), make("dd", "", text)]));
}
