// The microphone as blocks of samples.

/** Errors that are told to people as they are. */
export class Trouble extends Error {}

/** Opens the microphone; `onBlock` gets Float32Arrays, `onEnd` is called if it goes away. Throws Trouble. */
export async function openMicrophone(onBlock, onEnd) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Trouble("Browsers lend the microphone only to pages over https, or from this same computer. You can still choose a file.");
  }
  let stream;
  try {
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new Trouble(whyNot(error));
  }
  const context = new AudioContext();
  await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
  const tap = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  const source = context.createMediaStreamSource(stream);
  let onFlushed;
  tap.port.onmessage = ({ data }) => (data === null ? onFlushed() : onBlock(data));
  source.connect(tap);
  await context.resume();
  for (const track of stream.getTracks()) track.onended = onEnd;

  return {
    sampleRate: context.sampleRate,
    /** Gives back the device; the last block comes before this is done. */
    async close() {
      const flushed = new Promise((resolve) => (onFlushed = resolve));
      tap.port.postMessage(null);
      await Promise.race([flushed, new Promise((resolve) => setTimeout(resolve, 500))]);
      for (const track of stream.getTracks()) track.stop();
      await context.close();
    },
  };
}

function whyNot(error) {
  switch (error.name) {
    case "NotAllowedError":
      return "The browser was told not to use the microphone. Allow it for this page, then record again.";
    case "NotFoundError":
      return "No microphone was found. Plug one in, or choose a file.";
    case "NotReadableError":
      return "The microphone is in use elsewhere. Close the other program, then record again.";
    default:
      return `The microphone does not open (${error.message || error.name}).`;
  }
}

/** Float32 samples as little-endian 16-bit ones. */
export function asPcm16(block) {
  const view = new DataView(new ArrayBuffer(2 * block.length));
  for (let index = 0; index < block.length; index++) {
    const sample = Math.max(-1, Math.min(1, block[index]));
    view.setInt16(2 * index, Math.round(sample * 32767), true);
  }
  return view.buffer;
}

/** Draws how loud it is, the newest at the right; once a frame at most, however many blocks come. */
export class LevelMeter {
  constructor(canvas) {
    this.canvas = canvas;
    this.levels = [];
    this.frame = null;
  }

  show(block) {
    const mean = block.reduce((sum, sample) => sum + sample * sample, 0) / (block.length || 1);
    this.levels.push(Math.max(0, Math.min(1, 1 + Math.log10(Math.sqrt(mean) + 1e-6) / 2.5)));
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = null;
    const { canvas } = this;
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * scale)) [canvas.width, canvas.height] = [width * scale, height * scale];
    const pen = canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.fillStyle = getComputedStyle(canvas).color;
    const step = 5;
    this.levels = this.levels.slice(-Math.ceil(width / step));
    pen.beginPath();
    this.levels.forEach((level, index) => {
      const bar = Math.max(2, level * height);
      pen.roundRect(width - (this.levels.length - index) * step, (height - bar) / 2, 3, bar, 1.5);
    });
    pen.fill();
  }

  clear() {
    this.levels = [];
    this.draw();
  }
}
