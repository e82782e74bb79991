// Sound in pieces of any size, computed block by block.

import { Engine } from "./engine.js";
import { expect } from "./errors.js";
import { whole } from "./numbers.js";
import { classes, frameS } from "./plan.js";
import { atRate } from "./resample.js";

/** Gives `take(frames, decidedS)` the scores of the valid frames of each block. */
export class Blocks {
  /** Blocks of a plan for samples at a rate. */
  static async open(module, plan, sampleRate, take) {
    const blocks = new Blocks(), net = atRate(plan, sampleRate);
    const { stride, rate, delay, block_s, sample_rate } = net.about;
    const strides = Math.max(1, whole((block_s * sample_rate) / stride));
    blocks.sampleRate = sample_rate;
    /** How late a frame's scores are, without and with the wait for a whole block. */
    blocks.leadS = delay * frameS(plan.about);
    blocks.latencyS = (delay + strides * rate) * frameS(plan.about);
    blocks.#toEnd = Math.floor((delay * stride) / rate);
    blocks.#take = take;
    const engine = (blocks.#engine = await Engine.open(module, net, strides));
    const expected = [strides * rate, classes(plan.about)];
    expect(
      engine.rowsOut === expected[0] && engine.channelsOut === expected[1],
      `this plan gives ${engine.channelsOut} scores for ${engine.rowsOut} frames of a block, and is `
        + `about ${expected[1]} for ${expected[0]}; export the model again`,
    );
    return blocks;
  }

  #engine;
  #take;
  #toEnd;
  #filled = 0;
  #given = 0;

  /** The seconds of sound so far. */
  get heardS() {
    return this.#given / this.sampleRate;
  }

  feed(samples) {
    const size = this.#engine.rowsIn;
    for (let at = 0; at < samples.length; ) {
      const part = samples.subarray(at, at + size - this.#filled);
      this.#engine.block.set(part, this.#filled);
      at += part.length;
      this.#filled += part.length;
      this.#given += part.length;
      if (this.#filled === size) this.#step();
    }
  }

  /** Computes the frames that are late; no more samples come. */
  finish() {
    const size = this.#engine.rowsIn;
    const owed = Math.max(1, Math.ceil((this.#filled + this.#toEnd) / size));
    for (let block = 0; block < owed; ++block) {
      this.#engine.block.fill(0, this.#filled);
      this.#step();
    }
  }

  #step() {
    const frames = this.#engine.step(this.#filled);
    this.#filled = 0;
    if (frames.length) this.#take(frames, this.heardS);
  }
}
