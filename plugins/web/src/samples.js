// Samples as speechkit takes them (speechkit/data/samples.py).

import { expect, shown } from "./errors.js";

/** Samples above it have another full scale and are refused; up to it they are clipped to ±1. */
const LOUDEST = 2;

/** Mono samples in [-1, 1] from Float32Array or Int16Array. */
export function asSamples(given) {
  if (given instanceof Int16Array) return Float32Array.from(given, (x) => x / 32768);
  expect(
    given instanceof Float32Array,
    `cannot read ${shown(Object.prototype.toString.call(given))} as samples; give a Float32Array `
      + "in [-1, 1] or an Int16Array",
  );
  let loudest = 0;
  for (let i = 0; i < given.length; ++i) {
    const size = Math.abs(given[i]);
    // a NaN makes the comparison false
    if (!(size <= LOUDEST))
      expect(false, `sample ${i} is ${given[i]}, expected [-1, 1]; divide by the full scale`);
    if (size > loudest) loudest = size;
  }
  return loudest > 1 ? given.map((x) => Math.min(1, Math.max(-1, x))) : given;
}
