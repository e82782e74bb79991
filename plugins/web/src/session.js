// A session: it takes samples as they come and returns events, the same for all block sizes.

import { Blocks } from "./blocks.js";
import { compile } from "./engine.js";
import { expect, shown } from "./errors.js";
import { Gate } from "./gate.js";
import { listenerFor } from "./listeners.js";
import { frameS, MAX_PLAN_BYTES, readPlan } from "./plan.js";
import { read } from "./read.js";
import { withRules } from "./rules/changed.js";
import { asSamples } from "./samples.js";

const OPTIONS = ["sampleRate", "vad", "onScores", "postprocess", "spotting", "endpointing", "wasm"];

/** A session of a plan, from its URL, its path (in node) or its bytes; see index.d.ts. */
export async function load(source, options = {}) {
  for (const name of Object.keys(options))
    expect(OPTIONS.includes(name), `no option ${shown(name)}; give one of ${OPTIONS.join(", ")}`);
  expect(
    options.onScores === undefined || typeof options.onScores === "function",
    `onScores=${shown(options.onScores)}; expected a function`,
  );
  const [module, plan, detector] = await Promise.all([
    compile(options.wasm),
    planOf(source),
    options.vad === undefined ? null : planOf(options.vad),
  ]);
  const about = withRules(plan.about, options);
  expect(
    about.decodes || !detector,
    `vad is for recognition; leave it out for a ${shown(about.kind)}`,
  );
  return Session.open(module, { ...plan, about }, detector, options);
}

async function planOf(source) {
  return readPlan(await read(source, MAX_PLAN_BYTES));
}

class Session {
  static async open(module, plan, detector, { sampleRate, onScores }) {
    const session = new Session(), { about } = plan;
    const take = (...step) => session.#take(...step);
    const blocks = (session.#blocks = await Blocks.open(module, plan, sampleRate, take));
    const gate = detector && (await Gate.open(module, detector, blocks.sampleRate, about, blocks.leadS));
    session.#gate = gate;
    session.#listener = listenerFor(about);
    session.#onScores = onScores;
    session.labels = about.labels;
    session.sampleRate = blocks.sampleRate;
    session.frameS = frameS(about);
    session.latencyS = blocks.latencyS + (gate ? gate.held * session.frameS : 0);
    return session;
  }

  scores = null;
  #blocks;
  #gate;
  #listener;
  #onScores;
  #events = [];
  #closed = "";

  /** The events after the next samples. */
  feed(samples) {
    expect(!this.#closed, `this session is ${this.#closed}; load a new one`);
    const x = asSamples(samples);
    return this.#found(() => {
      this.#gate?.feed(x);
      this.#blocks.feed(x);
    });
  }

  /** The remaining events; afterwards the session takes no more samples. */
  finish() {
    expect(!this.#closed, `this session is ${this.#closed}; load a new one`);
    const events = this.#found(() => {
      this.#gate?.finish();
      this.#blocks.finish();
      const { heardS } = this.#blocks, rest = this.#gate?.rest() ?? [];
      if (rest.length) this.#events.push(...this.#listener.step(rest, heardS));
      this.#events.push(...this.#listener.finish(heardS));
    });
    this.#closed = "finished";
    return events;
  }

  #found(work) {
    try {
      work();
    } catch (error) {
      this.#closed = "broken";
      throw error;
    }
    return this.#events.splice(0);
  }

  #take(frames, decidedS) {
    this.scores = frames.at(-1);
    if (this.#onScores) for (const scores of frames) this.#onScores(scores);
    const passed = this.#gate ? this.#gate.pass(frames) : frames;
    if (passed.length) this.#events.push(...this.#listener.step(passed, decidedS));
  }
}
