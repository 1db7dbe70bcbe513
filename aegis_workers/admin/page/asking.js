// The dialog in which a switch, or a step with a job, is confirmed.

import { h, show } from "./dom.js";
import { ask } from "./feed.js";
import { fate, names, room } from "./words.js";

const get = (id) => document.getElementById(id);
const VERBS = {
  cancel: ["Cancel", "Calls in flight are closed at the engine. Lines that are there stay, the rest end cancelled."],
  retry: ["Retry", "A new job is made of the items that did not end ok or empty."],
  resume: ["Resume", "The job goes on where it stopped."],
};

// What is done when the open dialog is confirmed; null while it cannot be.
let confirmed = null;
let opened = 0;

/** Show what a switch to `mode` would do, and ask. `seen`: the last overview; `said`: told what came of it. */
export async function forSwitch(mode, seen, said) {
  const number = open(`Switch to ${names[mode]}?`, `Switch to ${names[mode]}`);
  show(get("ask-body"), h("p", { class: "hint" }, "Looking at what would happen…"));
  try {
    const prospect = await ask(`/llm/engine/prospect?mode=${mode}`);
    if (number !== opened) return;
    show(get("ask-body"), prospects(prospect, seen));
    const write = async () => {
      const { mode: now, previous } = await ask("/llm/engine", "PUT", { mode });
      said(`Mode is ${now}${previous ? ` (was ${previous})` : ""}.`);
    };
    ready(write);
  } catch (error) {
    if (number === opened) problem(error);
  }
}

/** Ask whether `verb` is meant for this job. */
export function forJob(verb, job, said) {
  const [title, meaning] = VERBS[verb];
  open(`${title} this job?`, `${title} the job`);
  show(get("ask-body"), h("p", { class: "title" }, job.name || job.id), h("p", {}, meaning));
  ready(async () => {
    await ask(`/jobs/${encodeURIComponent(job.id)}/${verb}`, "POST");
    said(`${title}: ${job.name || job.id}`);
  });
}

/** Do what the dialog asked for, and close it; where that is refused it stays open and says why. */
export async function confirm() {
  if (!confirmed) return;
  const [act, number] = [confirmed, opened];
  wait();
  get("ask-problem").textContent = "";
  try {
    await act();
    if (number === opened) get("ask").close();
  } catch (error) {
    if (number !== opened) return;
    problem(error);
    ready(act);
  }
}

export const dismiss = () => get("ask").close();

function open(title, button) {
  get("ask-title").textContent = title;
  get("ask-yes").textContent = button;
  get("ask-problem").textContent = "";
  wait();
  if (!get("ask").open) get("ask").showModal();
  get("ask-no").focus();
  return ++opened;
}

function ready(act) {
  confirmed = act;
  get("ask-yes").disabled = false;
}

function wait() {
  confirmed = null;
  get("ask-yes").disabled = true;
}

function problem(error) {
  get("ask-problem").textContent = error.message;
}

function prospects({ previous, engines, memory, controller }, seen) {
  return [
    h("p", {}, `The mode is ${previous ?? "not set"}. New calls follow at once; calls in flight end where they are.`),
    h("dl", { class: "fates" }, Object.entries(engines).map(([name, engine]) => fateOf(name, engine, seen))),
    h("p", { class: "hint" }, `Memory: ${room(memory)}${memory?.why ? ` (${memory.why})` : ""}.`),
    controller ? null : h("p", { class: "hint" }, "No controller leads: nothing is started or stopped until one runs."),
  ];
}

function fateOf(name, engine, seen) {
  const [first, ...more] = fate(engine, lastStart(name, seen));
  return h("div", {}, h("dt", {}, names[name]), h("dd", {}, h("strong", {}, first), h("ul", {}, more.map((one) => h("li", {}, one)))));
}

/** How long the engine's last start on record took, in seconds. */
function lastStart(name, seen) {
  for (const { phases } of seen.switches) {
    const coming = phases.filter(({ engine, phase, seconds }) => engine === name && (phase === "starting" || phase === "warming") && seconds);
    if (coming.length) return coming.reduce((sum, { seconds }) => sum + seconds, 0);
  }
  return null;
}
