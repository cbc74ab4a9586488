/** Starts the page: connects the parts to the stream and to each other. */

/** @import { Inference, Kind, Live, Run, StreamEvent } from "./types.js" */

import { Banners } from "./banners.js";
import { byId, setText } from "./dom.js";
import { Hud } from "./hud.js";
import { ImageView } from "./image.js";
import { LiveButton } from "./live.js";
import { RunProgress } from "./progress.js";
import { STREAM_URL, RequestError, readMicroscope, readRuns } from "./rest.js";
import { RunList } from "./runs.js";
import { installShortcuts } from "./shortcuts.js";
import { Stream } from "./stream.js";
import { TimeLapseForm } from "./timelapse.js";

const ACTIVE = new Set(["queued", "running"]);
/** Below this a few hot pixels are at the camera's limit, not the image. */
const SATURATED_FROM = 0.0005;

const status = byId("status", HTMLElement);
const banners = new Banners();
/** @type {Live} */
let live = { running: false, fault: null };
/** @type {Inference} */
let inference = { state: "starting", runtime: null, restarts: 0 };
/** @type {Run | null} the run that has the microscope */
let run = null;
/** @type {string[]} */
let rangeProblems = [];
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
  live = state;
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
    live = state.live;
    inference = state.inference;
    rangeProblems = state.range_problems;
    run = state.run && ACTIVE.has(state.run.state) ? state.run : null;
    setText(byId("microscope-name", HTMLElement), state.microscope.name);
    runs.replace(known);
    form.proposeDefocus(state.microscope.defocus_um ?? state.stated_defocus_um);
    form.refresh();
    if (state.microscope.fault) showFault(state.microscope.fault);
    else if (!live.fault) banners.clear("fault");
    if (live.fault) showFault(live.fault);
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
    live = event;
    if (event.running) banners.clear("fault");
  } else if (event.kind === "inference") {
    inference = event;
  } else if (event.kind === "fault") {
    showFault(event.message);
  } else {
    return;
  }
  showSituation();
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
  liveButton.show(live.running, lost ? "No connection." : run ? "A run has the microscope." : "");
  progress.show(run);
  byId("time-lapse", HTMLElement).hidden = run !== null;
  document.body.classList.toggle("is-offline", lost);
  showInference();
  hud.update();
}

function showInference() {
  const label = byId("inference", HTMLElement);
  setText(label, inference.state === "ready" ? (inference.runtime ?? "ready") : `inference ${inference.state}`);
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
    banners.show("range", {
      level: "notice",
      title: "Outside the model's valid range.",
      detail: rangeProblems.join(" ") || "Phase values of this setting are not validated.",
      dismissable: true,
    });
  } else {
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

/** @param {string} message */
function showFault(message) {
  banners.show("fault", { level: "problem", title: "Device fault.", detail: message, dismissable: true });
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
installShortcuts([
  { keys: [" "], label: "Space", text: "start or stop live", act: () => void liveButton.toggle() },
  { keys: ["a"], label: "A", text: "automatic contrast", act: () => image.autoContrast() },
  { keys: ["c"], label: "C", text: "next colour map", act: () => image.nextColormap() },
  { keys: ["r"], label: "R", text: "phase or raw", act: () => image.show(image.kind === "phase" ? "raw" : "phase") },
  { keys: ["f"], label: "F", text: "fit the field of view", act: () => image.fit() },
  { keys: ["+", "="], label: "+", text: "zoom in (also the wheel)", act: () => image.zoomBy(1.5) },
  { keys: ["-"], label: "−", text: "zoom out", act: () => image.zoomBy(1 / 1.5) },
  { keys: ["ArrowLeft"], label: "←", text: "move (also by dragging)", act: () => image.moveBy(-0.1, 0) },
  { keys: ["ArrowRight"], label: "→", text: "move right", act: () => image.moveBy(0.1, 0) },
  { keys: ["ArrowUp"], label: "↑", text: "move up", act: () => image.moveBy(0, -0.1) },
  { keys: ["ArrowDown"], label: "↓", text: "move down", act: () => image.moveBy(0, 0.1) },
]);

setInterval(showConnection, 1000);
showKind("phase");
showSituation();
stream.connect();
