// All sound so far, kept for the picture, for cuts, and for other thresholds.

const PAGE_SAMPLES = 2 ** 16;

export class Recording {
  #pages = [];
  length_samples = 0;
  ended = false;

  /** Samples at `rate` hertz; `name` is that of the files made from it. */
  constructor(name, rate) {
    this.name = name;
    this.rate = rate;
  }

  get duration_s() {
    return this.length_samples / this.rate;
  }

  append(samples) {
    for (let done = 0; done < samples.length; ) {
      const offset = this.length_samples % PAGE_SAMPLES;
      if (offset === 0) this.#pages.push(new Float32Array(PAGE_SAMPLES));
      const part = samples.subarray(done, done + PAGE_SAMPLES - offset);
      this.#pages.at(-1).set(part, offset);
      done += part.length;
      this.length_samples += part.length;
    }
  }

  /** A copy of the samples from `start` to `end`, or to the end of the sound. */
  slice(start, end) {
    const found = new Float32Array(Math.max(0, Math.min(end, this.length_samples) - start));
    for (let done = 0; done < found.length; ) {
      const offset = (start + done) % PAGE_SAMPLES;
      const page = this.#pages[Math.floor((start + done) / PAGE_SAMPLES)];
      const part = page.subarray(offset, offset + found.length - done);
      found.set(part, done);
      done += part.length;
    }
    return found;
  }
}
