// In the audio thread: hands on the microphone's samples in blocks of about 40 ms, and what is left at the end.

const BLOCK_SECONDS = 0.04;

class Tap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(sampleRate * BLOCK_SECONDS));
    this.length = 0;
    this.isOpen = true;
    this.port.onmessage = () => {
      this.send();
      this.port.postMessage(null);
      this.isOpen = false;
    };
  }

  process(inputs) {
    for (const sample of inputs[0][0] ?? []) {
      this.block[this.length++] = sample;
      if (this.length === this.block.length) this.send();
    }
    return this.isOpen;
  }

  send() {
    this.port.postMessage(this.block.slice(0, this.length));
    this.length = 0;
  }
}

registerProcessor("tap", Tap);
