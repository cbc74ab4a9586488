/** What the service sends: shapes of the stream's messages and of the REST bodies that the page reads. */

/** @typedef {"phase" | "raw"} Kind */

/**
 * Header of a preview message; lengths count pixels of the image of `kind`, `width` and `height` count bins.
 *
 * @typedef {object} Header
 * @property {number} seq
 * @property {Kind} kind
 * @property {number} x
 * @property {number} y
 * @property {number} bin
 * @property {number} width
 * @property {number} height
 * @property {number} hr_pixel_um
 * @property {number} pixel_um
 * @property {number} full_width
 * @property {number} full_height
 * @property {number} bit_depth
 * @property {string} time_utc_ns
 * @property {number} age_ms
 * @property {number | null} defocus_um
 * @property {"live" | "run"} source
 * @property {string | null} run_id
 * @property {number | null} time_point
 * @property {boolean} out_of_range
 * @property {number} saturated_fraction
 * @property {number | null} misfit 1 is usual for matched frames; null where the phase was not judged
 * @property {number | null} misfit_threshold above it the phase does not explain the frame
 * @property {number} dropped
 */

/**
 * A preview message on the page.
 *
 * @typedef {object} Frame
 * @property {Header} header
 * @property {Uint16Array} bits float16 values, row by row
 * @property {number} receivedAt `performance.now()` of its arrival
 */

/** @typedef {"queued" | "running" | "completed" | "cancelled" | "failed" | "interrupted"} RunState */

/**
 * @typedef {object} Run
 * @property {string} id
 * @property {string} name
 * @property {RunState} state
 * @property {string | null} reason
 * @property {number} time_points
 * @property {number} interval_s
 * @property {number} defocus_um
 * @property {string} created_utc
 * @property {string | null} started_utc
 * @property {string | null} ended_utc
 * @property {{expected: number, raw_written: number, raw_missing: number, phase_written: number, phase_missing: number}} counters
 * @property {number | null} remaining_s
 * @property {number | null} misfit of the latest phase that was judged
 * @property {string} path
 * @property {string[]} warnings
 */

/** @typedef {{name: string, time_points: number, interval_s: number, defocus_um: number}} Plan */

/** @typedef {{bytes: number, duration_s: number | null, warnings: string[], disk_free_bytes: number}} Estimate */

/** @typedef {{running: boolean, fault: string | null}} Live */

/** @typedef {{state: "starting" | "ready" | "restarting" | "stopped", runtime: string | null, restarts: number}} Inference */

/**
 * @typedef {object} Microscope
 * @property {{name: string, fault: string | null, defocus_um: number | null, defocus_limits_um: [number, number] | null}} microscope
 * @property {number | null} stated_defocus_um
 * @property {{name: string, version: string, sha256: string}} model in use
 * @property {string[]} range_problems what lies outside that model's valid range
 * @property {string[]} advice which model fits then, or which is the nearest and how to train one
 * @property {Live} live
 * @property {Inference} inference
 * @property {Run | null} run
 */

/**
 * @typedef {{kind: "run"} & Run
 *   | {kind: "live"} & Live
 *   | {kind: "inference"} & Inference
 *   | {kind: "fault", message: string}
 *   | {kind: "heartbeat"}} StreamEvent
 */

export {};
