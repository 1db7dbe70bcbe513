// The phases of the switch that runs, as they are seen, until every engine has come to rest.

const AT_REST = new Set(["stopped", "ready", "failed"]);
const SHOWN_S = 90;
// An engine that failed may be followed by another one that comes in its place: that is still the same switch.
const SAME_S = 10;
// How long a first step is waited for.
const PATIENCE_S = 60;

let current = null;
let before = null;

const phases = (overview) =>
  Object.entries(overview.engines).map(([engine, { phase, phase_since, phase_reason }]) => ({ engine, phase, at: phase_since, reason: phase_reason }));

const moves = (overview) => phases(overview).some(({ phase }) => phase && !AT_REST.has(phase));

/** Take note of an overview. Returns the switch to show, or null: `{mode, from, at, steps, doneAt}`. */
export function note(overview) {
  const switched = before && before.mode !== overview.mode;
  if (switched || (!current && moves(overview)) || (current?.doneAt && overview.now - current.doneAt > SAME_S && moves(overview))) {
    const at = switched ? switchedAt(overview) : movedAt(overview);
    current = { mode: overview.mode, from: switched ? before.mode : null, at, steps: [], doneAt: null, moved: false };
  }
  before = overview;
  if (!current) return null;
  for (const step of phases(overview)) keep(step);
  if (moves(overview)) Object.assign(current, { doneAt: null, moved: true });
  else if (!current.doneAt && isOver(overview)) current.doneAt = overview.now;
  if (current.doneAt && overview.now - current.doneAt > SHOWN_S) current = null;
  return current;
}

const switchedAt = ({ now, mode, switches: [last] }) => (last?.mode === mode ? last.at : now);

/** What moves without a switch that was seen: the page came later, or an engine is started anew. */
const movedAt = (overview) => Math.min(overview.now, ...phases(overview).filter(({ phase }) => phase && !AT_REST.has(phase)).map(({ at }) => at));

/**
 * Whether the engines have come to rest. Between one that has left and one that waits for its memory all of them stand still:
 * then the controller's record of the switch tells, or an engine that is ready or failed. Without a controller there are no phases.
 */
function isOver(overview) {
  const all = phases(overview).map(({ phase }) => phase);
  const [last] = overview.switches;
  if (all.every((phase) => !phase)) return true;
  if (last?.mode === overview.mode && last.at >= current.at && last.phases.length) return true;
  return current.moved ? all.some((phase) => phase === "ready" || phase === "failed") : overview.now - current.at > PATIENCE_S;
}

function keep(step) {
  if (!step.phase) return;
  const known = current.steps.filter(({ engine }) => engine === step.engine);
  const last = known.at(-1);
  if (last?.phase === step.phase && last.at === step.at) last.reason = step.reason;
  else current.steps.push(step);
}

/** The steps of one engine, each with how long it took or, for the last, has lasted until `now`. */
export function stepsOf(engine, now) {
  const all = current.steps.filter((step) => step.engine === engine);
  const timed = all.map((step, number) => ({ ...step, isLast: step === all.at(-1), seconds: (all[number + 1]?.at ?? now) - step.at }));
  return timed.filter(({ phase, isLast }) => isLast || !AT_REST.has(phase));
}
