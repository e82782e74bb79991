// Resampling in front of a plan: speechkit/plans/resample.py in JavaScript.

import { expect, shown } from "./errors.js";
import { FIELDS } from "./plan.js";

const ZEROS = 64;
const STOP_DB = 90;
const BETA = 0.1102 * (STOP_DB - 8.7);
const TRANSITION = (STOP_DB - 8) / (2.285 * 2 * ZEROS * Math.PI);
/** The rates of sound, as in speechkit/limits.py. */
const LOWEST_HZ = 4000, HIGHEST_HZ = 384000;
/** The most input samples that make a whole number of samples at the model's rate. */
const LONGEST_PERIOD = 2000;
const DELAY = 5n, RESAMPLE = 9n, BLOCKS = 35n;
const DEFAULTS = { other: -1, stride: 1, dilation: 1, rate: 1 };
const field = Object.fromEntries(FIELDS.map((name, i) => [name, i]));
const common = (a, b) => (b ? common(b, a % b) : a);

/** The plan for samples at another rate: resampling, perhaps a delay, and its instructions. */
export function atRate(plan, sampleRate = plan.about.sample_rate) {
  const { about } = plan, own = about.sample_rate;
  if (sampleRate === own) return plan;
  expect(
    sampleRate >= LOWEST_HZ && sampleRate <= HIGHEST_HZ,
    `sampleRate=${shown(sampleRate)}; expected ${LOWEST_HZ} to ${HIGHEST_HZ} Hz`,
  );
  expect(
    Number.isInteger(sampleRate) && sampleRate / common(sampleRate, own) <= LONGEST_PERIOD,
    `sampleRate=${shown(sampleRate)} does not fit ${own} Hz; resample the sound to ${own} Hz first`,
  );
  const { filters, taps, stride, rate, left } = phases(sampleRate, own);
  const right = taps - 1 - left, late = Math.floor(right / stride) * rate;
  const wait = (about.stride - (late % about.stride)) % about.stride;
  // how many strides of the net make one stride of the whole plan
  const strides = rate / common(about.stride, rate);
  const samples = (strides * about.stride * stride) / rate;
  const rows = strides * about.stride, front = [];
  front.push(instruction({
    ...{ code: RESAMPLE, input: 0, rows, channels: 1, keep: late / rate * stride + left },
    ...{ filters: plan.weights.length, taps, stride, left, rate },
  }));
  if (wait) front.push(instruction({ code: DELAY, input: 1, rows, channels: 1, keep: wait }));
  const weights = new Float32Array(plan.weights.length + filters.length);
  weights.set(plan.weights);
  weights.set(filters, plan.weights.length);
  return {
    about: {
      ...about,
      sample_rate: sampleRate,
      stride: samples,
      rate: strides * about.rate,
      delay: Math.floor((late + wait) / about.stride) * about.rate + about.delay,
    },
    program: BigInt64Array.from([...front.flat(), ...behind(plan.program, strides, front.length)]),
    weights,
  };
}

function instruction(fields) {
  return FIELDS.map((name) => BigInt(fields[name] ?? DEFAULTS[name] ?? 0));
}

/** The instructions behind the `first` new ones: more rows for each stride, and later values. */
function behind(program, strides, first) {
  const table = program.slice(), n = FIELDS.length;
  for (let at = 0; at < table.length; at += n) {
    table[at + field.rows] *= BigInt(strides);
    for (const value of [at + field.input, at + field.other])
      // −1 means that there is no other value
      if (table[value] >= 0n) table[value] += BigInt(first);
    // what stands in a body has numbers of its own
    const left = Number(table[at + field.left]);
    if (table[at + field.code] === BLOCKS && left > 0) at += left * n;
  }
  return table;
}

/** The filters of speechkit.frontend.Resample `[rate, taps]`, each row's sum 1. */
function phases(rateIn, rateOut) {
  const shared = common(rateIn, rateOut), stride = rateIn / shared, rate = rateOut / shared;
  const left = Math.ceil(ZEROS * Math.max(1, stride / rate));
  const last = Math.floor(((rate - 1) * stride) / rate), taps = 2 * left + 1 + last;
  const low = Math.min(1, rate / stride), filters = new Float32Array(rate * taps);
  for (let row = 0; row < rate; ++row) {
    const h = Array.from({ length: taps }, (_, tap) => {
      const tau = (row * stride) / rate - (tap - left), part = (low * tau) / ZEROS;
      const inside = 1 - part * part;
      return inside < 0 ? 0 : sinc((1 - TRANSITION / 2) * low * tau) * bessel(BETA * Math.sqrt(inside));
    });
    const sum = h.reduce((a, b) => a + b, 0);
    filters.set(h.map((x) => x / sum), row * taps);
  }
  return { filters, taps, stride, rate, left };
}

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

/** The modified Bessel function I₀, Σ ((x/2)^k / k!)². */
function bessel(x) {
  let sum = 1, term = 1;
  for (let k = 1; term > sum * 1e-18; ++k) sum += term *= (x / (2 * k)) ** 2;
  return sum;
}
