// A speech detector before a recogniser: speechkit/streaming/gate.py and speech.py in JavaScript.

import { Blocks } from "./blocks.js";
import { expect } from "./errors.js";
import { listenerFor } from "./listeners.js";
import { detects, frameS } from "./plan.js";
import { withRules } from "./rules/changed.js";
import { late } from "./rules/vad.js";

/** Lower than a detector's own thresholds, which miss quiet speech. */
const THRESHOLDS = { onset: 0.2, offset: 0.1 };
/** Segments of speech are extended by this much on both sides. */
const PAD_MS = 150;
/** The log-probability of a label outside speech. */
const NEVER = -1000;

/** Sets the log-probabilities of a recogniser to the blank outside speech, once that is known. */
export class Gate {
  /** The gate of a detector for scores of `about` that arrive `leadS` seconds late. */
  static async open(module, detector, sampleRate, about, leadS) {
    expect(detects(detector.about), `vad: a plan to ${detector.about.verb} does not detect speech`);
    const gate = new Gate(), own = detector.about.postprocess ?? {};
    const found = withRules(
      { ...detector.about, postprocess: own },
      {
        postprocess: {
          ...THRESHOLDS,
          pad_onset_ms: (own.pad_onset_ms ?? 0) + PAD_MS,
          pad_offset_ms: (own.pad_offset_ms ?? 0) + PAD_MS,
          max_speech_s: null,
        },
      },
    );
    const listener = (gate.#listener = listenerFor(found));
    gate.#frameS = frameS(about);
    gate.#blocks = await Blocks.open(module, { ...detector, about: found }, sampleRate, (...step) =>
      gate.#note(listener.step(...step)),
    );
    const waitS = gate.#blocks.latencyS + late(listener.rule) * listener.frameS;
    gate.held = Math.max(0, Math.ceil(Number(((waitS - leadS) / gate.#frameS).toFixed(6))));
    return gate;
  }

  #blocks;
  #listener;
  #frameS;
  #edges = [];
  #waiting = [];
  #passed = 0;

  feed(samples) {
    this.#blocks.feed(samples);
  }

  /** Ends the sound; all segments are known afterwards. */
  finish() {
    this.#blocks.finish();
    this.#note(this.#listener.finish(this.#blocks.heardS));
  }

  /** Takes the scores of the next frames; returns those that are decided. */
  pass(frames) {
    this.#waiting.push(...frames);
    return this.#blanked(Math.max(0, this.#waiting.length - this.held));
  }

  /** The scores of the remaining frames, after `finish`. */
  rest() {
    return this.#blanked(this.#waiting.length);
  }

  #note(events) {
    for (const event of events) this.#edges.push(event.at_s);
  }

  #blanked(count) {
    return this.#waiting.splice(0, count).map((scores) => {
      // edges of speech are never at the middle of a frame
      const middleS = (this.#passed++ + 0.5) * this.#frameS;
      while (this.#edges.length > 1 && this.#edges[1] <= middleS) this.#edges.splice(0, 2);
      return this.#edges[0] <= middleS ? scores : scores.map((_, i) => (i < scores.length - 1 ? NEVER : 0));
    });
  }
}
