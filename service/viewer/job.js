// A job: its row in the list, its progress, and waiting for its end.

import { getJson, sendJson } from "./api.js";
import { element } from "./dom.js";
import { writePlace } from "./place.js";
import { since } from "./words.js";

const ENDED = ["done", "failed", "cancelled"];
const FIRST_WAIT = 500;
const LONGEST_WAIT = 3000;

/** What a job does at the moment, in words. */
export function jobState(job) {
  if (job.state === "queued") return job.position ? `waits, ${job.position} before it` : "waits, next in line";
  if (job.state === "running" && job.progress?.stage) {
    const { stage, done, total } = job.progress;
    return total ? `${stage}: ${done} of ${total}` : stage;
  }
  return job.state;
}

export function jobRow(job) {
  const made = job.state === "done" && job.prediction;
  const href = made ? writePlace({ kind: "predictions", id: job.prediction }) : writePlace({ kind: "jobs", id: job.id });
  return element("li", {},
    element("a", { href, class: "row" },
      element("span", { class: `dot ${job.state}`, "aria-hidden": "true" }),
      element("span", { class: "words" },
        element("b", {}, job.slide_id ?? job.id.slice(0, 8)),
        element("small", {}, jobState(job), " · ", since(job.created)))));
}

/** The job until it has ended, told to `tell` at each look. Stops quietly where `signal` is aborted. */
export async function watchJob(id, tell, signal) {
  for (let wait = FIRST_WAIT; !signal.aborted; wait = Math.min(LONGEST_WAIT, 1.3 * wait)) {
    const job = await getJson(`jobs/${id}`, { signal });
    if (signal.aborted) return;
    tell(job);
    if (ENDED.includes(job.state)) return;
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

export const cancelJob = (id) => sendJson("POST", `jobs/${id}/cancel`);

/** The panel of a job that is on its way or came to nothing. */
export function jobPanel(job, cancelled) {
  const running = !ENDED.includes(job.state);
  const { done = 0, total = 0 } = job.progress ?? {};
  return [
    element("h2", {}, job.slide_id ?? "Job"),
    element("p", { "aria-live": "polite", id: "job-state" }, jobState(job)),
    running && element("progress", total ? { value: done, max: total, "aria-label": "progress" } : { "aria-label": "progress" }),
    job.error && element("p", { class: "problem", role: "alert" }, job.error.what, job.error.remedy ? `; ${job.error.remedy}` : ""),
    running && element("button", { id: "cancel-job", click: cancelled }, "Cancel"),
    job.attempts > 1 && element("p", { class: "quiet" }, `attempt ${job.attempts}`),
  ];
}
