/** Starts the page: connects the parts to the stream and to each other. */

/** @import { Inference, Kind, Live, Run, StreamEvent } from "./types.js" */

import { Banners } from "./banners.js";
import { byId, setText } from "./dom.js";
import { Hud, SATURATED_FROM } from "./hud.js";
import { ImageView } from "./image.js";
import { LiveButton } from "./live.js";
import { RunProgress } from "./progress.js";
import { STREAM_URL, RequestError, readMicroscope, readRuns } from "./rest.js";
import { RunList } from "./runs.js";
import { installShortcuts } from "./shortcuts.js";
import { Stream } from "./stream.js";
import { TimeLapseForm } from "./timelapse.js";

const ACTIVE = new Set(["queued", "running"]);

const status = byId("status", HTMLElement);
const banners = new Banners();
/** @type {Live} */
let live = { running: false, fault: null };
/** @type {Inference} */
let inference = { state: "starting", runtime: null, restarts: 0 };
/** @type {Run | null} the run that has the microscope */
let run = null;
/** @type {string[] | null} what is outside the model's valid range, and what to do; null when that has to be asked */
let rangeNotes = null;
/** The latest fault, which stays on the page until it is dismissed. */
let fault = "";
let retryAt = 0;

const stream = new Stream(STREAM_URL, {
  frame: (frame) => image.receive(frame),
  event: heard,
  opened: () => {
    banners.clear("connection");
    image.online = true;
    void readState();
  },
  lost: (at) => {
    retryAt = at;
    image.online = false;
    showConnection();
    showSituation();
  },
});
const image = new ImageView(stream, {
  drawn: (frame) => {
    hud.count(frame);
    showFrameNotices();
  },
  kindChanged: showKind,
});
const hud = new Hud(
  () => image.frame,
  () => ({ live, run, connected: stream.connected, kind: image.kind }),
);
const liveButton = new LiveButton((state) => {
  liveHeard(state);
  showSituation();
});
const progress = new RunProgress();
const runs = new RunList();
const form = new TimeLapseForm((started) => {
  runHeard(started);
  showSituation();
});

/** Ask for everything: after connecting, and after each reconnection, events may have been missed. */
async function readState() {
  try {
    const [state, known] = await Promise.all([readMicroscope(), readRuns()]);
    liveHeard(state.live);
    inference = state.inference;
    run = state.run && ACTIVE.has(state.run.state) ? state.run : null;
    setText(byId("microscope-name", HTMLElement), state.microscope.name);
    runs.replace(known);
    form.proposeDefocus(state.microscope.defocus_um ?? state.stated_defocus_um);
    form.refresh();
    if (state.microscope.fault) showFault(state.microscope.fault);
    showSituation();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    banners.show("state", {
      level: "problem",
      title: "The state of the microscope could not be read.",
      detail: error.message,
      action: { label: "Try again", act: () => void readState() },
    });
    return;
  }
  banners.clear("state");
}

/** @param {StreamEvent} event */
function heard(event) {
  if (event.kind === "run") {
    runHeard(event);
  } else if (event.kind === "live") {
    liveHeard(event);
  } else if (event.kind === "inference") {
    inference = event;
  } else if (event.kind === "fault") {
    showFault(event.message);
  } else {
    return;
  }
  showSituation();
}

/** @param {Live} told */
function liveHeard(told) {
  // a start mends what had stopped live mode, but no other fault
  if (told.running && live.fault !== null && live.fault === fault) banners.clear("fault");
  if (told.fault !== null) showFault(told.fault);
  live = told;
}

/** @param {Run} told */
function runHeard(told) {
  runs.put(told);
  if (ACTIVE.has(told.state)) {
    run = told;
  } else if (run?.id === told.id) {
    run = null;
    setText(status, `Run ${told.name}: ${told.state}${told.reason ? `, ${told.reason}` : ""}.`);
    form.refresh();
  }
}

function showSituation() {
  const lost = !stream.connected;
  liveButton.show(live.running, lost ? "No connection" : run ? "Run in progress" : "");
  progress.show(run);
  byId("time-lapse", HTMLElement).hidden = run !== null;
  document.body.classList.toggle("is-offline", lost);
  showInference();
  hud.update();
}

function showInference() {
  const label = byId("inference", HTMLElement);
  setText(label, inference.state === "ready" ? (inference.runtime ?? "ready") : inference.state);
  label.dataset.state = inference.state;
  if (inference.state === "ready") {
    banners.clear("inference");
  } else {
    const detail = {
      starting: "Raw images are shown; phase follows in a moment.",
      restarting: "Raw frames are still taken and stored; missing phase is computed afterwards.",
      stopped: "No phase is computed. Raw frames are still taken and stored. See the service's log.",
    }[inference.state];
    const title = `The inference worker ${inference.state === "stopped" ? "has stopped" : `is ${inference.state}`}.`;
    banners.show("inference", { level: inference.state === "starting" ? "notice" : "problem", title, detail });
  }
}

function showFrameNotices() {
  const header = image.frame?.header;
  if (!header) return;
  if (header.out_of_range) {
    if (rangeNotes === null) void askRangeNotes();
    banners.show("range", {
      level: "notice",
      title: "Outside the model's valid range.",
      detail: rangeNotes?.join(" ") || "Phase values of this setting are not validated.",
      dismissable: true,
    });
  } else {
    rangeNotes = null;
    banners.clear("range");
  }
  if (header.saturated_fraction >= SATURATED_FROM) {
    banners.show("saturation", {
      level: "notice",
      title: "The camera saturates.",
      detail: "Phase is wrong where counts are at their limit: shorten the exposure or dim the lamp.",
      dismissable: true,
    });
  } else {
    banners.clear("saturation");
  }
}

/** The stream only says that a setting is out of range; the microscope says what of it, and what to do. */
async function askRangeNotes() {
  rangeNotes = [];
  try {
    const { range_problems, advice } = await readMicroscope();
    rangeNotes = [...range_problems, ...advice];
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    return;
  }
  showFrameNotices();
}

/** @param {string} message */
function showFault(message) {
  fault = message;
  banners.show("fault", { level: "problem", title: "Fault.", detail: message, dismissable: true });
}

function showConnection() {
  if (stream.connected) return;
  const seconds = Math.max(0, Math.ceil((retryAt - performance.now()) / 1000));
  banners.show("connection", {
    level: "problem",
    title: "No connection to the service.",
    detail: seconds > 0 ? `Trying again in ${seconds} s.` : "Trying again.",
    action: { label: "Try now", act: () => stream.connect() },
  });
}

/** @param {Kind} kind */
function showKind(kind) {
  for (const one of /** @type {const} */ (["phase", "raw"])) {
    byId(`kind-${one}`, HTMLInputElement).checked = one === kind;
  }
  byId("canvas", HTMLCanvasElement).setAttribute("aria-label", kind === "phase" ? "Phase image" : "Camera image");
}

for (const kind of /** @type {const} */ (["phase", "raw"])) {
  byId(`kind-${kind}`, HTMLInputElement).addEventListener("change", () => image.show(kind));
}
for (const [id, act] of /** @type {[string, () => void][]} */ ([
  ["auto", () => image.autoContrast()],
  ["fit", () => image.fit()],
  ["zoom-in", () => image.zoomBy(1.5)],
  ["zoom-out", () => image.zoomBy(1 / 1.5)],
])) {
  byId(id, HTMLButtonElement).addEventListener("click", act);
}
/** @type {Record<string, [number, number]>} */
const MOVES = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
installShortcuts([
  { keys: [" "], labels: ["Space"], text: "start or stop live", act: () => void liveButton.toggle() },
  { keys: ["a"], labels: ["A"], text: "automatic contrast", act: () => image.autoContrast() },
  { keys: ["c"], labels: ["C"], text: "next colour map", act: () => image.nextColormap() },
  { keys: ["r"], labels: ["R"], text: "phase or raw", act: () => image.show(image.kind === "phase" ? "raw" : "phase") },
  { keys: ["f"], labels: ["F"], text: "fit the field of view", act: () => image.fit() },
  {
    keys: ["+", "=", "-"],
    labels: ["+", "−"],
    text: "zoom, also with the wheel",
    act: (key) => image.zoomBy(key === "-" ? 1 / 1.5 : 1.5),
  },
  {
    keys: Object.keys(MOVES),
    labels: ["←", "→", "↑", "↓"],
    text: "move, also by dragging",
    act: (key) => image.moveBy(...MOVES[key]),
  },
]);

setInterval(showConnection, 1000);
showKind("phase");
showSituation();
stream.connect();
