// Feeds a recording to a stream, no faster than the stream can send it. What waits stays in the
// recording, so that a slow connection delays the events and loses no sound.

const BLOCK_S = 0.5;
const MOST_UNSENT_S = 2;

export class Feeder {
  #recording;
  #stream;
  #fed_samples = 0;
  finished = false;

  constructor(recording, stream) {
    this.#recording = recording;
    this.#stream = stream;
  }

  /** Feeds what there is, as far as the stream has room. */
  pump() {
    const { rate, length_samples, ended } = this.#recording;
    while (this.#fed_samples < length_samples && this.#stream.unsent_s < MOST_UNSENT_S) {
      const end = this.#fed_samples + Math.ceil(BLOCK_S * rate);
      const samples = this.#recording.slice(this.#fed_samples, end);
      this.#stream.feed(samples);
      this.#fed_samples += samples.length;
    }
    if (ended && !this.finished && this.#fed_samples === length_samples) {
      this.finished = true;
      this.#stream.finish();
    }
  }

  /** The seconds of sound that have not left yet. */
  get behind_s() {
    const waiting = this.#recording.length_samples - this.#fed_samples;
    return waiting / this.#recording.rate + this.#stream.unsent_s;
  }
}
