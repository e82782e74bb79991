// The columns of a spectrogram: levels of bands on the mel scale.

import { Fft } from "./fft.js";

export const COLUMN_S = 0.02;
export const BANDS = 80;
const WINDOW_S = 0.03;
const HIGHEST_HZ = 8000;
const QUIETEST_DB = -110;

const mel = (hz) => 2595 * Math.log10(1 + hz / 700);
const hz = (mel) => 700 * (10 ** (mel / 2595) - 1);

export class Spectrogram {
  #recording;
  #columns = [];
  #fft;
  #window;
  #bins;
  /** The loudest level so far, in decibels. */
  loudest_db = QUIETEST_DB;

  constructor(recording) {
    this.#recording = recording;
    const size = 2 ** Math.round(Math.log2(WINDOW_S * recording.rate));
    this.#fft = new Fft(size);
    this.#window = Float32Array.from(
      { length: size },
      (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size),
    );
    const highest = mel(Math.min(HIGHEST_HZ, recording.rate / 2));
    this.#bins = Float32Array.from(
      { length: BANDS },
      (_, band) => (hz((highest * (band + 0.5)) / BANDS) / recording.rate) * size,
    );
  }

  /** Whether a column was computed before. */
  has(index) {
    return index in this.#columns;
  }

  /** The levels of a column in decibels, the lowest band first; null where there is no sound yet. */
  column(index) {
    if (this.has(index)) return this.#columns[index];
    const start = Math.round(index * COLUMN_S * this.#recording.rate);
    const samples = this.#recording.slice(start, start + this.#window.length);
    if (samples.length < this.#window.length) return null;
    const power = this.#fft.power(samples.map((x, i) => x * this.#window[i]));
    const whole_db = 20 * Math.log10(this.#window.length / 2);
    const levels_db = this.#bins.map((at, band) => {
      const next = this.#bins[band + 1] ?? at;
      const low = Math.floor(at);
      const part = at - low;
      let most = power[low] * (1 - part) + (power[low + 1] ?? 0) * part;
      // where a band is wider than a bin
      for (let bin = low + 1; bin < next; bin++) most = Math.max(most, power[bin]);
      return Math.max(QUIETEST_DB, 10 * Math.log10(most) - whole_db);
    });
    this.loudest_db = Math.max(this.loudest_db, ...levels_db);
    return (this.#columns[index] = levels_db);
  }
}
