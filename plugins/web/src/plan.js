// A plan and its file: speechkit/plans/plan.py in JavaScript. Files are untrusted.

import { expect, shown } from "./errors.js";

/** The largest plan that is read. */
export const MAX_PLAN_BYTES = 128 * 2 ** 20;
const MAX_HEADER_BYTES = 8 * 2 ** 20;
const MAX_INSTRUCTIONS = 65_536;
const MAX_LABELS = 65_536;
const MAX_COUNT = 1_000_000_000;
const FORMAT = 1;
/** The numbers of an instruction (FIELDS of speechkit/plans/program.py). */
export const FIELDS = [
  ..."code input other rows channels keep taps stride dilation left".split(" "),
  ..."rate size activation precision weights filters bias numbers".split(" "),
];
const BLOCK = 256;
const WIDTHS = { I64: 8, F32: 4, F16: 2, U8: 1 };

/** A plan `{about, program, weights}` from the bytes of its file. */
export function readPlan(bytes) {
  const { header, data } = split(bytes);
  const tensor = (name, dtype, dims) => read(header, data, name, dtype, dims);
  const program = tensor("program", "I64", [MAX_INSTRUCTIONS, FIELDS.length]);
  const rest = tensor("weights", "F32", [Infinity]);
  const weights = "halves" in header
    ? joined(rest, tensor("halves", "F16", [Infinity, BLOCK]), tensor("marks", "U8", [Infinity]))
    : rest;
  return { about: aboutOf(header), program, weights };
}

function split(bytes) {
  expect(bytes.length >= 8, `a file of ${bytes.length} bytes is no plan`);
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  expect(
    length <= Math.min(MAX_HEADER_BYTES, bytes.length - 8),
    `this file is no plan, or cut off; write one with: speechkit export MODEL --format native`,
  );
  const header = parsed(new TextDecoder().decode(bytes.subarray(8, 8 + length)), "header");
  return { header, data: bytes.subarray(8 + length) };
}

function parsed(text, what) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    // refused below
  }
  expect(isObject(value), `the ${what} of this plan is no JSON object; export the model again`);
  return value;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** The numbers of a tensor, whose first dimension has a largest size and the others an exact one. */
function read(header, data, name, dtype, dims) {
  const { dtype: type, shape, data_offsets: offsets } = header[name] ?? {};
  const fits = type === dtype
    && Array.isArray(shape) && shape.length === dims.length && shape.every(isCount)
    && shape[0] <= dims[0] && shape.slice(1).every((size, i) => size === dims[i + 1])
    && Array.isArray(offsets) && offsets.length === 2 && offsets.every(isCount)
    && offsets[1] <= data.length
    && offsets[1] - offsets[0] === shape.reduce((a, b) => a * b, WIDTHS[dtype]);
  expect(
    fits,
    `'${name}' of this plan is ${shown(type)} [${shown(shape)}], expected ${dtype} with `
      + `${dims.length} dimensions; export the model again`,
  );
  // a copy, as the file's numbers may not be aligned
  const own = data.slice(...offsets).buffer;
  const Numbers = { I64: BigInt64Array, F32: Float32Array, F16: Uint16Array, U8: Uint8Array }[dtype];
  return new Numbers(own);
}

const isCount = (x) => Number.isInteger(x) && x >= 0 && x <= MAX_PLAN_BYTES;

/** The weights of which some blocks are stored in half precision (speechkit/plans/halves.py). */
function joined(rest, halves, marks) {
  const count = rest.length + halves.length;
  const exact = marks.reduce((sum, mark) => sum + (mark === 1 ? 1 : 0), 0);
  expect(
    marks.length === Math.floor(count / BLOCK) && exact * BLOCK === halves.length,
    "'halves', 'marks' and 'weights' of this plan do not fit together; export the model again",
  );
  const weights = new Float32Array(count);
  let half = 0, full = 0;
  marks.forEach((mark, block) => {
    const at = block * BLOCK;
    if (mark === 1) for (let i = 0; i < BLOCK; ++i) weights[at + i] = single(halves[half++]);
    else weights.set(rest.subarray(full, (full += BLOCK)), at);
  });
  weights.set(rest.subarray(full), marks.length * BLOCK);
  return weights;
}

/** The number of a float16. */
function single(bits) {
  const exponent = (bits >> 10) & 31, part = bits & 1023, sign = bits >> 15 ? -1 : 1;
  if (exponent === 31) return part ? NaN : sign * Infinity;
  return sign * (exponent ? (1 + part / 1024) * 2 ** (exponent - 15) : part * 2 ** -24);
}

/** What a session must know (speechkit.plans.about.About), with its times checked. */
function aboutOf(header) {
  const text = header.__metadata__?.speechkit;
  expect(typeof text === "string", "this file is no plan: it has no property 'speechkit'");
  const { format, about } = parsed(text, "description");
  expect(format === FORMAT, `this plan has format ${shown(format)}; this version reads ${FORMAT}`);
  expect(isObject(about), "the description of this plan has no 'about'; export the model again");
  const within = (name, least, most) => {
    const value = about[name];
    expect(
      typeof value === "number" && value >= least && value <= most,
      `${name}=${shown(value)} in this plan; expected a number from ${least} to ${most}`,
    );
  };
  within("sample_rate", 4_000, 384_000);
  within("stride", 1, MAX_COUNT);
  within("rate", 1, 65_536);
  within("delay", 0, MAX_COUNT);
  within("block_s", 0.001, 600);
  for (const name of ["sample_rate", "stride", "rate", "delay"])
    expect(Number.isInteger(about[name]), `${name}=${about[name]} in this plan is no whole number`);
  const { labels } = about;
  expect(
    Array.isArray(labels) && labels.length >= 1 && labels.length <= MAX_LABELS
      && labels.every((label) => typeof label === "string"),
    `the labels of this plan are not from 1 to ${MAX_LABELS} texts; export the model again`,
  );
  const { confidence = [1, 0] } = about;
  expect(
    Array.isArray(confidence) && confidence.length === 2 && confidence.every(Number.isFinite),
    `confidence=${shown(confidence)} in this plan; expected two numbers`,
  );
  return { ...about, confidence };
}

/** The number of scores in a frame. */
export const classes = (about) => about.labels.length + (about.decodes ? 1 : 0);

/** The time from one frame of scores to the next. */
export const frameS = (about) => about.stride / about.rate / about.sample_rate;

/** Whether the model detects speech. */
export const detects = (about) => about.verb === "detect" || isObject(about.postprocess);
