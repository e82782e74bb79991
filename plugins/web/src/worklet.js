// Runs on the audio thread: gathers the microphone's samples and posts them to the page.

const BLOCK_S = 0.02;

class SpeechkitMicrophone extends AudioWorkletProcessor {
  #block = new Float32Array(Math.round(BLOCK_S * sampleRate));
  #filled = 0;
  #open = true;

  constructor() {
    super();
    // the page ends it, and gets the last samples
    this.port.onmessage = () => {
      this.#open = false;
      this.#post();
      this.port.postMessage(null);
    };
  }

  process([[samples]]) {
    for (let at = 0; this.#open && samples && at < samples.length; ) {
      const part = samples.subarray(at, at + this.#block.length - this.#filled);
      this.#block.set(part, this.#filled);
      at += part.length;
      this.#filled += part.length;
      if (this.#filled === this.#block.length) this.#post();
    }
    return this.#open;
  }

  #post() {
    this.port.postMessage(this.#block.slice(0, this.#filled));
    this.#filled = 0;
  }
}

registerProcessor("speechkit-microphone", SpeechkitMicrophone);
