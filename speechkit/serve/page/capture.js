// Runs on the browser's audio thread: posts the microphone's samples to the page in blocks, and null
// after the last one.

const BLOCK_SAMPLES = 2048;

class Capture extends AudioWorkletProcessor {
  #block = new Float32Array(BLOCK_SAMPLES);
  #count = 0;
  #going = true;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.port.postMessage(this.#block.slice(0, this.#count));
      this.port.postMessage(null);
      this.#going = false;
    };
  }

  process([channels]) {
    const [samples] = channels;
    if (samples && this.#going) {
      // a block is a whole number of the browser's quanta of 128 samples
      this.#block.set(samples, this.#count);
      this.#count += samples.length;
      if (this.#count === BLOCK_SAMPLES) {
        this.port.postMessage(this.#block);
        this.#count = 0;
      }
    }
    return this.#going;
  }
}

registerProcessor("capture", Capture);
