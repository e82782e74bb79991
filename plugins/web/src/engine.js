// The engine of speechkit/plans/speechkit.h, compiled to WebAssembly: one instance runs one session.

import { expect, SpeechkitError } from "./errors.js";
import { read } from "./read.js";

const MODULE = new URL("../dist/speechkit.wasm", import.meta.url);
const MAX_MODULE_BYTES = 16 * 2 ** 20;
const ERROR_BYTES = 300;
const SIZES = 7;
const compiled = new Map();

/** The module from its address, its bytes, or as it is; one from an address is compiled once. */
export async function compile(source = MODULE) {
  if (source instanceof WebAssembly.Module) return source;
  const key = String(source);
  const byAddress = typeof source === "string" || source instanceof URL;
  if (byAddress && compiled.has(key)) return compiled.get(key);
  const module = read(source, MAX_MODULE_BYTES).then(async (bytes) => {
    try {
      return await WebAssembly.compile(bytes);
    } catch (error) {
      throw new SpeechkitError(`the WebAssembly module does not run here: ${error.message}`);
    }
  });
  if (byAddress) {
    compiled.set(key, module);
    module.catch(() => compiled.delete(key));
  }
  return module;
}

/** A session's state in the engine: `step` computes a block of `rowsIn` samples. */
export class Engine {
  /** Lays out a plan for blocks of `strides` strides. */
  static async open(module, plan, strides) {
    const engine = new Engine();
    engine.#exports = (await WebAssembly.instantiate(module, engine.#imports())).exports;
    engine.#exports._initialize();
    engine.#layOut(plan, strides);
    return engine;
  }

  #exports;
  #arguments;
  #at;

  #imports() {
    const stop = () => {
      throw new SpeechkitError("the engine has stopped; load the plan again");
    };
    return {
      env: { emscripten_notify_memory_growth: () => this.#view() },
      wasi_snapshot_preview1: { proc_exit: stop },
    };
  }

  #layOut({ about, program, weights }, strides) {
    const run = this.#exports;
    const table = this.#copy(program), numbers = this.#copy(weights);
    const error = this.#room(ERROR_BYTES), sizes = this.#room(8 * SIZES);
    const plan = run.speechkit_open(
      ...[table, BigInt(program.length / 18), numbers, BigInt(weights.length)],
      ...[BigInt(about.stride), 1n, BigInt(strides), 0, error, BigInt(ERROR_BYTES)],
    );
    expect(plan, `the plan is invalid: ${this.#text(error)}; export it anew`);
    run.free(table);
    run.free(numbers);
    run.speechkit_get_sizes(plan, sizes);
    const found = new BigInt64Array(run.memory.buffer, sizes, SIZES);
    const [rowsIn, , rowsOut, channelsOut, state, scratch] = Array.from(found, Number);
    Object.assign(this, { rowsIn, rowsOut, channelsOut });
    const [states, work, real, x, y, valid] = [
      ...[4 * state, 4 * scratch, 8, 4 * rowsIn, 4 * rowsOut * channelsOut, rowsOut],
    ].map((bytes) => this.#room(bytes));
    this.#at = { real, x, y, valid };
    this.#arguments = [plan, states, work, 1n, 1n, 0, real, x, BigInt(rowsIn), y, valid, 0];
    this.#view();
    run.speechkit_start(plan, states);
  }

  /** Computes the block in `block`, of which `real` samples were given; returns the valid frames. */
  step(real) {
    this.real[0] = BigInt(real);
    this.#exports.speechkit_step(...this.#arguments);
    const frames = [];
    for (let row = 0, n = this.channelsOut; row < this.rowsOut; ++row)
      if (this.valid[row]) frames.push(this.y.slice(row * n, row * n + n));
    return frames;
  }

  /** Memory moves when it grows. */
  #view() {
    if (!this.#at) return;
    const { buffer } = this.#exports.memory, { real, x, y, valid } = this.#at;
    this.block = new Float32Array(buffer, x, this.rowsIn);
    this.real = new BigInt64Array(buffer, real, 1);
    this.y = new Float32Array(buffer, y, this.rowsOut * this.channelsOut);
    this.valid = new Uint8Array(buffer, valid, this.rowsOut);
  }

  #room(bytes) {
    const at = this.#exports.malloc(bytes);
    expect(at, `no memory for ${bytes} bytes of this plan; use a smaller model`);
    return at;
  }

  #copy(array) {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    const at = this.#room(bytes.length || 1);
    new Uint8Array(this.#exports.memory.buffer, at, bytes.length).set(bytes);
    return at;
  }

  #text(at) {
    const bytes = new Uint8Array(this.#exports.memory.buffer, at, ERROR_BYTES);
    return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
  }
}
