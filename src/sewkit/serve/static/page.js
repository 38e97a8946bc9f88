// The page: sound from the microphone or a file to words, and what the server is doing meanwhile.

import { ComputeControl, withUnit } from "./compute.js";
import { LevelMeter, Trouble, asPcm16, openMicrophone } from "./microphone.js";
import { TranscriptView, breakable, clock } from "./transcript.js";

const POLL_MS = 1000;
const BEHIND_SECONDS = 5;
const PROTOCOL = "sewkit";
const KEY_PROTOCOL = "openai-insecure-api-key.";

const byId = (id) => document.getElementById(id);
const at = (path) => new URL(path, document.baseURI);
const transcript = new TranscriptView(byId("transcript"), byId("empty"), byId("detail"), byId("spoken"), showActions);
const compute = new ComputeControl(byId, (request) => session?.setCompute(request));
const meter = new LevelMeter(byId("level"));
let session = null;
let upload = null;

// Trouble, in plain words

function complain(error) {
  if (!(error instanceof Trouble)) console.error(error);
  byId("alert-text").textContent = error instanceof Trouble ? error.message : "Something went wrong on this page. Reload it and try again.";
  byId("alert").hidden = false;
}

function calm() {
  byId("alert").hidden = true;
}

// The key, where the server asks for one

const key = {
  get value() {
    return sessionStorage.getItem("key");
  },
  get headers() {
    return this.value ? { Authorization: `Bearer ${this.value}` } : {};
  },
  ask() {
    byId("key-form").hidden = false;
  },
};

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", byId("key").value.trim());
  byId("key-form").hidden = true;
  poll();
});

// Live

class LiveSession {
  /** Throws Trouble if the microphone or the server is not there. */
  static async open() {
    const live = new LiveSession();
    live.microphone = await openMicrophone((block) => live.take(block), () => live.stop());
    try {
      await live.connect();
    } catch (error) {
      await live.microphone.close();
      throw error;
    }
    return live;
  }

  constructor() {
    this.early = [];
    this.seconds = 0;
    this.ended = new Promise((resolve) => (this.end = resolve));
  }

  connect() {
    const url = at("v1/stream");
    url.protocol = url.protocol.replace("http", "ws");
    url.searchParams.set("sample_rate", this.microphone.sampleRate);
    if (compute.request !== null) url.searchParams.set("compute", compute.request);
    this.socket = new WebSocket(url, key.value ? [PROTOCOL, KEY_PROTOCOL + key.value] : [PROTOCOL]);
    return new Promise((resolve, reject) => {
      this.socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        if (event.type === "ready") resolve();
        if (event.type === "error") reject(new Trouble(sentence(event.message)));
        this.hear(event);
      };
      this.socket.onclose = () => {
        reject(new Trouble("The server does not answer. Is it running, and is the key right?"));
        this.stop();
        this.end();
      };
    });
  }

  take(block) {
    this.seconds += block.length / (this.microphone?.sampleRate ?? 48000);
    byId("clock").textContent = clock(this.seconds);
    meter.show(block);
    if (this.socket?.readyState !== WebSocket.OPEN) {
      this.early.push(block);
      return;
    }
    for (const waiting of this.early.splice(0)) this.socket.send(asPcm16(waiting));
    this.socket.send(asPcm16(block));
    this.watch(this.socket.bufferedAmount / (2 * this.microphone.sampleRate));
  }

  /** Tell people while the server is so many seconds behind. */
  watch(behind) {
    if (behind > BEHIND_SECONDS) complain(new Trouble(`The server is ${Math.round(behind)} seconds behind. Nothing is lost; words come later.`));
    else if (this.isBehind) calm();
    this.isBehind = behind > BEHIND_SECONDS;
  }

  hear(event) {
    if (event.type === "partial") transcript.partial(event);
    if (event.type === "final") {
      transcript.final(event);
      this.lastPoint = event.compute;
    }
    if (event.type === "done") this.isDone = true;
    if (event.type === "error") complain(new Trouble(sentence(event.message)));
  }

  setCompute(request) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "compute", compute: request }));
  }

  /** Let go of the microphone; the last words are still to come. */
  async stop() {
    if (this.isStopping) return;
    this.isStopping = true;
    showStage("finishing");
    await this.microphone.close();
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "finish" }));
  }
}

async function record() {
  calm();
  showStage("opening");
  try {
    session = await LiveSession.open();
  } catch (error) {
    showStage("ready");
    return complain(error);
  }
  showStage("recording");
  const complete = transcript.begin("Microphone");
  await session.ended;
  transcript.dropPartial();
  const point = session.lastPoint ? ` · ended at ${session.lastPoint}` : "";
  complete(`${clock(session.seconds)}${point}`);
  if (!session.isDone && byId("alert").hidden) complain(new Trouble("The connection broke; the words up to there are kept."));
  session = null;
  showStage("ready");
}

const LABELS = { ready: "Record", opening: "Opening…", recording: "Stop", finishing: "Finishing…" };

function showStage(stage) {
  byId("record").setAttribute("aria-pressed", String(stage === "recording"));
  byId("record").disabled = stage === "opening" || stage === "finishing";
  byId("record-label").textContent = LABELS[stage];
  byId("live").hidden = stage !== "recording" && stage !== "finishing";
  byId("drop").hidden = !byId("live").hidden;
  if (stage === "ready") {
    meter.clear();
    byId("clock").textContent = "0:00";
  }
}

byId("record").addEventListener("click", () => (session ? session.stop() : record()));

// Files

async function transcribeFiles(files) {
  calm();
  for (const file of files) {
    byId("record").disabled = true;
    byId("progress").hidden = false;
    try {
      await transcribeFile(file);
    } catch (error) {
      if (error === "cancelled") break;
      complain(error);
    }
  }
  byId("record").disabled = false;
  byId("progress").hidden = true;
}

async function transcribeFile(file) {
  const form = new FormData();
  form.append("model", model ?? "");
  form.append("response_format", "verbose_json");
  form.append("timestamp_granularities[]", "word");
  form.append("timestamp_granularities[]", "segment");
  if (compute.request !== null) form.append("compute", compute.request);
  form.append("file", file);
  const began = performance.now();
  const answer = await send(form, (share) => showProgress(file.name, share));
  const seconds = (performance.now() - began) / 1000;
  const complete = transcript.begin(file.name);
  for (const segment of answer.segments) {
    const words = answer.words.filter(({ start }) => start >= segment.start - 1e-6 && start <= segment.end);
    transcript.final({ words, compute: answer.compute });
  }
  if (!answer.segments.length) complain(new Trouble(`No words were heard in ${file.name}.`));
  complete(`${clock(answer.duration)} of sound heard at ${answer.compute} in ${seconds.toFixed(1)} s`);
}

/** Posts a form; XMLHttpRequest, because fetch does not tell how far an upload is. Throws Trouble or "cancelled". */
function send(form, onProgress) {
  return new Promise((resolve, reject) => {
    upload = new XMLHttpRequest();
    upload.open("POST", at("v1/audio/transcriptions"));
    for (const [name, value] of Object.entries(key.headers)) upload.setRequestHeader(name, value);
    upload.upload.onprogress = ({ loaded, total }) => onProgress(loaded / total);
    upload.onerror = () => reject(new Trouble("The server does not answer, or refused the file while it was being sent."));
    upload.onabort = () => reject("cancelled");
    upload.onload = ({ target }) => {
      if (target.status === 200) return resolve(JSON.parse(target.responseText));
      if (target.status === 401) key.ask();
      reject(new Trouble(refusal(target)));
    };
    upload.send(form);
  });
}

function refusal(answer) {
  let message;
  try {
    message = JSON.parse(answer.responseText).error.message;
  } catch {
    message = `the server answered with status ${answer.status}`;
  }
  const wait = answer.getResponseHeader("Retry-After");
  return sentence(answer.status === 429 && wait ? `the server is busy; try again in ${wait} seconds` : message);
}

function showProgress(name, share) {
  byId("progress-text").textContent = share < 1 ? `Sending ${name}` : `Listening to ${name}`;
  if (share < 1) byId("progress-bar").value = share;
  else byId("progress-bar").removeAttribute("value");
}

byId("file").addEventListener("change", async ({ target }) => {
  await transcribeFiles([...target.files]);
  target.value = "";
});
byId("cancel").addEventListener("click", () => upload?.abort());

for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("is-dragging");
  });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    if (kind === "drop" || !event.relatedTarget) document.body.classList.remove("is-dragging");
  });
}
document.addEventListener("drop", ({ dataTransfer }) => {
  if (session) return complain(new Trouble("Stop recording first, then drop the file."));
  transcribeFiles([...dataTransfer.files]);
});

// What to do with the words

function showActions() {
  const hasText = transcript.text !== "";
  for (const id of ["copy", "save", "clear"]) byId(id).disabled = !hasText;
}

byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(transcript.text);
    byId("copy").textContent = "Copied";
    setTimeout(() => (byId("copy").textContent = "Copy"), 1500);
  } catch {
    complain(new Trouble("The browser does not let this page copy. Select the words, or use Save."));
  }
});
byId("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${transcript.text}\n`], { type: "text/plain" }));
  link.download = "transcript.txt";
  link.click();
  URL.revokeObjectURL(link.href);
});
byId("clear").addEventListener("click", () => {
  transcript.clear();
  byId("transcript").focus();
});
byId("alert-close").addEventListener("click", calm);

// What the server is doing

let model = null;
let timer = null;

async function poll() {
  clearTimeout(timer);
  try {
    const answer = await fetch(at("v1/state"), { headers: key.headers, cache: "no-store" });
    if (answer.status === 401) key.ask();
    else if (answer.ok) showState(await answer.json());
    else throw new Error(answer.status);
    if (answer.status === 401) showPulse("away", "key needed");
  } catch {
    showPulse("away", "not reachable");
  }
  if (!document.hidden) timer = setTimeout(poll, POLL_MS);
}

function showState(state) {
  model = state.model;
  compute.update(state);
  const { requests, chunks, audio_seconds: sound } = state.queue;
  const load = Math.round(100 * state.busy);
  byId("fact-model").textContent = state.model;
  byId("fact-point").textContent = breakable(state.compute);
  byId("fact-queue").textContent = requests || chunks ? `${requests} files, ${sound.toFixed(1)} s of sound` : "nobody";
  byId("fact-load").value = Math.min(1, state.busy);
  byId("fact-load-text").textContent = `${load} %`;
  byId("fact-p95").textContent = state.p95_ms === null ? "–" : withUnit(state.p95_ms);
  byId("fact-goal").textContent = withUnit(state.target_p95_ms);
  if (state.draining) showPulse("away", "going down");
  else if (state.busy > 0.7) showPulse("busy", "busy");
  else showPulse("idle", requests || session ? "listening" : "ready");
}

function showPulse(state, text) {
  byId("pulse").dataset.state = state;
  byId("pulse-text").textContent = text;
}

function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

document.addEventListener("visibilitychange", () => !document.hidden && poll());
poll();
