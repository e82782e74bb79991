// The fast Fourier transform (Cooley and Tukey, radix 2) of real samples.

export class Fft {
  #size;
  #order;
  #cos;
  #sin;
  #re;
  #im;

  /** Transforms of `size` samples, a power of two. */
  constructor(size) {
    const bits = Math.log2(size);
    this.#size = size;
    this.#order = Uint32Array.from({ length: size }, (_, i) => {
      let reversed = 0;
      for (let bit = 0; bit < bits; bit++) reversed |= ((i >> bit) & 1) << (bits - 1 - bit);
      return reversed;
    });
    this.#cos = Float32Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.#sin = Float32Array.from({ length: size / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / size));
    this.#re = new Float32Array(size);
    this.#im = new Float32Array(size);
  }

  /** The power of each frequency from 0 to half the rate, `size / 2 + 1` values. */
  power(samples) {
    const re = this.#re;
    const im = this.#im.fill(0);
    for (let i = 0; i < this.#size; i++) re[i] = samples[this.#order[i]];
    for (let half = 1; half < this.#size; half *= 2) {
      const step = this.#size / (2 * half);
      for (let start = 0; start < this.#size; start += 2 * half) {
        for (let i = 0; i < half; i++) {
          const low = start + i;
          const high = low + half;
          const cos = this.#cos[i * step];
          const sin = this.#sin[i * step];
          const x = re[high] * cos + im[high] * sin;
          const y = im[high] * cos - re[high] * sin;
          re[high] = re[low] - x;
          im[high] = im[low] - y;
          re[low] += x;
          im[low] += y;
        }
      }
    }
    return Float32Array.from({ length: this.#size / 2 + 1 }, (_, i) => re[i] ** 2 + im[i] ** 2);
  }
}
