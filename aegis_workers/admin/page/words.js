// Numbers and times in words. All times are epoch seconds of the server.

export const count = (value) => Number(value ?? 0).toLocaleString("en");

export const decimal = (value) => (value < 10 ? value.toFixed(1) : count(Math.round(value)));

export function lasting(seconds) {
  const s = Math.max(0, seconds);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${(s / 3600).toFixed(1)} h`;
  return `${Math.round(s / 86400)} days`;
}

/** Whole seconds: what ticks must not flicker. */
export const since = (at, now) => (at ? lasting(Math.floor(now - at)).replace(".0 s", " s") : "");

export function clock(at) {
  const when = new Date(at * 1000);
  const time = when.toLocaleTimeString("en-GB");
  return when.toDateString() === new Date().toDateString() ? time : `${when.toLocaleDateString("en-CA")} ${time}`;
}

export const plain = (word) => String(word).replaceAll("_", " ");

export const names = { vllm: "vLLM", ollama: "Ollama", auto: "Auto" };

export const sources = { api: "API", cli: "CLI", task: "task", raw: "raw write", default: "start-up default" };

/** Why calls wait, or where calls are: a mapping of words to counts, as one line. */
export const tally = (counts, label = plain) =>
  Object.entries(counts ?? {})
    .filter(([, number]) => number > 0)
    .map(([word, number]) => `${label(word)}: ${count(number)}`)
    .join(" · ");

const acts = {
  start: "will start",
  stop: "will stop",
  keep: "goes on",
  await: "should run; someone else runs it, and has to start it",
  fence: "gets no more calls; someone else runs it, and has to stop it",
  leave: "stays as it is",
  nothing: "stays stopped",
};

/** What a switch means for one engine, in sentences. `tookS`: how long its last start took, if that is known. */
export function fate(engine, tookS) {
  if (!engine.configured) return ["is not configured"];
  const told = [acts[engine.act] ?? plain(engine.act)];
  if (engine.act === "start") {
    told.push(`needs ${engine.needs_gb} GB of memory`);
    told.push(tookS ? `its last start took ${lasting(tookS)}` : "how long a start takes is not known yet");
  }
  if (engine.act === "stop" || engine.act === "fence") {
    const calls = engine.in_flight === 1 ? "1 call in flight" : `${count(engine.in_flight)} calls in flight`;
    const then = engine.drain_then === "close" ? "then they are closed and wait again" : "and then as long as they need";
    told.push(engine.in_flight ? `drains ${calls} first: up to ${lasting(engine.drain_s).replace(".0", "")}, ${then}` : "has no calls in flight to drain");
  }
  return engine.reason ? [...told, engine.reason] : told;
}

export function room(memory) {
  if (!memory) return "not measured";
  const free = memory.free_gb === null ? "not measurable" : `${memory.free_gb.toFixed(1)} GB free`;
  const of = memory.free_gb === null || memory.total_gb === null ? "" : ` of ${memory.total_gb.toFixed(1)} GB`;
  return `${free}${of}`;
}
