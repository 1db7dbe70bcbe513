// The only place that asks the server: requests with the token, and the stream of what it sees.

const KEY = "aegis-admin-token";
const BASE = "/api/v1/admin";
// The server says something at least every five seconds.
const SILENCE_MS = 15_000;
const PAUSES_MS = [500, 1_000, 2_000, 4_000];

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  keep: (value) => sessionStorage.setItem(KEY, value.trim()),
  forget: () => sessionStorage.removeItem(KEY),
};

// A header is bytes: a token with other letters goes as UTF-8.
const bytes = (text) => String.fromCharCode(...new TextEncoder().encode(text));

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token.get()) headers.Authorization = `Bearer ${bytes(token.get())}`;
  let answer;
  try {
    answer = await fetch(`${BASE}${path}`, { cache: "no-store", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer.");
  }
  if (!answer.ok) throw new Refused(answer.status, await reason(answer));
  return answer;
}

async function reason(answer) {
  try {
    const body = await answer.json();
    return body.error?.message ?? `The server answered ${answer.status}.`;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}

/** What the server answers, as a value. Raises `Refused`. */
export async function ask(path, method = "GET", body = undefined) {
  const options = { method, signal: AbortSignal.timeout(30_000) };
  if (body !== undefined) Object.assign(options, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  try {
    return await (await request(path, options)).json();
  } catch (error) {
    if (error instanceof Refused) throw error;
    throw new Refused(0, "The server did not answer in time.");
  }
}

/**
 * Follow what the server sees until `signal` ends it. `told` gets `overview` and `problem` events with their values, `lost` a
 * `Refused` each time that the stream ends; it is opened again after a pause, but not where the token is at fault.
 */
export async function follow(signal, told, lost) {
  for (let failures = 0; !signal.aborted; ) {
    try {
      await stream(signal, (name, value) => {
        failures = 0;
        told(name, value);
      });
      throw new Refused(0, "The server ended the connection.");
    } catch (error) {
      if (signal.aborted) return;
      lost(error instanceof Refused ? error : new Refused(0, "The connection broke off."));
      if (error.status === 401) return;
    }
    await pause(PAUSES_MS[Math.min(failures++, PAUSES_MS.length - 1)], signal);
  }
}

function pause(ms, signal) {
  return new Promise((done) => {
    const end = () => done(clearTimeout(timer));
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", end, { once: true });
  });
}

async function stream(signal, told) {
  const broken = new AbortController();
  const end = () => broken.abort();
  signal.addEventListener("abort", end, { once: true });
  let silence = setTimeout(end, SILENCE_MS);
  try {
    const answer = await request("/events", { signal: broken.signal, headers: { Accept: "text/event-stream" } });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(end, SILENCE_MS);
      const blocks = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) deliver(block, told);
    }
  } finally {
    clearTimeout(silence);
    signal.removeEventListener("abort", end);
  }
}

function deliver(block, told) {
  const lines = block.split("\n");
  const field = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).replace(/^ /, ""));
  const data = field("data");
  if (data.length) told(field("event")[0] ?? "message", JSON.parse(data.join("\n")));
}
