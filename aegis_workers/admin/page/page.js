// The page: what was last seen, whether it still holds, and what its buttons do.

import * as asking from "./asking.js";
import { show } from "./dom.js";
import * as draw from "./draw.js";
import { follow, token } from "./feed.js";
import * as track from "./track.js";
import { clock, names, plain } from "./words.js";

const MODES = ["vllm", "ollama", "auto"];
const get = (id) => document.getElementById(id);

// `seen` is the newest overview, `seenAt` when it came; `trouble` says why it no longer holds, and since when.
const state = { seen: null, seenAt: 0, trouble: null, change: null, focusable: null, following: null };

const seconds = () => Date.now() / 1000;
/** The server's clock, going on from the last overview. */
const now = () => state.seen.now + Math.max(0, seconds() - state.seenAt);

function start() {
  state.following?.abort();
  state.following = new AbortController();
  const { signal } = state.following;
  follow(signal, told, lost);
}

function told(name, value) {
  if (name === "overview") {
    announce(state.seen, value);
    Object.assign(state, { seen: value, seenAt: seconds(), trouble: null, change: track.note(value) });
    state.focusable ??= value.mode;
    if (!performance.getEntriesByName("ready").length) queueMicrotask(() => performance.mark("ready"));
  } else if (name === "problem") fail(`Redis cannot be used: ${value.message}`);
  drawAll();
}

function lost(error) {
  if (error.status === 401) askForToken();
  else fail(error.message);
  drawAll();
}

function fail(why) {
  const at = state.trouble?.at ?? seconds();
  state.trouble = { why, at };
}

function drawAll() {
  const { seen, trouble } = state;
  drawConnection();
  if (!seen || !get("token").hidden) return;
  const stale = trouble !== null;
  get("main").hidden = false;
  document.body.classList.toggle("stale", stale);
  show(get("facts"), draw.facts(seen, now(), stale));
  show(get("cards"), draw.cards(seen, now(), stale, state.focusable));
  get("live").hidden = !state.change;
  if (state.change) show(get("live"), draw.live(state.change, track.stepsOf, stale ? seen.now : now()));
  show(get("errors"), draw.errors(seen));
  show(get("jobs"), draw.jobs(seen, now(), stale));
  show(get("queues"), draw.queues(seen));
  show(get("switches"), draw.switches(seen));
  show(get("workers"), draw.workers(seen, now()));
}

function drawConnection() {
  const { seen, trouble } = state;
  const word = trouble ? "Disconnected" : seen ? "Live" : get("token").hidden ? "Connecting…" : "Token needed";
  if (get("connection").textContent !== word) get("connection").textContent = word;
  get("connection").className = `pill ${trouble ? "bad" : seen ? "ok" : ""}`;
  get("forget").hidden = !token.get();
  const old = trouble && seen ? ` What is shown is of ${clock(state.seenAt)}, and may be wrong by now.` : "";
  const banner = trouble ? `Disconnected since ${clock(trouble.at)}. ${trouble.why.replace(/\.?$/, ".")}${old} Trying again by itself.` : "";
  if (get("banner").textContent !== banner) get("banner").textContent = banner;
  document.title = `${trouble ? "⚠ disconnected" : seen ? `${seen.errors.length ? "⚠ " : ""}${seen.mode}` : "…"} · aegis-workers`;
}

/** Say what changed, and not the numbers: they change all the time. */
function announce(old, value) {
  if (state.trouble) say("Connected again.");
  if (!old) return;
  const news = [];
  if (old.mode !== value.mode) news.push(`Mode is ${value.mode}.`);
  for (const [name, engine] of Object.entries(value.engines)) {
    if (old.engines[name].word !== engine.word) news.push(`${names[name]}: ${engine.word}${engine.reason ? `, ${engine.reason}` : ""}.`);
  }
  const known = new Map(old.jobs.map((job) => [job.id, job.state]));
  for (const job of value.jobs) if (known.has(job.id) && known.get(job.id) !== job.state) news.push(`Job ${job.name || job.id}: ${plain(job.state)}.`);
  if (news.length) say(news.join(" "));
}

const say = (text) => (get("said").textContent = text);

function askForToken() {
  const wrong = token.get() !== null;
  token.forget();
  Object.assign(state, { seen: null, trouble: null, change: null });
  if (get("ask").open) asking.dismiss();
  document.body.classList.remove("stale");
  get("main").hidden = true;
  show(get("facts"));
  get("token").hidden = false;
  get("token-problem").textContent = wrong ? "That token is wrong: the server refused it." : "";
  get("token-value").value = "";
  get("token-value").focus();
}

function tokenGiven(event) {
  event.preventDefault();
  token.keep(get("token-value").value);
  get("token").hidden = true;
  get("token-problem").textContent = "";
  start();
  drawAll();
}

function choose(mode) {
  if (state.trouble || !state.seen) return;
  state.focusable = mode;
  drawAll();
  get(`card-${mode}`).querySelector("[role=radio]").focus();
  asking.forSwitch(mode, state.seen, say);
}

const acts = {
  choose: ({ mode }) => choose(mode),
  confirm: () => asking.confirm(),
  dismiss: () => asking.dismiss(),
  forget: () => {
    token.forget();
    state.following?.abort();
    askForToken();
    drawAll();
  },
  job: ({ job, verb }) => {
    const found = state.seen.jobs.find(({ id }) => id === job);
    if (found) asking.forJob(verb, found, say);
  },
};

function clicked({ target }) {
  const button = target.closest("[data-act]");
  if (button) acts[button.dataset.act](button.dataset);
  else if (target.closest(".card") && getSelection().isCollapsed) choose(target.closest(".card").dataset.key);
}

/** Arrow keys move between the cards and choose nothing: a choice asks a question. */
function pressed(event) {
  const card = event.target.closest?.("[role=radio]");
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!card || !step) return;
  event.preventDefault();
  state.focusable = MODES.at((MODES.indexOf(card.dataset.mode) + step) % MODES.length);
  drawAll();
  get(`card-${state.focusable}`).querySelector("[role=radio]").focus();
}

document.addEventListener("click", clicked);
document.addEventListener("keydown", pressed);
get("token").addEventListener("submit", tokenGiven);
setInterval(() => !document.hidden && drawAll(), 1_000);
start();
