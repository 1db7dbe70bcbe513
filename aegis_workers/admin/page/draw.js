// What is shown of an overview. Each function gives nodes for a value, and changes nothing.

import { h } from "./dom.js";
import { clock, count, decimal, lasting, names, plain, room, since, sources, tally } from "./words.js";

const PURPOSE = {
  vllm: ["EXTRACTION", "bulk work, many calls at once"],
  ollama: ["CHAT", "there at once, a handful of calls"],
  auto: ["Dual-Engine", "extraction on vLLM, chat on Ollama"],
};
const LIGHTS = { "Active": "ok", "Inactive": "off", "Disabled": "off", "Starting…": "busy", "Draining…": "busy", "Failed": "bad" };
const ENDED = new Set(["completed", "failed", "expired", "cancelled"]);

const light = (word, stale) => h("span", { class: `light ${stale ? "off" : (LIGHTS[word] ?? "off")}`, "aria-hidden": "true" });

/** A value that is old is never shown as one that holds. */
const dated = (text, stale) => (stale ? `was ${text}` : text);

export function facts(seen, now, stale) {
  const [last] = seen.switches;
  const by = last?.mode === seen.mode ? `${sources[last.source] ?? plain(last.source)}, ${since(last.at, now)} ago` : "as it started";
  return [
    fact("Active mode", dated(names[seen.mode] ?? seen.mode, stale), by, "active-mode"),
    fact("Profile", seen.profile.value ?? "none", origin(seen.profile)),
    fact("Mode to start with", seen.default_mode.value, origin(seen.default_mode)),
    fact("Fallback", seen.fallback.value, origin(seen.fallback)),
    fact("Memory", room(seen.memory), memoryOrigin(seen.memory)),
    fact("Controller", leader(seen.controller), seen.controller ? "leads" : "engines are not looked after"),
  ];
}

const fact = (label, value, origin, id) =>
  h("div", { id, "data-key": label }, h("dt", {}, label), h("dd", {}, h("span", { class: "value" }, breakable(value ?? "not set")), h("span", { class: "origin" }, breakable(origin))));

const ORIGINS = { default: "default", profile: "from the profile", environment: "from the environment", file: "from .env" };

const origin = ({ origin: word }) => ORIGINS[word] ?? word;

/** A text that may be broken after each sign within its words. */
const breakable = (text) => String(text).split(/(?<=[_=/])/).flatMap((part, at) => (at ? [h("wbr"), part] : [part]));

const memoryOrigin = (memory) => (memory ? `${memory.room_for_both ? "room" : "no room"} for both engines, by ${memory.source}` : "a leading controller measures it");

const leader = (controller) => (typeof controller === "object" ? (controller?.name ?? controller?.host ?? "none") : controller) ?? "none";

export function cards(seen, now, stale, focusable) {
  return [card("vllm", seen, now, stale, focusable, engine), card("ollama", seen, now, stale, focusable, engine), card("auto", seen, now, stale, focusable, auto)];
}

function card(mode, seen, now, stale, focusable, body) {
  const chosen = seen.mode === mode;
  const word = mode === "auto" ? (chosen ? "Active" : "Inactive") : seen.engines[mode].word;
  const [purpose, meaning] = PURPOSE[mode];
  return h(
    "article",
    { class: `card ${chosen ? "chosen" : ""}`, id: `card-${mode}`, "data-key": mode },
    h(
      "button",
      {
        type: "button", role: "radio", class: "choose", "aria-checked": String(chosen), "aria-disabled": String(stale),
        "aria-describedby": `about-${mode}`, tabindex: focusable === mode ? "0" : "-1", "data-act": "choose", "data-mode": mode,
      },
      h("span", { class: "mark", "aria-hidden": "true" }),
      h("span", { class: "name" }, names[mode]),
      h("span", { class: "state" }, light(word, stale), h("span", { class: "word" }, dated(word, stale))),
    ),
    h("div", { id: `about-${mode}` }, h("p", { class: "purpose" }, h("strong", {}, purpose), ` ${meaning}`), body(seen, mode, now)),
  );
}

function engine(seen, mode, now) {
  const { tokens_per_s: speed, serves, in_flight: used, limit, reason, phase, phase_since: at, driver } = seen.engines[mode];
  return [
    h(
      "dl",
      { class: "figures" },
      pair("Throughput", speed === null ? "not measured" : `${decimal(speed)} tok/s`),
      pair("Serves now", serves.length ? serves.join(", ") : "nothing"),
      pair("In flight / limit", `${count(used)} / ${count(limit)}`, bar(used, limit, `${names[mode]}: calls in flight`)),
      phase ? pair("Phase", `${phase} for ${since(at, now)}`) : pair("Run by", driver === "external" || !driver ? "someone else" : driver),
    ),
    reason ? h("p", { class: "reason" }, reason) : null,
  ];
}

function auto(seen) {
  const both = Object.values(seen.engines);
  const speeds = both.map(({ tokens_per_s: speed }) => speed).filter((speed) => speed !== null);
  const [used, limit] = ["in_flight", "limit"].map((name) => both.reduce((sum, one) => sum + one[name], 0));
  return [
    h(
      "dl",
      { class: "figures" },
      pair("Throughput", speeds.length ? `${decimal(speeds.reduce((sum, speed) => sum + speed, 0))} tok/s` : "not measured"),
      pair("Serves", "extraction, chat, generation"),
      pair("In flight / limit", `${count(used)} / ${count(limit)}`, bar(used, limit, "Both engines: calls in flight")),
      pair("Runs both", seen.auto.available ? "yes" : "no"),
    ),
    seen.auto.reason ? h("p", { class: "reason" }, seen.auto.reason) : null,
  ];
}

const pair = (label, ...value) => h("div", { "data-key": label }, h("dt", {}, label), h("dd", {}, ...value));

const bar = (value, max, label, kind = "load") => h("progress", { class: kind, value, max: Math.max(1, max), "aria-label": label });

/** The switch that runs, phase by phase. `stepsOf` gives those of an engine. */
export function live(change, stepsOf, now) {
  const over = change.doneAt !== null;
  const steps = Object.fromEntries(["vllm", "ollama"].map((name) => [name, stepsOf(name, change.doneAt ?? now)]));
  const failed = Object.values(steps).some((all) => all.at(-1)?.phase === "failed");
  const going = change.from ? `Switching to ${names[change.mode]}…` : "The engines are changing…";
  const title = !over ? going : failed ? "An engine failed" : `${names[change.mode]}: the engines have followed`;
  const took = lasting((change.doneAt ?? now) - change.at);
  const from = change.from ? `Mode ${change.from} → ${change.mode}. ` : "";
  return [
    h("h2", { id: "live-title" }, light(!over ? "Starting…" : failed ? "Failed" : "Active"), title),
    h("p", { class: "hint" }, `${from}${over ? `Over after ${took}.` : `Begun ${took} ago.`}`),
    Object.entries(steps).map(([name, all]) => (all.length ? track(name, all, over) : null)),
  ];
}

const track = (name, steps, over) =>
  h(
    "div",
    { class: "track", "data-key": name },
    h("h3", {}, names[name]),
    h("ol", {}, steps.map((step, number) => h("li", { class: stepClass(step, over), "data-key": number, "aria-current": step.isLast ? "step" : null }, stepWords(step, over)))),
    steps.at(-1).reason ? h("p", { class: "reason" }, steps.at(-1).reason) : null,
  );

const stepClass = ({ phase, isLast }, over) => (phase === "failed" ? "bad" : isLast && !over ? "now" : "past");

const stepWords = ({ phase, isLast, seconds }, over) => (isLast && (over || ["ready", "stopped", "failed"].includes(phase)) ? phase : `${phase} ${lasting(seconds)}`);

export function errors(seen) {
  const all = [...(seen.mode_problem ? [seen.mode_problem] : []), ...seen.errors.filter((one) => one !== seen.mode_problem)];
  const list = all.length ? h("ul", {}, all.map((one) => h("li", {}, one))) : h("p", { class: "none" }, "Nothing is wrong.");
  return [h("h2", { id: "errors-title" }, "Errors", all.length ? h("span", { class: "badge" }, all.length) : null), list];
}

export function jobs(seen, now, stale) {
  return section("jobs", "Jobs", "No jobs yet.", ["Job", "State", "Progress", "Pace", "Submitted", ""], seen.jobs.map((job) => jobRow(job, now, stale)), "the newest 20");
}

function jobRow(job, now, stale) {
  const left = job.left_s === null ? "" : `${lasting(job.left_s).replace(".0", "")} left`;
  const pace = [job.items_per_s === null ? null : `${decimal(job.items_per_s)} items/s`, left].filter(Boolean).join(", ");
  const failed = job.failed ? h("span", { class: "bad" }, `${count(job.failed)} failed`) : null;
  return {
    key: job.id,
    cells: [
      [h("span", { class: "title" }, job.name || job.id), job.name ? h("span", { class: "origin" }, job.id) : null],
      [plain(job.state), job.waits ? h("span", { class: "reason" }, job.waits) : null],
      [bar(job.done, job.items, `${job.name || job.id}: items done`, "work"), h("span", {}, `${count(job.done)} / ${count(job.items)}`), failed],
      pace || "–",
      `${since(job.created_at, now)} ago`,
      h("span", { class: "acts" }, jobActs(job).map((act) => jobButton(job, act, stale))),
    ],
  };
}

function jobActs(job) {
  if (job.state === "stopped") return ["resume", "cancel"];
  if (!ENDED.has(job.state)) return job.state === "cancelling" ? [] : ["cancel"];
  return job.failed || (job.state !== "completed" && job.done < job.items) ? ["retry"] : [];
}

const jobButton = (job, act, stale) =>
  h(
    "button",
    { type: "button", class: "small", "data-key": act, "data-act": "job", "data-job": job.id, "data-verb": act, disabled: stale, "aria-label": `${act} ${job.name || job.id}` },
    `${act[0].toUpperCase()}${act.slice(1)}…`,
  );

export function queues(seen) {
  const rows = seen.queues.map((queue) => ({
    key: queue.name,
    cells: [queue.name, count(queue.length), queue.oldest_s === null ? "–" : lasting(queue.oldest_s), tally(queue.waiting) || "–"],
  }));
  return section("queues", "Queues", "No queues.", ["Queue", "Messages", "Oldest", "Calls that wait, and for what"], rows);
}

export function switches(seen) {
  const rows = seen.switches.map((one) => ({
    key: `${one.at} ${one.mode} ${one.source}`,
    cells: [
      clock(one.at),
      [h("strong", {}, one.mode), one.previous ? ` from ${one.previous}` : ""],
      sources[one.source] ?? plain(one.source),
      phaseWords(one.phases) || "–",
    ],
  }));
  return section("switches", "Last switches", "No switch is on record.", ["When", "Mode", "By", "Phases"], rows);
}

const phaseWords = (phases) =>
  [...new Set(phases.map(({ engine: name }) => name))]
    .map((name) => `${names[name] ?? name}: ${phases.filter((one) => one.engine === name).map(stepSeconds).join(", ")}`)
    .join(" · ");

const stepSeconds = ({ phase, seconds }) => (seconds === null ? phase : `${phase} ${lasting(seconds)}`);

export function workers(seen, now) {
  const rows = seen.workers.map((one) => ({
    key: one.id,
    cells: [
      one.queue,
      [one.host ?? "", h("span", { class: "origin" }, `pid ${one.pid}`)],
      tally(one.in_flight, (name) => names[name] ?? name) || "0",
      tally(one.waiting) || "–",
      `${since(one.seen_at, now) || "0 s"} ago`,
    ],
  }));
  return section("workers", "Workers", "No worker lives: nothing is taken from the queues.", ["Queue", "Host", "In flight", "Waiting", "Seen"], rows);
}

/** A table with its heading. Roles are said aloud, because on a phone its rows are blocks. */
function section(id, title, none, heads, rows, note) {
  const heading = h("h2", { id: `${id}-title` }, title, note && rows.length ? h("small", {}, ` ${note}`) : null);
  if (!rows.length) return [heading, h("p", { class: "none" }, none)];
  const head = h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads.map((one) => h("th", { role: "columnheader", scope: "col" }, one || h("span", { class: "unseen" }, "Actions")))));
  const body = h("tbody", { role: "rowgroup" }, rows.map(({ key, cells }) => h("tr", { role: "row", "data-key": key }, cells.map((cell, at) => h("td", { role: "cell", "data-label": heads[at], class: cell === "–" ? "empty" : null }, h("div", {}, cell))))));
  return [heading, h("table", { role: "table", "aria-labelledby": `${id}-title` }, head, body)];
}
